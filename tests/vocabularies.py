"""Small tokenizers of every kind that encoder-decoder models use, trained on a few lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from conftest import SHARED_DATA, T5_TINY
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

LINES = [
    "the quick brown fox jumps over the lazy dog, and asks: why?",
    "add one: 4 7 1 9. yes or no (1 + 1 = 2)",
    "le garçon a mangé une pomme à l'école, où il était",
    "das Mädchen grüßt schön; über allem",
    "мама мыла раму. да или нет",
    "你好世界。我们去学校",
    "tiếng việt rất đẹp",
] * 20
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ENDS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _sentencepiece(folder: Path, kind: str, settings: dict[str, Any], model: str) -> Any:
    """A folder as the hub has it: the model of sentencepiece, and the settings of a class."""
    folder.mkdir()
    (folder / "lines.txt").write_text("\n".join(LINES))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"), model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=300, hard_vocab_limit=False, model_type=kind, character_coverage=1.0, unk_id=0,
        bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    named = {**ENDS, "sep_token": "</s>", "cls_token": "<s>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model}))
    return AutoTokenizer.from_pretrained(folder)


def mbart50(folder: Path) -> Any:
    settings = {"src_lang": "en_XX", "tgt_lang": "fr_XX", "tokenizer_class": "MBart50Tokenizer"}
    settings |= {"model_max_length": 77, "truncation_side": "left"}
    return _sentencepiece(folder, "unigram", settings, "mbart")


def nllb(folder: Path) -> Any:
    settings: dict[str, Any] = {
        "src_lang": "eng_Latn",
        "tgt_lang": "fra_Latn",
        "tokenizer_class": "NllbTokenizer",
    }
    settings["additional_special_tokens"] = ["eng_Latn", "fra_Latn", "deu_Latn"]
    return _sentencepiece(folder, "bpe", settings, "m2m_100")


def _trained(folder: Path, parts: dict[str, Any], trainer: Any, **settings: Any) -> Any:
    """A tokenizer of these parts, saved and loaded as a plain fast one."""
    tokenizer = Tokenizer(parts.pop("model"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(LINES, trainer)
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[end])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ENDS, **settings).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def byte_level(folder: Path, normalizer: Any = None, space: bool = False) -> Any:
    """BART's; with a normalizer that composes, as newer ones have; with a space before each text,
    as BlenderBot's."""
    parts = {
        "model": models.BPE(unk_token="<unk>"),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=space),
        "decoder": decoders.ByteLevel(),
    }
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(folder, parts, trainer)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def gemma(folder: Path) -> Any:
    """Spaces are marks in the vocabulary, and what it lacks is written in bytes."""
    parts = {
        "model": models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        "normalizer": normalizers.Replace(" ", "▁"),
        "pre_tokenizer": pre_tokenizers.Split("▁", "merged_with_next"),
        "decoder": decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        ),
    }
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *BYTES], show_progress=False
    )
    return _trained(folder, parts, trainer)


def llama(folder: Path, scheme: str | None = None) -> Any:
    """As gemma, but a mark stands before a text: by its normalizer, or by its pre-tokenizer."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    marked = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = {
        "model": models.BPE(unk_token="<unk>", byte_fallback=scheme is None, fuse_unk=True),
        "normalizer": None if scheme else marked,
        "decoder": decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]),
    }
    if scheme:
        parts["pre_tokenizer"] = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    special = SPECIAL if scheme else [*SPECIAL, *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    return _trained(folder, parts, trainer)


def wordpiece(folder: Path) -> Any:
    """BERT's, which writes small letters."""
    parts = {
        "model": models.WordPiece(unk_token="<unk>"),
        "normalizer": normalizers.BertNormalizer(),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return _trained(folder, parts, trainer, clean_up_tokenization_spaces=True)


def t5(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(T5_TINY)


def real_t5(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")


KINDS: dict[str, Callable[[Path], Any]] = {
    "t5": t5,
    "mbart50": mbart50,
    "nllb": nllb,
    "byte_level": byte_level,
    "byte_level_nfc": lambda folder: byte_level(folder, normalizers.NFC(), space=True),
    "byte_level_nfd": lambda folder: byte_level(folder, normalizers.NFD()),
    "gemma": gemma,
    "llama": llama,
    "metaspace": lambda folder: llama(folder, "first"),
    "wordpiece": wordpiece,
} | ({"real_t5": real_t5} if SHARED_DATA.is_dir() else {})
