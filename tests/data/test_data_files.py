"""Data files: which are read, and the messages for all others."""

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import T5_TINY, addition_records
from transformers import AutoTokenizer

from workflow import make_job
from workflow.core.errors import BadInput, Problem
from workflow.data.reading import check_records
from workflow.data.source import DataSource, HeldOut
from workflow.data.split_names import near_eval_names
from workflow.data.token_cache import prepare_splits
from workflow.runs.mount import Mount, find_data
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.prepare import prepare

SPLITS = ["train", "eval"]
RECORDS = addition_records(4)
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
ROW = '{"prompt": "a", "completion": "b"}'
PANDAS = '.to_json("{0}.jsonl", orient="records", lines=True)'
NO_JSON = "(expected JSON or JSON Lines in UTF-8). Hint:"


def packed(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "a")
    return content.getvalue()


def message_for(path: Path, splits: list[str] = SPLITS) -> str:
    """The message for data at a path; {folder} stands for its folder."""
    files, problems = find_data(Mount(path.parent / "mount"), str(path))
    if not problems:
        with pytest.raises(BadInput) as caught:
            check_records(DataSource(files, splits), Seq2Seq().shape)
        problems = caught.value.problems
    return "\n".join(map(str, problems)).replace(str(path.parent), "{folder}")


