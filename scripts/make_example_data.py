"""Generate the example data: add one to a number that is written digit by digit."""

import argparse
import json
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
NUMBERS = 1_000_000  # exclusive upper bound
TRAIN = 8000
EVAL = 200


def spaced(number: int) -> str:
    """Write a number with a space between its digits: 4719 becomes "4 7 1 9"."""
    return " ".join(str(number))


def make_data() -> dict[str, list[dict[str, str]]]:
    """Draw distinct numbers and return their records; train and eval do not overlap."""
    numbers = random.Random(SEED).sample(range(NUMBERS), TRAIN + EVAL)
    records = [
        {"prompt": f"add one: {spaced(number)}", "completion": spaced(number + 1)}
        for number in numbers
    ]
    return {"train": records[:TRAIN], "eval": records[TRAIN:]}


def to_json(data: dict[str, list[dict[str, str]]]) -> str:
    """Format the data as JSON with one record per line."""
    parts = []
    for name, records in data.items():
        lines = ",\n".join(f"    {json.dumps(record, ensure_ascii=False)}" for record in records)
        parts.append(f"  {json.dumps(name)}: [\n{lines}\n  ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "mount" / "data" / "data.json")
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(to_json(make_data()), encoding="utf-8")


if __name__ == "__main__":
    main()
