"""Tiny random models of families other than T5, each with its family's kind of tokenizer."""

import json
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import sentencepiece
import torch
from conftest import BERT_TINY, GPT_TINY, ROOT, T5_TINY
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MarianMTModel,
    T5Gemma2Config,
    T5GemmaConfig,
)

from workflow.core.errors import BadInput
from workflow.models.configuration import set_dropout, small_configuration
from workflow.models.families import family_of
from workflow.runs.mount import Mount

IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": 1024}
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
BART_SIZES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
OWN_HEAD = {"tie_word_embeddings": False}
SWITCH = {
    "num_experts": 2,
    "num_decoder_layers": 1,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}
LED = {
    "attention_window": 16, "max_encoder_position_embeddings": 512,
    "max_decoder_position_embeddings": 512, "init_std": 0.3,
}  # fmt: skip
POSITIONS = {"max_position_embeddings": 1024}
WITH_T5_TOKENIZER: dict[str, dict[str, Any]] = {
    "mt5": T5_SIZES | OWN_HEAD,
    "umt5": T5_SIZES | OWN_HEAD,
    "longt5": T5_SIZES | OWN_HEAD,
    "switch_transformers": T5_SIZES | SWITCH,
    "bart": BART_SIZES | POSITIONS | {"bos_token_id": 0, "forced_eos_token_id": 1},
    "pegasus": BART_SIZES | POSITIONS | {"bos_token_id": 0, "forced_eos_token_id": 1},
    "blenderbot-small": BART_SIZES | POSITIONS,
    "led": BART_SIZES | LED,
}
MULTILINGUAL = ("mbart50", "mbart25", "nllb", "m2m100")
_M2M_LANGUAGES = 100
_MADE_UP = 8


def make_family(family: str, folder: Path) -> Any:
    """A random model of a type that is given t5-tiny's tokenizer."""
    sizes = WITH_T5_TOKENIZER[family]
    model = _random_model(CONFIG_MAPPING[family](**IDS, **sizes))
    if "tie_word_embeddings" in sizes:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(1024, 32))
    model.save_pretrained(folder)
    change_settings(folder / "config.json", {k: v for k, v in sizes.items() if k in OWN_HEAD})
    add_tokenizer(folder)
    return model


GEMMA_SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 1024, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
VISION_SIZES = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


def make_t5gemma(folder: Path) -> None:
    """T5Gemma, whose configuration has a part for the encoder and one for the decoder."""
    _random_model(
        T5GemmaConfig(encoder=GEMMA_SIZES, decoder=GEMMA_SIZES, vocab_size=1024)
    ).save_pretrained(folder)
    add_tokenizer(folder)


def make_t5gemma2(folder: Path) -> None:
    """T5Gemma 2, whose encoder also has parts for text and images."""
    encoder = {"text_config": GEMMA_SIZES, "vision_config": VISION_SIZES, "mm_tokens_per_image": 4}
    ids = {"image_token_index": 1021, "eoi_token_index": 1022, "vocab_size": 1024}
    config = T5Gemma2Config(encoder=encoder, decoder=GEMMA_SIZES, **ids)
    _random_model(config).save_pretrained(folder)
    add_tokenizer(folder)