FILES: dict[str, tuple[bytes, str]] = {
    "d.gz": (b"\x1f\x8b\x08", f"a gzip file {NO_JSON} unpack it: gunzip d.gz"),
    "d.bz2": (b"BZh9", f"a bzip2 file {NO_JSON} unpack it: bunzip2 d.bz2"),
    "d.zip": (packed("a.json"), f"a zip archive {NO_JSON} unpack it: unzip d.zip"),
    "d.xlsx": (
        packed("xl/workbook.xml"),
        f"an Excel workbook {NO_JSON} name its columns like the keys of a record, then use pandas: "
        f'read_excel("d.xlsx"){PANDAS.format("d")}',
    ),
    "d.parquet": (
        b"PAR1\x15\x04",
        f"a Parquet file {NO_JSON} name its columns like the keys of a record, then use pandas: "
        f'read_parquet("d.parquet"){PANDAS.format("d")}',
    ),
    "d.csv": (
        b"prompt,completion\na,b\n",
        f"comma-separated values (CSV) {NO_JSON} name its columns like the "
        f'keys of a record, then use pandas: read_csv("d.csv"){PANDAS.format("d")}',
    ),
    "tabs.json": (
        b"prompt\tcompletion\na\tb\n",
        f"tab-separated values (TSV) {NO_JSON} name its columns like the "
        f'keys of a record, then use pandas: read_table("tabs.json"){PANDAS.format("tabs")}',
    ),
    "d.db": (
        b"SQLite format 3\0",
        f"an SQLite database {NO_JSON} export a table as JSON Lines",
    ),
    "d.pkl": (
        pickle.dumps([1]),
        f"a pickle file {NO_JSON} export it with json.dump",
    ),
    "wide.json": (
        '{"train": []}'.encode("utf-16"),
        f"text in UTF-16 {NO_JSON} convert it: iconv -f UTF-16 -t UTF-8 wide.json",
    ),
    "unmarked.json": (
        '{"train": []}'.encode("utf-16-le"),
        f"text in UTF-16LE {NO_JSON} convert it: iconv -f UTF-16LE -t UTF-8 "
        "unmarked.json",
    ),
    "page.json": (
        b"<!DOCTYPE html><html>",
        f"an HTML page {NO_JSON} download the file itself; this may be a "
        "login page",
    ),
    "d.yaml": (
        b"train:\n  - prompt: a\n",
        f"YAML {NO_JSON} convert it: json.dump(yaml.safe_load(open("
        '"d.yaml")), …)',
    ),
    "zeros.json": (
        b"\0" * 9,
        f"NUL bytes {NO_JSON} write the file again; it may be truncated",
    ),
    "pointer.json": (
        b"version https://git-lfs.github.com/spec/v1\n",
        f"a Git LFS pointer {NO_JSON} run git lfs pull",
    ),
    "words.json": (b"hello there\n", f"plain text {NO_JSON} convert it to JSON"),
    "cut.json": (
        '{"train": [{"prompt": "é'.encode()[:-1],
        "line 1: the byte 0xc3 (expected UTF-8). Hint: write the file again; it may be truncated.",
    ),
    "lines.json": (
        LINES,
        "a single JSON Lines file (expected train and eval records). Hint: add --eval_fraction "
        "0.1, or use a folder with train.jsonl and eval.jsonl.",
    ),
    "several.json": (
        b'{\n"prompt": "a"}\n{\n"prompt": "b"}',
        "line 3, column 1: several JSON values (expected valid JSON). Hint: write one "
        "record per line, in train.jsonl and eval.jsonl.",
    ),
    "list.jsonl": (
        f"[{ROW}, {ROW}]\n".encode(),
        "a JSON list (expected one record per line). Hint: write one record per line, or rename it "
        'list.json and move the list to the key "train".',
    ),
    "indented.jsonl": (
        json.dumps(RECORDS, indent=2).encode(),
        "a JSON list (expected one record per line). Hint: write one record per line, or rename it "
        'indented.json and move the list to the key "train".',
    ),
    "both.json": (
        f'{{"train": [{ROW}], "dev": [{ROW}], "validation": [{ROW}]}}'.encode(),
        'no key "eval", but the keys \'validation\' and \'dev\' (expected one eval '
        'split). Hint: rename one of them to "eval".',
    ),
    "alone.json": (
        f'{{"train": [{ROW}]}}'.encode(),
        'no key "eval", only \'train\' (expected "eval": a list of {"prompt": …, '
        '"completion": …}). Hint: add it, or --eval_fraction 0.1.',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_format_is_recognized(tmp_path: Path, name: str) -> None:
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert message_for(tmp_path / name) == f"{{folder}}/{name}: {message.removesuffix('.')}."


SYNTAX = {
    "{'prompt': 'a'}": (
        "1",
        "Python syntax, e.g. single quotes or None",
        "write the file with json.dumps",
    ),
    '{"prompt": None}': (
        "11",
        "Python syntax, e.g. single quotes or None",
        "write the file with json.dumps",
    ),
    "\ufeff" + ROW: (
        "0",
        "a byte order mark (U+FEFF) within the file",
        "remove it",
    ),
    "{“prompt”: 1}": ("1", "the quotation mark “ (U+201C)", 'use " instead'),
    '{"prompt": "a",}': ("", "a trailing comma", "remove it"),
    '{"prompt": [1, 2,]}': ("", "a trailing comma", "remove it"),
    '{"prompt": 1 // a\n}': ("13", "a comment", "remove it"),
    "{prompt: 1}": ("1", "an unquoted key", 'quote it, e.g. "prompt"'),
    '{"prompt": "a\tb"}': ("13", "a tab in a string", "write it as \\t"),
    '{"prompt": "a\\d"}': ("13", "a backslash in a string", "write it as \\\\"),
    '{"prompt": undefined}': ("11", "JavaScript syntax", "write the file with JSON.stringify"),
}  # fmt: skip


@pytest.mark.parametrize("text", SYNTAX)
def test_invalid_json_is_explained(tmp_path: Path, text: str) -> None:
    column, found, hint = SYNTAX[text]
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "eval.jsonl").write_text(ROW)
    (folder / "train.jsonl").write_text(f"{ROW}\n{text.replace(chr(10), ' ')}\n{ROW}\n")
    message = message_for(folder)
    assert message.startswith(
        f"{{folder}}/d/train.jsonl: line 2, column {int(column) + 1 if column else ''}"
    )
    assert message.endswith(f": {found} (expected valid JSON). Hint: {hint}.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LINES.replace(b"\n", b"\r"),
            ": CR line endings (expected LF or CRLF line endings). Hint: convert it: tr '\\r' "
            "'\\n' < train.jsonl > NEW.",
        ),
        (
            b"[]",
            ": a JSON list (expected one record per line). Hint: write one record per line.",
        ),
        (
            b"[]\n[]",
            ': line 1: train[0]: a list (expected {"prompt": …, "completion": …}). Hint: write '
            "an object.",
        ),
        (
            b"{'prompt': 'a'}\n" * 5000,
            ": Python syntax, e.g. single quotes or None in all 5,000 records (expected valid "
            "JSON). Hint: write the file with json.dumps.",
        ),
        (
            f"{ROW} {ROW}\n{ROW}".encode(),
            ": line 1, column 36: several records on one line (expected valid JSON). Hint: write "
            "one record per line.",
        ),
        (
            b'{\n"prompt": "a",\n"completion": "b"\n}\n',
            ": line 1, column 2: a record on several lines (expected valid JSON). Hint: write one "
            "record per line, with line breaks in texts as \\n.",
        ),
        (
            f'{ROW}\n{{"prompt": "a\n'.encode(),
            ": line 2, column 12: invalid JSON: Unterminated string starting at (expected valid "
            "JSON). Hint: write the file again; it may be truncated.",
        ),
    ],
)
def test_invalid_json_lines(tmp_path: Path, content: bytes, message: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "eval.jsonl").write_text(ROW)
    (folder / "train.jsonl").write_bytes(content)
    assert message_for(folder).splitlines()[0] == "{folder}/d/train.jsonl" + message


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ({"train.json": "[]", "validation.json": "[]"},
         'merge the lists of train.json and validation.json into d.json: {"train": […], '
         '"eval": […]}'),
        ({"train.json": f"{ROW}\n{ROW}", "eval.json": f"{ROW}\n{ROW}"},
         "rename the files: eval.json is JSON Lines"),
        ({"train.csv": "a,b"}, "train.csv is comma-separated values (CSV): name its columns like "
         f'the keys of a record, then use pandas: read_csv("train.csv"){PANDAS.format("train")}'),
        ({"dataset_dict.json": "{}"},
         'export each split with datasets: load_from_disk(…)["train"].to_json("train.jsonl")'),
        ({"notes.txt": ""}, "add the files"),
    ],
)  # fmt: skip
def test_a_folder_of_other_files(tmp_path: Path, files: dict[str, str], hint: str) -> None:
    (tmp_path / "d").mkdir()
    for name, text in files.items():
        (tmp_path / "d" / name).write_text(text)
    assert message_for(tmp_path / "d") == (
        "{folder}/d: a folder without train.jsonl and eval.jsonl (expected both, with one record "
        f"per line). Hint: {hint}."
    )


