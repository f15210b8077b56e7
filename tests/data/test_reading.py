"""A stream gives the same records or problems as the complete file."""

import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import workflow.data.diagnose
import workflow.data.json_stream
import workflow.data.tally
from workflow.core.errors import BadInput, Problem
from workflow.data.diagnose import unfit_file, unfit_json
from workflow.data.reading import check_records
from workflow.data.records import Record, decoder, make_object, name_type
from workflow.data.schema import check_record
from workflow.data.shapes.texts import Completions
from workflow.data.source import DataSource
from workflow.data.split_names import find_splits

SHAPE = Completions()
SPLITS = ["train", "eval"]
WINDOWS = [1, 2, 3, 7, 64, 1 << 20]
RECORD = {"prompt": "a", "completion": "b"}
EVAL = '"eval": [{"prompt": "c", "completion": "d"}]'
EXTRAS = {
    "numbers": "[12, 34, -0, 1.5e3, 1E-2, 0.25, 1e+2, 123456789012345678901234567890]",
    "literals": "[true, false, null]",
    "escapes": r'"\u00e9 \ud83d\ude00 \" \\ \/ \n \u2028 ]}, [{"',
    "characters": '"käse 日本 😀 \u2028 \ufeff"',
    "nothing": '[[], {}, "", [[]], {"": {"": []}}]',
    "nested": json.dumps({"deep": [{"list": list(range(50))}] * 20}),
    "long": json.dumps("x" * 1000),
}


def read(files: Mapping[str, Path], splits: list[str] = SPLITS) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    names = check_records(
        DataSource(files, splits),
        SHAPE,
        lambda name, record: found.setdefault(name, []).append(record),
    )
    return {split: found[name] for split, name in names.items()}


def problems_of(files: Mapping[str, Path], splits: list[str] = SPLITS) -> list[Problem]:
    with pytest.raises(BadInput) as error:
        read(files, splits)
    return error.value.problems


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    def write(text: str) -> dict[str, Path]:
        path = tmp_path / "data.json"
        path.write_bytes(text.encode())
        return {"": path}

    return write


Write = Callable[[str], dict[str, Path]]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_any_value_is_allowed_in_extra_keys(
    write: Write, monkeypatch: pytest.MonkeyPatch, extra: str, window: int
) -> None:
    monkeypatch.setattr(workflow.data.json_stream, "WINDOW", window)
    value = EXTRAS[extra]
    record = f'{{"prompt": "a", "completion": "b", "extra": {value}}}'
    for blank in ("", " ", "\r\n\t"):
        text = (
            f'{blank}{{{blank}"meta": {value}{blank}, "other":[{value},{blank}{value}],{EVAL}'
            f'{blank},"train"{blank}:{blank}[{record}{blank},{blank}{record}{blank}], "end":'
            f"{value}{blank}}}{blank}"
        )
        data = json.loads(text)
        for mark in ("", "\ufeff"):
            files = write(mark + text)
            assert read(files) == {split: data[split] for split in SPLITS}
            assert read(files, ["eval"]) == {"eval": data["eval"]}


def random_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return draw.choice([True, False, None, 0, -1, 1e300, 5e-324])
    if kind == 1:
        return draw.randint(-(10**20), 10**20)
    if kind == 2:
        return draw.uniform(-1, 1) * 10 ** draw.randint(-30, 30)
    if kind < 6:
        return "".join(draw.choices('ab "\\{}[],:\n\téß日😀\u2028\x7f', k=draw.randint(0, 12)))
    inner = [random_value(draw, depth + 1) for _ in range(draw.randint(0, 4))]
    return inner if kind == 6 else {f"{i}{random_value(draw, 9)}": v for i, v in enumerate(inner)}


def random_layout(draw: random.Random, data: object) -> str:
    return json.dumps(
        data,
        indent=draw.choice([None, None, 0, 2, "\t"]),
        ensure_ascii=draw.choice([True, False]),
        separators=draw.choice([(",", ":"), (", ", ": "), (" ,\r\n", "\t:  ")]),
    )