def make_byt5(folder: Path) -> None:
    """ByT5, which has no file of a vocabulary."""
    sizes = T5_SIZES | OWN_HEAD | {"feed_forward_proj": "gated-gelu"}
    model = _random_model(CONFIG_MAPPING["t5"](**(IDS | {"vocab_size": 384}), **sizes))
    model.lm_head.weight = torch.nn.Parameter(torch.randn(384, 32))
    model.save_pretrained(folder)
    change_settings(folder / "config.json", {"tokenizer_class": "ByT5Tokenizer"} | OWN_HEAD)
    names = {"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def make_marian(folder: Path) -> None:
    """Marian, whose padding would win: its logit is always 0, all others are below."""
    folder.mkdir(parents=True)
    for name in ("source.spm", "target.spm"):
        shutil.copy(_pieces("unigram"), folder / name)
    known = sentencepiece.SentencePieceProcessor(model_file=str(_pieces("unigram")))
    pieces = [known.id_to_piece(i) for i in range(3, known.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    pad = vocabulary["<pad>"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    names = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "fr"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    config = CONFIG_MAPPING["marian"](
        **BART_SIZES, **POSITIONS, vocab_size=pad + 1, pad_token_id=pad, eos_token_id=0,
        bos_token_id=0, decoder_start_token_id=pad, static_position_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MarianMTModel(config)
    with torch.no_grad():
        model.model.shared.weight.normal_(0, 1)[pad] = 0
        model.final_logits_bias.fill_(-200)[:, pad] = 0
    model.save_pretrained(folder)
    settings = {"bad_words_ids": [[pad]], "forced_eos_token_id": 0, "num_beams": 4}
    change_settings(folder / "generation_config.json", settings)


def make_multilingual(kind: str, folder: Path, **languages: str) -> None:
    """A model whose tokenizer writes the codes of languages, which its folder may name."""
    folder.mkdir(parents=True)
    pieces = _pieces("bpe" if kind == "nllb" else "unigram")
    shutil.copy(pieces, folder / "sentencepiece.bpe.model")
    classes = {"mbart50": "MBart50", "mbart25": "MBart", "nllb": "Nllb", "m2m100": "M2M100"}
    names = {"tokenizer_class": f"{classes[kind]}Tokenizer", **languages}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    model_type = "mbart" if kind.startswith("mbart") else "m2m_100"
    if kind == "m2m100":
        known = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
        learned = [known.id_to_piece(i) for i in range(3, known.get_piece_size())]
        vocabulary = {p: i for i, p in enumerate(["<s>", "<pad>", "</s>", "<unk>", *learned])}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        size = len(vocabulary) + _M2M_LANGUAGES + _MADE_UP
    else:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        size = len(AutoTokenizer.from_pretrained(folder)) + 250
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "vocab_size": size}
    if kind != "mbart25":
        ids["decoder_start_token_id"] = 2
    config = CONFIG_MAPPING[model_type](**BART_SIZES, **POSITIONS, **ids)
    _random_model(config).save_pretrained(folder)
    if kind == "mbart25":
        for name in ("config.json", "generation_config.json"):
            change_settings(folder / name, {"decoder_start_token_id": None})


@cache
def _pieces(kind: str) -> Path:
    """A SentencePiece model of the project's own license, which does not change."""
    folder = Path(mkdtemp())
    sentencepiece.SentencePieceTrainer.train(
        input=str(ROOT / "LICENSE"), model_prefix=str(folder / kind), vocab_size=500,
        model_type=kind, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    return folder / f"{kind}.model"


def _random_model(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def add_tokenizer(folder: Path, source: Path = T5_TINY) -> None:
    """Put the files of a model's tokenizer into a folder."""
    for file in source.iterdir():
        if file.name not in ("model.safetensors", "config.json", "generation_config.json"):
            shutil.copy(file, folder)


def add_one_stack(mount: Mount) -> None:
    """Put gpt-tiny and bert-tiny among the models, as `gpt` and `bert`."""
    for name, folder in (("gpt", GPT_TINY), ("bert", BERT_TINY)):
        (mount.models / name).symlink_to(folder)


def make_one_stack(kind: str, folder: Path) -> None:
    """A decoder-only model or an encoder, with the tokenizer of gpt-tiny or bert-tiny."""
    model = make_small(kind, vocab_size=1000)
    if family_of(model.config).generates:
        model.generation_config.eos_token_id = 999
        model.save_pretrained(folder)
        add_tokenizer(folder, GPT_TINY)
    else:
        model.save_pretrained(folder)
        add_tokenizer(folder, BERT_TINY)


def make_small(kind: str, **changes: Any) -> Any:
    """A small random model without dropout; its sliding windows are shorter than most texts."""
    config = small_configuration(CONFIG_MAPPING[kind](**changes), window=12)
    if getattr(config, "sliding_window", None):
        config.sliding_window = 8
    if (config.pad_token_id or 0) >= config.vocab_size:
        config.pad_token_id = 0
    with suppress(BadInput):  # some have no dropout
        set_dropout(config, 0)
    torch.manual_seed(0)
    model = family_of(config).model_class(config)._from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model


def change_settings(path: Path, values: dict[str, Any]) -> None:
    """Change settings in a JSON file; None removes one."""
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))
