"""Generate the example data of the tutorial on prompt tuning: sentences and their paraphrases."""

import argparse
import random
import re
from pathlib import Path

from make_example_data import ROOT, to_json

PATTERNS = Path(__file__).parent / "paraphrases.txt"
SEED = 0
TRAIN = 360
EVAL = 60  # half of them from patterns that no train record has

Pattern = tuple[str, str]


class Slots:
    """The words of each slot: those for all records, and those for eval records only."""

    def __init__(self, lines: list[str]) -> None:
        self._words: dict[str, tuple[list[str], list[str]]] = {}
        for line in lines:
            name, _, words = line.removeprefix("slot ").partition(": ")
            common, _, rest = words.partition(" / ")
            self._words[name] = (common.split(", "), rest.split(", ") if rest else [])

    def fill(self, pattern: Pattern, draw: random.Random, held_out: bool) -> dict[str, str]:
        """Draw words for a pattern and return its record; with `held_out`, unseen in training."""
        chosen: dict[str, str] = {}
        for name in dict.fromkeys(re.findall(r"\{(\w+)\}", pattern[0])):
            common, rest = self._words[name.removesuffix("2")]
            words = rest if held_out and rest else common
            chosen[name] = draw.choice([word for word in words if word not in chosen.values()])
        sentence, paraphrase = (
            text.format_map({name: word.split("|")[form] for name, word in chosen.items()})
            for text, form in zip(pattern, (0, -1), strict=True)
        )
        return {
            "prompt": f"Paraphrase: {sentence[0].upper()}{sentence[1:]}",
            "completion": f"{paraphrase[0].upper()}{paraphrase[1:]}",
        }


def read_patterns(text: str) -> tuple[Slots, list[Pattern], list[Pattern]]:
    """Return the slots, the patterns of train records, and those of eval records only."""
    head, *parts = re.split(r"^== .*\n", text, flags=re.MULTILINE)
    slots = Slots([line for line in head.splitlines() if line.startswith("slot ")])
    pairs = [re.findall(r"^(\S.*)\n  (.*)$", part, flags=re.MULTILINE) for part in parts]
    train, held_out = pairs
    return slots, train, held_out


def draw_records(
    slots: Slots, patterns: list[Pattern], draw: random.Random, count: int, held_out: bool
) -> list[dict[str, str]]:
    """Draw distinct records, from all patterns in turn, in random order."""
    records: dict[str, dict[str, str]] = {}
    while len(records) < count:
        for pattern in draw.sample(patterns, len(patterns)):
            record = slots.fill(pattern, draw, held_out)
            records.setdefault(record["prompt"], record)
    kept = list(records.values())[:count]
    return draw.sample(kept, len(kept))


def make_data() -> dict[str, list[dict[str, str]]]:
    """Return the records of both splits; every eval record has words that train lacks."""
    slots, known, new = read_patterns(PATTERNS.read_text(encoding="utf-8"))
    draw, half = random.Random(SEED), EVAL // 2
    train = draw_records(slots, known, draw, TRAIN, held_out=False)
    known_eval = draw_records(slots, known, draw, half, held_out=True)
    new_eval = draw_records(slots, new, draw, EVAL - half, held_out=True)
    return {
        "train": train,
        "eval": [record | {"pattern": "known"} for record in known_eval]
        + [record | {"pattern": "new"} for record in new_eval],
    }


def main() -> None:
    """Write the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "mount" / "data" / "paraphrases.json")
    parser.parse_args().output.write_text(to_json(make_data()), encoding="utf-8")


if __name__ == "__main__":
    main()