def test_two_files_that_could_be_eval(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("train", "dev", "val"):
        (tmp_path / "d" / f"{name}.jsonl").write_text(ROW)
    assert message_for(tmp_path / "d") == (
        "{folder}/d: no eval.jsonl, but dev.jsonl and val.jsonl (expected one file of eval "
        "records). Hint: rename one of them to eval.jsonl."
    )


def test_a_name_with_a_file_of_another_format(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.data.mkdir()
    (mount.data / "mine.json.gz").write_bytes(b"\x1f\x8b\x08")
    (mount.data / "old.json.bak").write_text(ROW)
    start = f"--data_name {{0}}: does not exist (expected one of {mount.data}/{{0}}.json, " \
            f"{mount.data}/{{0}}.jsonl, {mount.data}/{{0}}.txt, {mount.data}/{{0}}, {{0}}). " \
            "Hint: "  # fmt: skip
    assert [str(find_data(mount, name)[1][0]) for name in ("mine", "old")] == [
        start.format("mine")
        + f"{mount.data}/mine.json.gz is a gzip file: unpack it: gunzip mine.json.gz.",
        start.format("old") + f"write its path to use {mount.data}/old.json.bak.",
    ]


def of_holding_out(path: Path) -> list[Problem]:
    """The problems of a JSON file with held-out records."""
    with pytest.raises(BadInput) as caught:
        check_records(DataSource({"": path}, SPLITS, held_out=HeldOut(0.2, 0)), Seq2Seq().shape)
    return caught.value.problems


def in_the_way(path: Path) -> str:
    (problem,) = of_holding_out(path)
    return problem.found


def prompts_of(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The prompts of each split."""
    found: dict[str, list[str]] = {}
    names = check_records(
        DataSource(files, SPLITS),
        Seq2Seq().shape,
        lambda name, record: found.setdefault(name, []).append(record["prompt"]),
    )
    return {split: found[name] for split, name in names.items()}


@pytest.mark.parametrize("name", ["validation", "valid", "dev", "val", "test"])
def test_another_name_of_eval_is_read_if_there_is_no_eval(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d.json"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text(ROW)
    (tmp_path / "d" / f"{name}.jsonl").write_text('{"prompt": "e", "completion": "f"}')
    lists = {"train": [json.loads(ROW)], name: [{"prompt": "e", "completion": "f"}]}
    for others in ({}, {"test": lists[name] if name == "test" else [1]}):
        path.write_text(json.dumps(lists | others))
        for given in (path, tmp_path / "d"):
            files, problems = find_data(Mount(tmp_path), str(given))
            assert problems == []
            assert prompts_of(files) == {"train": ["a"], "eval": ["e"]}
    assert in_the_way(path) == f"0.2, but the data has eval records in {name}"
    path.write_text(json.dumps({"eval": [], **lists}))
    assert in_the_way(path) == f"0.2, but the data has eval records in {name}"
    assert prompts_of({"": path}) == {"train": ["a"], "eval": ["e"]}
    path.write_text(json.dumps(lists | {"eval": [json.loads(ROW)], "nested": {name: 1}}))
    assert in_the_way(path) == "0.2, but the data has eval records in eval"
    wrong = {"train": lists["train"], name: [{"prompt": 1, "completion": "f"}]}
    path.write_text(json.dumps(wrong))
    assert message_for(path) == (
        f"{{folder}}/d.json: {name}[0].prompt: the number 1 (expected text). Hint: write it "
        "as a string."
    )


@pytest.mark.parametrize(
    "name",
    ["Eval", " eval", "EVAL", "evals", "evaluation", "Validation", "validaton", "Dev", "dev_set",
     "test_data", "Test", "valid-1", "val split", "development"],
)  # fmt: skip
def test_records_under_a_misspelt_name_of_eval_are_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d.json"
    for others in ({}, {"eval": []}):
        path.write_text(json.dumps({"train": [json.loads(ROW)], name: [json.loads(ROW)]} | others))
        found = f'the key "{name}"'
        message = Problem(str(path), found, 'the key "eval"', 'rename it to "eval"')
        assert of_holding_out(path) == [message]
        for splits in (SPLITS, ["eval"]):
            assert message_for(path, splits) == str(message).replace(str(tmp_path), "{folder}")


def test_other_keys_are_not_eval_records() -> None:
    records = [json.loads(ROW)]
    names = ["values", "devices", "text", "best", "rest", "invalid", "train", "trained", "evil"]
    assert near_eval_names(dict.fromkeys(names, records)) == []
    assert near_eval_names({"Eval": [1], "tests": [], "dev_set": {"a": records}, "evals": ""}) == []


def problems_of(path: Path, records: list[Any]) -> str:
    path.write_text(json.dumps({"train": records, "eval": [json.loads(ROW)]}))
    return message_for(path)


def test_a_problem_shared_by_many_records_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    at = "{folder}/d.json: train"
    good = json.loads(ROW)
    lacking = '(expected "completion": text). Hint: add it.'
    assert problems_of(path, [{"prompt": "a"}] * 5000) == (
        f"{at}: no key \"completion\", only 'prompt' in all 5,000 records {lacking}"
    )
    assert problems_of(path, [good, *[{"prompt": "a"}] * 4]) == (
        f"{at}[1]: no key \"completion\", only 'prompt'; first of 4 records " + lacking
    )
    numbers = [good | {"prompt": number} for number in range(40)]
    text = "(expected text). Hint: write it as a string."
    assert problems_of(path, numbers) == (
        f"{at}: prompt: the number 0 and similar in all 40 records {text}"
    )
    assert problems_of(path, [*numbers[:3], good]) == "\n".join(
        f"{at}[{number}].prompt: the number {number} {text}" for number in range(3)
    )
    mixed = [good | {"prompt": 1}, good | {"completion": 2}, good | {"prompt": 3}] * 2
    lines = problems_of(path, mixed).splitlines()
    assert [line.partition(": the number")[0] for line in lines] == [
        f"{at}[0].prompt", f"{at}[1].completion", f"{at}[4].completion",
    ]  # fmt: skip


def held_out(path: Path, seed: int = 0, fraction: float = 0.25) -> dict[str, list[Any]]:
    files, problems = find_data(Mount(path.parent), str(path))
    assert problems == []
    tokenizer = AutoTokenizer.from_pretrained(T5_TINY)
    source = DataSource(files, SPLITS, held_out=HeldOut(fraction, seed))
    splits = prepare_splits(source, Seq2Seq(), tokenizer, path.parent / "cache")
    return {name: [split.record(i) for i in range(len(split))] for name, split in splits.items()}


def as_lines(records: list[Any]) -> str:
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize(
    ("name", "write"),
    [("d.jsonl", as_lines), ("d.json", as_lines),
     ("whole.json", lambda records: json.dumps({"train": records})),
     ("empty.json", lambda records: json.dumps({"eval": [], "train": records, "test": []}))],
)  # fmt: skip
def test_a_share_is_held_out_of_train(
    tmp_path: Path, name: str, write: Callable[[list[Any]], str]
) -> None:
    records = addition_records(20)
    (tmp_path / name).write_text(write(records))
    found = held_out(tmp_path / name)
    assert len(found["eval"]) == 5
    assert sorted([*found["train"], *found["eval"]], key=records.index) == records
    for split in found.values():  # in the order of the file
        assert split == sorted(split, key=records.index)
    assert held_out(tmp_path / name) == found
    assert held_out(tmp_path / name, seed=1) != found
    assert len(held_out(tmp_path / name, fraction=0.5)["eval"]) == 10


def test_both_splits_get_a_record_when_holding_out(tmp_path: Path) -> None:
    sums = {
        (count, fraction): int(HeldOut(fraction, 3).choose(count).sum())
        for count, fraction in [(2, 0.01), (2, 0.99), (10, 0.01), (10, 0.99), (1000, 0.1)]
    }
    assert list(sums.values()) == [1, 1, 1, 9, 100]
    again = [HeldOut(0.5, 3).choose(50) for _ in range(2)]
    assert np.array_equal(*again)
    (tmp_path / "d.jsonl").write_text(ROW)
    with pytest.raises(BadInput) as caught:
        held_out(tmp_path / "d.jsonl")
    assert str(caught.value) == (
        f"{tmp_path}/d.jsonl: a single record (expected at least two to hold one out). "
        "Hint: add records or remove --eval_fraction."
    )


def test_all_lines_are_eval_without_training(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(f'{ROW}\n{{"prompt": 1}}')
    assert message_for(tmp_path / "d.jsonl", ["eval"]).startswith(
        "{folder}/d.jsonl: line 2.prompt: the number 1"
    )


@pytest.mark.parametrize("flags", [{}, {"add_missing_tokens": True}, {"no_train": True}])
def test_the_eval_split_is_logged_at_every_start(
    mount: Mount, caplog: pytest.LogCaptureFixture, flags: dict[str, bool]
) -> None:
    rows = [*addition_records(9), {"prompt": "日本", "completion": "é日本"}]
    (mount.data / "named.json").write_text(json.dumps({"train": rows, "test": rows, "dev": rows}))
    (mount.data / "alone.json").write_text(json.dumps({"train": rows}))
    (mount.data / "folder").mkdir()
    for name in ("train", "val"):
        (mount.data / "folder" / f"{name}.jsonl").write_text(as_lines(rows))
    caplog.set_level(logging.INFO, "workflow")

    def lines_of(data: str, **others: Any) -> list[str]:
        caplog.clear()
        options = {"data_name": data, "max_steps": 1, **flags, **others}
        prepare(make_job("seq2seq", model_init_name="small", **options), mount)
        return [line for line in caplog.messages if line.startswith(("using", "held out"))]

    for _ in range(2):
        assert lines_of("named") == ["using dev as the eval split"]
        assert lines_of("folder") == ["using val as the eval split"]
        if "no_train" not in flags:
            held = ["held out 2 of 10 train records for eval"]
            assert lines_of("alone", eval_fraction=0.2) == held