def test_random_data_in_random_layouts(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for _ in range(150):
        data = {
            split: [RECORD | {"extra": random_value(draw)} for _ in range(draw.randint(1, 5))]
            for split in draw.sample(SPLITS, 2)
        }
        others = {f"other {i}": random_value(draw) for i in range(draw.randint(0, 3))}
        text = random_layout(draw, data | others if draw.random() < 0.5 else others | data)
        monkeypatch.setattr(
            workflow.data.json_stream, "WINDOW", draw.choice([*WINDOWS, 15, 31, 200])
        )
        assert read(write(text)) == data


def problems_of_whole(files: Mapping[str, Path]) -> list[Problem]:
    """The problems of a JSON file, with all of it in memory."""
    path, source = files[""], DataSource(files, SPLITS)
    if problem := unfit_file(path) or unfit_json(path, SPLITS, SHAPE):
        return [problem]
    data = decoder.decode(path.read_text("utf-8-sig"))
    outline = {key: value[:1] if isinstance(value, list) else name_type(value)
               for key, value in data.items()}  # fmt: skip
    if type(data) is not dict:
        outline = make_object([*outline.items(), *((key, outline[key]) for key in data.duplicates)])
    names, problems = find_splits(path, outline, SPLITS, SHAPE)
    for name in names.values():
        records = data.get(name)
        for index, record in enumerate(records if isinstance(records, list) else ()):
            problems += check_record(record, source.place(name, index), SHAPE, True)
    return problems


DAMAGE = ['"', ",", "[", "]", "{", "}", ":", "\\", " ", "\n", "", "1", "e", "-", "N", "\0", "é"]


def test_a_damaged_file_gets_the_problem_of_the_complete_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    records = [RECORD | {"n": [1.5, -2, None]}, RECORD | {"n": {"é": "\\ \n"}}]
    data = {"a": 1, "eval": records, "list": [1, []], "train": records, "z": {"train": 1}}
    well = 0
    for _ in range(700):
        text = random_layout(draw, data)
        place = draw.randrange(len(text))
        behind = place + draw.choice([0, 1, 1, 5, len(text)])
        text = text[:place] + draw.choice(DAMAGE) + text[behind:]
        monkeypatch.setattr(workflow.data.json_stream, "WINDOW", draw.choice(WINDOWS))
        files = write(text)
        if problems := problems_of_whole(files):
            assert problems_of(files) == problems
        else:
            assert read(files)["train"] == json.loads(text)["train"]
            well += 1
    assert 50 < well < 350  # blanks, and letters within texts


def lines_of_problems(content: bytes) -> set[int]:
    """The line numbers of the invalid records of JSON Lines."""
    lines = content.removeprefix(b"\xef\xbb\xbf").rstrip().split(b"\n")
    bad = set()
    for number, line in enumerate(lines, start=1):
        try:
            if check_record(decoder.decode(line.decode()), "", SHAPE, True):
                bad.add(number)
        except ValueError:
            bad.add(number)
    return bad


def test_every_damaged_json_line_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.data.tally, "SHOWN_SINGLY", 100)
    draw = random.Random(0)
    lines = [json.dumps(RECORD | {"n": 10 * i, "é": ["é"]}, ensure_ascii=False) for i in range(3)]
    files = {split: tmp_path / f"{split}.jsonl" for split in SPLITS}
    files["eval"].write_text(lines[0])
    well = 0
    for _ in range(800):
        content = (
            "\ufeff" * draw.choice([0, 1]) + draw.choice(["\n", "\r\n"]).join(lines)
        ).encode()
        content += draw.choice([b"", b"\n", b"\r\n\n\r\n", b"\n \n", b"\n\n{}"])
        place = draw.randrange(len(content))
        behind = place + draw.choice([0, 1, 1, 5, len(content)])
        damage = draw.choice([*map(str.encode, DAMAGE), b"\xe9", b"\n\n"])
        content = content[:place] + damage + content[behind:]
        files["train"].write_bytes(content)
        if bad := lines_of_problems(content):
            problems = problems_of(files)
            if "in every record" in problems[-1].found:  # the remaining records have no answer
                problems.pop()
            places = [problem.where.partition(": line ")[2] for problem in problems]
            of_file = places == [""]  # it is empty, or one list
            assert of_file or {int(re.match(r"\d+", place)[0]) for place in places} == bad
        else:
            kept = content.decode("utf-8-sig").rstrip().split("\n")
            records = [json.loads(line) for line in kept]
            if all(map(SHAPE.is_blank, records)):
                assert "an empty completion in every record" in str(problems_of(files)[0])
            else:
                assert read(files)["train"] == records
            well += 1
    assert 20 < well < 400


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\ufeff", "{}", "[]", "{", '{"train"', '{"train": [', f"{{{EVAL}}}",
        f'{{"train": [], {EVAL}}}', f'{{"train": {{}}, {EVAL}}}', f"{{{EVAL}, {EVAL}}}",
        f'{{"a": 1, "a": 2, "train": [], {EVAL}}}', f"{{1: 2, {EVAL}}}",
        '{"train": [{"prompt": ' + "1" * 5000, '{"train": ' + "[" * 100_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("window", WINDOWS)
def test_other_json_gets_the_problem_of_the_complete_file(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, window: int
) -> None:
    monkeypatch.setattr(workflow.data.json_stream, "WINDOW", window)
    files = write(text)
    assert problems_of(files) == problems_of_whole(files) != []


def test_problems_are_in_the_order_of_the_requested_splits(write: Write) -> None:
    files = write(json.dumps({"eval": [RECORD, 2], "train": [RECORD, 1, RECORD, "a"]}))
    places = [problem.where.removeprefix(f"{files['']}: ") for problem in problems_of(files)]
    assert places == ["train[1]", "train[3]", "eval[1]"]


def test_a_file_that_becomes_valid_meanwhile_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write("{")
    monkeypatch.setattr(workflow.data.diagnose, "unfit_json", lambda *_: None)
    assert "changed while it was read" in str(problems_of(files)[0])
