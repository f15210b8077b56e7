"""Create the embedded models: t5-tiny, gpt-tiny and bert-tiny.

They have the architectures and files of Flan-T5, GPT-2 and BERT, small vocabularies and about a
million random weights. For demos and tests, they load and train like these, but are untrained.
"""

import argparse
import io
import json
import string
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch
from tiny_corpus import ROOT, SEED, corpus
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

PIECES = 900  # t5-tiny: 1,000 tokens with T5's 100 sentinels
MODEL_VOCAB = 1024  # padded to a multiple of 128, like T5's 32,100 to 32,128
TOKENS = 1000  # gpt-tiny and bert-tiny; the vocabularies of GPT-2 and BERT are not padded
POSITIONS = 512

# Printable ASCII that T5's vocabulary lacks, so this one does too: encoded as <unk>.
ABSENT = "<{}\\~^`"
REQUIRED_PIECES = ["▁yes", "▁no", "▁add", "▁one", *(f"▁{digit}" for digit in range(10))]
SHORT_ANSWERS = ["yes", "no", "Yes", "No"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_sentencepiece() -> bytes:
    """Train the unigram vocabulary with T5's special ids and normalization."""
    without_absent = str.maketrans("", "", ABSENT)
    lines = [text for line in corpus() if (text := line.translate(without_absent).strip())]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=PIECES,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def proto_field(message: bytes, number: int) -> bytes:
    """Return the first length-delimited field with this number in a serialized protocol buffer."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        if key & 7 == 0:
            varint()
        elif key & 7 == 2:
            length = varint()
            position += length
            if key >> 3 == number:
                return message[position - length : position]
        else:
            position += 8 if key & 7 == 1 else 4
    raise ValueError(f"no field {number} in the message")


def make_t5_tokenizer(spiece: bytes) -> T5Tokenizer:
    """Convert the sentencepiece model to a T5 tokenizer with T5's 100 sentinels at the end."""
    pieces = spm.SentencePieceProcessor(model_proto=spiece)
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    vocab += [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    charsmap = proto_field(proto_field(spiece, 3), 2)  # normalizer_spec.precompiled_charsmap
    tokenizer = T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, model_max_length=512)
    known = tokenizer.get_vocab()
    if missing := [piece for piece in REQUIRED_PIECES if piece not in known]:
        raise ValueError(f"the vocabulary lacks {missing}")
    return tokenizer


def make_t5() -> T5ForConditionalGeneration:
    """Build the model with random weights and an untied lm_head."""
    torch.manual_seed(SEED)
    config = T5Config.from_dict(
        {
            "vocab_size": MODEL_VOCAB,
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.1,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        }
    )
    model = T5ForConditionalGeneration(config)
    # transformers ties lm_head to the embedding on construction, whatever the config says.
    weight = torch.randn(MODEL_VOCAB, config.d_model) * config.d_model**-0.5
    model.lm_head.weight = nn.Parameter(weight)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
    )
    return model


def save_t5(folder: Path) -> None:
    """Write t5-tiny in the layout of the Flan-T5 checkpoints."""
    spiece = train_sentencepiece()
    tokenizer = make_t5_tokenizer(spiece)
    save(make_t5(), tokenizer, folder)
    (folder / "spiece.model").write_bytes(spiece)
    special_tokens = {
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }
    write_json(folder / "special_tokens_map.json", special_tokens)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False  # transformers saves true
    config.pop("scale_decoder_outputs", None)  # follows from tie_word_embeddings
    write_json(folder / "config.json", config)


def make_gpt_tokenizer() -> GPT2Tokenizer:
    """Train byte-level BPE; as in GPT-2, <|endoftext|> is the last token, and nothing pads."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([*corpus(), *SHORT_ANSWERS * 500], trainer)
    learned = json.loads(trained.to_str())["model"]
    vocab = learned["vocab"] | {"<|endoftext|>": TOKENS - 1}
    merges: Any = [tuple(pair) for pair in learned["merges"]]  # declared as texts
    return GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS)


def make_gpt() -> GPT2LMHeadModel:
    """Build GPT-2 with random weights."""
    torch.manual_seed(SEED)
    end = TOKENS - 1
    config = GPT2Config(
        vocab_size=TOKENS,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=2,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def make_bert_tokenizer() -> BertTokenizer:
    """Train WordPiece on lower-case text."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    untrained = BertTokenizer().backend_tokenizer
    trained.normalizer, trained.pre_tokenizer = untrained.normalizer, untrained.pre_tokenizer
    letters = string.ascii_lowercase + string.digits
    continued = [f"##{letter}" for letter in letters]
    # Listed, for the trainer numbers the letters inside words in a random order.
    first = [*BERT_SPECIAL, *string.punctuation, *letters, *continued]
    trainer = trainers.WordPieceTrainer(
        vocab_size=TOKENS, special_tokens=first, show_progress=False
    )
    trained.train_from_iterator(corpus(), trainer)
    return BertTokenizer(vocab=trained.get_vocab(), model_max_length=POSITIONS)


def make_bert() -> BertForPreTraining:
    """Build BERT with random weights, and the heads of its pretraining."""
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=TOKENS,
        max_position_embeddings=POSITIONS,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
    )
    return BertForPreTraining(config)


def save_gpt(folder: Path) -> None:
    """Write gpt-tiny in the layout of GPT-2."""
    tokenizer = make_gpt_tokenizer()
    save(make_gpt(), tokenizer, folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt


def save_bert(folder: Path) -> None:
    """Write bert-tiny in the layout of BERT-base, which names BertForMaskedLM."""
    tokenizer = make_bert_tokenizer()
    save(make_bert(), tokenizer, folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.txt
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"architectures": ["BertForMaskedLM"]})


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer with transformers."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved as readable by its owner only


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in the format of transformers."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Create the models' folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "mount" / "models")
    output = parser.parse_args().output
    save_t5(output / "t5-tiny")
    save_gpt(output / "gpt-tiny")
    save_bert(output / "bert-tiny")


if __name__ == "__main__":
    main()
