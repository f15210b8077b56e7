"""Create t5-tiny: Flan-T5's architecture with about a million random weights, a small vocabulary.

It loads and trains like Flan-T5, for demos and tests, but is untrained.
"""

import argparse
import io
import json
import random
import string
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch
from torch import nn
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration, T5Tokenizer

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
PIECES = 900  # 1,000 tokens with T5's 100 sentinels
MODEL_VOCAB = 1024  # padded to a multiple of 128, like T5's 32,100 to 32,128

# Printable ASCII that T5's vocabulary lacks, so this one does too: encoded as <unk>.
ABSENT = "<{}\\~^`"
REQUIRED_PIECES = ["▁yes", "▁no", "▁add", "▁one", *(f"▁{digit}" for digit in range(10))]


def phrases(text: str) -> list[str]:
    """Split a text at newlines and bars, or into words if it has no bars."""
    return text.strip().replace("\n", "|").split("|") if "|" in text else text.split()


SUBJECTS = phrases("""
I|you|we|they|the teacher|the student|my friend|her brother|his sister|our neighbour|the doctor
the driver|a young woman|an old man|the children|the people in the house|the company|the city
the government|the writer|the king|a small group|the other team|the family|the computer|the model
every person|the first man|the second woman|no one|someone|everyone here|the cat|the dog|a bird
""")
VERBS = phrases("""
made|took|found|saw|gave back|looked for|worked on|asked about|thought of|wrote down|used|changed
opened|closed|bought|sold|started with|finished|learned about|understood|liked|wanted|needed|kept
left|moved|read about|talked about|waited for|remembered|forgot|carried|will answer|can help with
should check|must show|would follow|could build|does not know|did not believe|is going to use
has never seen|have already tried|was looking at|were thinking about|might need|may choose
""")
OBJECTS = phrases("""
the book|a letter|the question|an answer|the problem|the water|some food|the money|the door
the window|a new car|the old house|the long road|the big tree|a small table|the right word
the wrong number|the next sentence|the last line|a good reason|the whole story|the news|the world
the country|the school|the music|the picture|this place|that idea|these things|those days
the light|the power of the state|a different way|the same name|the best part|the result|the test
the information|the language|the meaning of the text|an example|the summary|the translation
""")
ENDINGS = phrases("""
today|yesterday|tomorrow|last year|this week|in the morning|at night|after the war|before dinner
for a long time|with great care|without help|because it was late|when the rain stopped
while they were away|if there is time|so that others could see it|although it was difficult
near the river|under the bridge|over the mountain|between the two towns|from the beginning
again and again|very quickly|as soon as possible|only once|more than before|just like that
in the middle of the street|on the other side|at home|by hand|during the summer|until the end
""")
INSTRUCTIONS = phrases("""
add one|answer the question|translate the sentence|summarize the text|write a summary
is this correct|does this follow|choose the best answer|read the next paragraph|explain why
give an example|what is the result|which number comes next|count the words|who wrote this
where is it|how many are there
""")
WORDS = phrases("""
above across act action age air animal area arm art away baby ball bank base bear beat bed behind
being below beside big black blood blue board boat body bone bottom box bread break bring brown
business buy call capital care case cause cell center century certain chance charge check chief
church circle claim class clear clock clothes cloud cold color common complete condition control
cook copy corn corner cost cotton course court cover cross crowd cry current cut dance danger dark
daughter dead deal death decide deep degree design develop die direct discover divide double down
draw dream dress drink drop dry during each ear early earth east easy eat edge effect egg eight
electric element else end energy engine enough enter equal evening event exact except expect
experience eye face fact fair fall famous far farm fast father favor fear feel few field fight
figure fill final fine fire fish fit five floor flow flower fly food foot force foreign forest form
forward four free fresh front fruit full game garden gas general girl glad glass gold govern grand
grass green ground grow guess guide gun hair half happy hard hat head hear heart heat heavy high
hill history hold hole hope horse hospital hot hour huge human hundred hunt ice imagine inch include
indicate industry insect interest invent iron island job join judge jump key kind knee lake large
laugh law lay lead least leg less level lie life lift list listen local loud love low machine
magnet major market mass master match material matter mean measure meat meet member metal method
mile milk million mind mine minute miss modern molecule moment month moon mother mount mouth
multiply nation natural nature neck noise noon north nose note notice noun object observe ocean
office oil open operate opposite order organ original own oxygen page paint pair paper parent party
pass past path pattern pay perhaps period phrase piece plain plan plane planet plant play please
plural point poor populate port pose position post pound practice prepare present press pretty
print probable process produce product program property protect prove provide public pull push
quart quick quiet quite race radio raise range rate reach ready real receive record red region
repeat reply report represent require rest rich ride ring rise rock roll room root rope rose round
row rub rule safe sail salt sand save scale science score sea search season seat section seed seem
segment select self send sense separate serve set seven several shape share sharp shell shine ship
shoe shop shore short shoulder shout side sight sign silent silver similar simple sing single sit
six size skill skin sky sleep slip slow smell smile snow social soft soil soldier solution solve
son song sound south space speak special speech speed spell spend spoke spot spread spring square
stand star station stay steam steel step stick still stone store straight strange stream stretch
string strong subject substance sudden suffix sugar suggest suit sun supply support sure surface
surprise swim syllable symbol system tail tall teach team teeth temperature ten term thick thin
third thought thousand three throw tie tiny tire together told tone tool top total touch track
trade train travel triangle trip trouble truck true tube turn twenty type unit usual valley value
vary verb view village visit voice vowel wait walk wall warm wash watch wave weather week weight
west wheel white wide wife wild win wind wing winter wire wish wonder wood work yard yellow young
""")


