"""Make pairs of answers from prompts and completions: a record's own answer against another's.

    scripts/make_pairs.py SOURCE.json TARGET.json

A third of the pairs are ties, of equal answers. Which side the right answer is on is drawn.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

SEED = 0


def pairs_of(records: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    """A pair for each record."""
    made = []
    for record in records:
        right = wrong = record["completion"]
        while wrong == right:
            wrong = draw.choice(records)["completion"]
        label = draw.choice(("a", "b", "tie"))
        a, b = {"a": (right, wrong), "b": (wrong, right), "tie": (right, right)}[label]
        prompt = record["prompt"]
        made.append({"prompt": prompt, "response_a": a, "response_b": b, "label": label})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    data = json.loads(arguments.source.read_text(encoding="utf-8"))
    draw = random.Random(SEED)
    made = {split: pairs_of(data[split], draw) for split in ("train", "eval")}
    text = json.dumps(made, ensure_ascii=False, indent=1)
    arguments.target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
