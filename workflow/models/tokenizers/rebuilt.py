"""Find tokenizers that transformers 5 rebuilds in another way than their file describes.

Version 5 takes only the vocabulary of tokenizer.json for many classes, and splits and normalizes
texts as the class does. GPT2Tokenizer, which SmolLM2 and StarCoder 2 name, ignores that numbers are
split into digits; DebertaV2Tokenizer ignores the normalization of characters. Version 4 read all of
the file, and so the models were trained.
"""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, TokenizersBackend

_PROBES = (
    " Translate it: yes, no. The 1,234.5 quick brown foxes (don't) jump — over; lazy dogs?",
    " Çà et là, l'été est passé; Ünïcödé, naïveté, Straße, ñandú, Đà Nẵng",
    " быстрая лиса σοφός שלום سلام नमस्ते 狐狸跳过 こんにちは 안녕하세요",
    " def f(x):\n\treturn {x: [1,  2]} \\ ~ ^ ` ½ ① 🙂",
)
"""Texts that start with a space: whether one is added is a setting of its own."""


def is_rebuilt_differently(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Whether a folder's tokenizer.json gives other ids than the tokenizer made from it.

    False for BERT's normalizer, whose settings in tokenizer_config.json have precedence, and for
    tokenizers with languages, whose ids depend on them.
    """
    file = folder / "tokenizer.json"
    rebuilt = isinstance(tokenizer, TokenizersBackend) and type(tokenizer) is not TokenizersBackend
    if not rebuilt or not file.is_file() or hasattr(tokenizer, "src_lang"):
        return False
    filed = Tokenizer.from_file(str(file))
    if "BertNormalizer" in repr(filed.normalizer):
        return False
    filed.no_truncation()
    return any(
        filed.encode(probe, add_special_tokens=False).ids
        != tokenizer(probe, add_special_tokens=False)["input_ids"]
        for probe in _PROBES
    )
