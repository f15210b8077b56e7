"""The models in the repository are those of scripts/make_tiny_models.py, like real ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, ROOT, T5_TINY
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

TEXTS = ["Is this correct? yes", "no", "add one: 1 9 9", "  Ünï 🙂 <{}>\\~^`\n\ttwo "]


def test_remaking_gives_the_same_models(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_tiny_models.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True)
    for folder in (T5_TINY, GPT_TINY, BERT_TINY):
        made = tmp_path / folder.name
        names = sorted(file.name for file in folder.iterdir())
        assert sorted(file.name for file in made.iterdir()) == names
        for name in set(names) - {"model.safetensors"}:
            assert (made / name).read_bytes() == (folder / name).read_bytes(), made / name
        # Random numbers may differ in the last bit on another kind of processor.
        weights = [load_file(place / "model.safetensors") for place in (made, folder)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("folder", [GPT_TINY, BERT_TINY], ids=lambda folder: folder.name)
def test_embedded_models_are_small(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6


def test_gpt_tiny_has_the_tokenizer_of_gpt2() -> None:
    """Spaces belong to words, no text is lost, the last token ends a text, and nothing pads."""
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    assert [tokenizer.tokenize(text) for text in ("yes", " yes", "no", " no")] == [
        ["yes"], ["Ġyes"], ["no"], ["Ġno"]
    ]  # fmt: skip
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (999, 999)
    assert tokenizer.pad_token is None
    assert len(tokenizer) == 1000
    assert json.loads((GPT_TINY / "vocab.json").read_text()) == tokenizer.get_vocab()


def test_gpt_tiny_is_a_causal_model() -> None:
    model, missing = load(AutoModelForCausalLM, GPT_TINY)
    assert type(model).__name__ == "GPT2LMHeadModel" and not missing
    assert model.num_parameters() < 1_200_000
    ids = (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id)
    assert ids == (999, 999, None)
    assert model(torch.tensor([[5] * 512])).logits.shape == (1, 512, 1000)


def test_bert_tiny_has_the_tokenizer_of_bert() -> None:
    """Lower case, pieces of words, [CLS] and [SEP] around a text."""
    tokenizer = AutoTokenizer.from_pretrained(BERT_TINY)
    ids = tokenizer("Hello World, YES no")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "[CLS]", "he", "##ll", "##o", "world", ",", "yes", "no", "[SEP]"
    ]  # fmt: skip
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world, yes no"
    assert tokenizer.convert_ids_to_tokens(range(5)) == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    ]  # fmt: skip
    assert tokenizer.unk_token_id not in tokenizer("".join(map(chr, range(32, 127))))["input_ids"]
    vocabulary = (BERT_TINY / "vocab.txt").read_text().splitlines()
    assert vocabulary == tokenizer.convert_ids_to_tokens(range(1000))


def test_bert_tiny_has_the_weights_of_bert() -> None:
    """Body, pooler and the heads of pretraining; a head that classifies is new."""
    model, missing = load(AutoModelForMaskedLM, BERT_TINY)
    assert type(model).__name__ == "BertForMaskedLM" and not missing
    assert model.config.architectures == ["BertForMaskedLM"]
    assert model.num_parameters() < 1_200_000
    assert model(torch.tensor([[5] * 512])).logits.shape == (1, 512, 1000)
    model, missing = load(AutoModelForSequenceClassification, BERT_TINY)
    assert missing == {"classifier.weight", "classifier.bias"}
    assert model(torch.tensor([[2, 5, 3]])).logits.shape == (1, 2)


def load(kind: Any, folder: Path) -> tuple[Any, set[str]]:
    """A model, and the names of its weights that the folder lacks."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    return model.eval(), set(info["missing_keys"])