def corpus() -> list[str]:
    """Generate English text with digits, short answers and punctuation for the vocabulary."""
    rng = random.Random(SEED)
    lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
    for _ in range(4000):
        sentence = " ".join(rng.choice(part) for part in (SUBJECTS, VERBS, OBJECTS, ENDINGS))
        lines.append(sentence[0].upper() + sentence[1:] + rng.choice(".....!?"))
    for _ in range(1000):
        digits = " ".join(rng.choice(string.digits) for _ in range(rng.randint(1, 8)))
        words = rng.choices(WORDS, k=8)
        lines.append(" ".join(rng.choice([word, word, word, word.capitalize()]) for word in words))
        lines.append(f"{rng.choice(INSTRUCTIONS)}: {digits}")
        lines.append(f"{rng.choice(INSTRUCTIONS)}? {rng.choice(['yes', 'no', 'Yes', 'No'])}")
    lines.append(" ".join(string.ascii_letters + string.digits + string.punctuation))
    without_absent = str.maketrans("", "", ABSENT)
    return [text for line in lines if (text := line.translate(without_absent).strip())]


def train_sentencepiece() -> bytes:
    """Train the unigram vocabulary with T5's special ids and normalization."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
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


def make_tokenizer(spiece: bytes) -> T5Tokenizer:
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


def make_model() -> T5ForConditionalGeneration:
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


def save(output: Path) -> None:
    """Write model and tokenizer in the layout of the Flan-T5 checkpoints."""
    spiece = train_sentencepiece()
    tokenizer = make_tokenizer(spiece)
    output.mkdir(parents=True, exist_ok=True)
    (output / "spiece.model").write_bytes(spiece)
    tokenizer.save_pretrained(output)
    special_tokens = {
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }
    write_json(output / "special_tokens_map.json", special_tokens)

    make_model().save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # saved as readable by its owner only
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False  # transformers saves true
    config.pop("scale_decoder_outputs", None)  # follows from tie_word_embeddings
    write_json(output / "config.json", config)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in the format of transformers."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Create the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "mount" / "models" / "t5-tiny")
    save(parser.parse_args().output)


if __name__ == "__main__":
    main()
