"""What is given as data: what is read, and of everything else what it is and the way out."""

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
NO_JSON = "expected JSON or JSON Lines in UTF-8"


def packed(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "a")
    return content.getvalue()


def told(path: Path, splits: list[str] = SPLITS) -> str:
    """The message for data that is named by its path; {folder} stands for where it lies."""
    files, problems = find_data(Mount(path.parent / "mount"), str(path))
    if not problems:
        with pytest.raises(BadInput) as caught:
            check_records(DataSource(files, splits), Seq2Seq.schema)
        problems = caught.value.problems
    return "\n".join(map(str, problems)).replace(str(path.parent), "{folder}")


FILES: dict[str, tuple[bytes, str]] = {
    "d.gz": (b"\x1f\x8b\x08", f"found a file packed by gzip; {NO_JSON}; unpack it: gunzip d.gz"),
    "d.bz2": (b"BZh9", f"found a file packed by bzip2; {NO_JSON}; unpack it: bunzip2 d.bz2"),
    "d.zip": (packed("a.json"), f"found a zip archive; {NO_JSON}; unpack it: unzip d.zip"),
    "d.xlsx": (
        packed("xl/workbook.xml"),
        f"found an Excel workbook; {NO_JSON}; write its rows as JSON Lines, as by pandas: "
        f'read_excel("d.xlsx"){PANDAS.format("d")}',
    ),
    "d.parquet": (
        b"PAR1\x15\x04",
        f"found a Parquet file; {NO_JSON}; write its rows as JSON Lines, as by pandas: "
        f'read_parquet("d.parquet"){PANDAS.format("d")}',
    ),
    "d.csv": (
        b"prompt,completion\na,b\n",
        f"found comma-separated values (CSV); {NO_JSON}; write its rows as JSON Lines, as by "
        f'pandas: read_csv("d.csv"){PANDAS.format("d")}',
    ),
    "tabs.json": (
        b"prompt\tcompletion\na\tb\n",
        f"found tab-separated values (TSV); {NO_JSON}; write its rows as JSON Lines, as by "
        f'pandas: read_table("tabs.json"){PANDAS.format("tabs")}',
    ),
    "d.db": (
        b"SQLite format 3\0",
        f"found an SQLite database; {NO_JSON}; write a table of it as JSON Lines, a row each",
    ),
    "d.pkl": (
        pickle.dumps([1]),
        f"found a pickled object; {NO_JSON}; load it where it was made, and write it by json.dump",
    ),
    "wide.json": (
        '{"train": []}'.encode("utf-16"),
        f"found text in UTF-16; {NO_JSON}; save it as UTF-8: iconv -f UTF-16 -t UTF-8 wide.json",
    ),
    "unmarked.json": (
        '{"train": []}'.encode("utf-16-le"),
        f"found text in UTF-16LE; {NO_JSON}; save it as UTF-8: iconv -f UTF-16LE -t UTF-8 "
        "unmarked.json",
    ),
    "page.json": (
        b"<!DOCTYPE html><html>",
        f"found an HTML page; {NO_JSON}; get the file itself: it may be a page that asks for a "
        "login",
    ),
    "d.yaml": (
        b"train:\n  - prompt: a\n",
        f"found YAML; {NO_JSON}; write it as JSON, as by json.dump(yaml.safe_load(open("
        '"d.yaml")), …)',
    ),
    "zeros.json": (
        b"\0" * 9,
        f"found NUL bytes; {NO_JSON}; the file was not written to its end: write it again",
    ),
    "pointer.json": (
        b"version https://git-lfs.github.com/spec/v1\n",
        f"found a pointer of Git LFS, not the file; {NO_JSON}; get it: git lfs pull",
    ),
    "words.json": (b"hello there\n", f"found text that is no JSON; {NO_JSON}; write it as JSON"),
    "cut.json": (
        '{"train": [{"prompt": "é'.encode()[:-1],
        "line 1: byte 0xc3, which is not UTF-8 (expected a file in UTF-8). Hint: the file may have "
        "been cut off: write it again.",
    ),
    "lines.json": (
        LINES,
        "JSON Lines, which are records of one kind (expected records to train on and records "
        "to evaluate). Hint: add --eval_fraction 0.1; or make a folder of it: train.jsonl, and eval.jsonl "
        "beside it.",
    ),
    "several.json": (
        b'{\n"prompt": "a"}\n{\n"prompt": "b"}',
        "line 3, column 1: several JSON values one after the other (expected JSON). Hint: write "
        "each record on a line of its own, in train.jsonl and eval.jsonl.",
    ),
    "list.jsonl": (
        f"[{ROW}, {ROW}]\n".encode(),
        "one JSON list, not JSON Lines (expected a record on each line). Hint: write each record on "
        "a line of its own, without brackets around them, or name it list.json and put the list "
        'under "train".',
    ),
    "indented.jsonl": (
        json.dumps(RECORDS, indent=2).encode(),
        "one JSON list, not JSON Lines (expected a record on each line). Hint: write each record on "
        "a line of its own, without brackets around them, or name it indented.json and put the "
        'list under "train".',
    ),
    "both.json": (
        f'{{"train": [{ROW}], "dev": [{ROW}], "validation": [{ROW}]}}'.encode(),
        'no key "eval", and the keys \'validation\' and \'dev\' (expected one of them to '
        'evaluate on). Hint: rename one of them to "eval".',
    ),
    "alone.json": (
        f'{{"train": [{ROW}]}}'.encode(),
        'no key "eval" (keys: \'train\') (expected "eval": a list of {"prompt": …, '
        '"completion": …}). Hint: add it, or --eval_fraction 0.1.',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert told(tmp_path / name) == f"{{folder}}/{name}: {message}"


SYNTAX = {
    "{'prompt': 'a'}": (
        "1",
        "single quotes or words of Python, as repr() and str() write them",
        "write it by json.dumps",
    ),
    '{"prompt": None}': (
        "11",
        "single quotes or words of Python, as repr() and str() write them",
        "write it by json.dumps",
    ),
    "\ufeff" + ROW: (
        "0",
        "a byte order mark (U+FEFF), as where files were joined",
        "remove the mark",
    ),
    "{“prompt”: 1}": ("1", "the quotation mark “ (U+201C)", 'write " instead'),
    '{"prompt": "a",}': ("", "a comma before the closing bracket", "remove the comma"),
    '{"prompt": [1, 2,]}': ("", "a comma before the closing bracket", "remove the comma"),
    '{"prompt": 1 // a\n}': ("13", "a comment", "remove it: JSON has none"),
    "{prompt: 1}": ("1", "a key without quotes", 'write it in quotes, as "prompt"'),
    '{"prompt": "a\tb"}': ("13", "a tab in a text", "write it as \\t"),
    '{"prompt": "a\\d"}': ("13", "a backslash in a text", "write it as \\\\"),
    '{"prompt": undefined}': ("11", "JavaScript", "write it by JSON.stringify"),
}  # fmt: skip


@pytest.mark.parametrize("text", SYNTAX)
def test_what_is_no_json_is_told_in_the_words_of_its_writer(tmp_path: Path, text: str) -> None:
    column, found, mend = SYNTAX[text]
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "eval.jsonl").write_text(ROW)
    (folder / "train.jsonl").write_text(f"{ROW}\n{text.replace(chr(10), ' ')}\n{ROW}\n")
    message = told(folder)
    assert message.startswith(
        f"{{folder}}/d/train.jsonl: line 2, column {int(column) + 1 if column else ''}"
    )
    assert message.endswith(f": {found} (expected JSON). Hint: {mend}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LINES.replace(b"\n", b"\r"),
            ": lines that end in CR alone (expected lines that end in LF, or CR and LF). "
            "Hint: write it with LF: tr '\\r' '\.\n' < train.jsonl > NEW",
        ),
        (
            b"[]",
            ": one JSON list, not JSON Lines (expected a record on each line). Hint: write each "
            "record on a line of its own, without brackets around them.",
        ),
        (
            b"[]\n[]",
            ': line 1: train[0]: a list (expected {"prompt": …, "completion": …}). Hint: make the '
            "record an object.",
        ),
        (
            b"{'prompt': 'a'}\n" * 5000,
            ": single quotes or words of Python, as repr() and str() write them in all 5,000 "
            "records (expected JSON). Hint: write it by json.dumps.",
        ),
        (
            f"{ROW} {ROW}\n{ROW}".encode(),
            ": line 1, column 36: another record on the same line (expected JSON). Hint: write each "
            "record on a line of its own.",
        ),
        (
            b'{\n"prompt": "a",\n"completion": "b"\n}\n',
            ": line 1, column 2: a record that goes on at the next line (expected JSON). "
            "Hint: write each record on a line of its own, line breaks in texts as \.\n",
        ),
        (
            f'{ROW}\n{{"prompt": "a\n'.encode(),
            ": line 2, column 12: no valid JSON (Unterminated string starting at) (expected "
            "JSON). Hint: the file may have been cut off: write it again.",
        ),
    ],
)
def test_json_lines_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "eval.jsonl").write_text(ROW)
    (folder / "train.jsonl").write_bytes(content)
    assert told(folder).splitlines()[0] == "{folder}/d/train.jsonl" + message


@pytest.mark.parametrize(
    ("files", "mend"),
    [
        ({"train.json": "[]", "validation.json": "[]"},
         'merge the lists of train.json and validation.json into d.json: {"train": […], '
         '"eval": […]}'),
        ({"train.json": f"{ROW}\n{ROW}", "eval.json": f"{ROW}\n{ROW}"},
         "rename the files: eval.json is JSON Lines"),
        ({"train.csv": "a,b"}, "train.csv is comma-separated values (CSV): write its rows as JSON "
         f'Lines, as by pandas: read_csv("train.csv"){PANDAS.format("train")}'),
        ({"dataset_dict.json": "{}"},
         'export each split with datasets: load_from_disk(…)["train"].to_json("train.jsonl")'),
        ({"notes.txt": ""}, "add the files"),
    ],
)  # fmt: skip
def test_a_folder_of_other_files(tmp_path: Path, files: dict[str, str], mend: str) -> None:
    (tmp_path / "d").mkdir()
    for name, text in files.items():
        (tmp_path / "d" / name).write_text(text)
    assert told(tmp_path / "d") == (
        "{folder}/d: a folder without train.jsonl and eval.jsonl (expected both, with one record "
        f"a line). Hint: {mend}."
    )


def test_two_files_that_could_be_eval(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("train", "dev", "val"):
        (tmp_path / "d" / f"{name}.jsonl").write_text(ROW)
    assert told(tmp_path / "d") == (
        "{folder}/d: no eval.jsonl, but dev.jsonl and val.jsonl (expected one file of eval "
        "records). Hint: rename one of them to eval.jsonl."
    )


def test_a_name_of_which_there_is_a_file_of_another_kind(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.data.mkdir()
    (mount.data / "mine.json.gz").write_bytes(b"\x1f\x8b\x08")
    (mount.data / "old.json.bak").write_text(ROW)
    start = f"--data_name {{0}}: does not exist (expected one of {mount.data}/{{0}}.json, " \
            f"{mount.data}/{{0}}.jsonl, {mount.data}/{{0}}, {{0}}). Hint: "  # fmt: skip
    assert [str(find_data(mount, name)[1][0]) for name in ("mine", "old")] == [
        start.format("mine")
        + f"{mount.data}/mine.json.gz is a file packed by gzip: unpack it: gunzip mine.json.gz.",
        start.format("old") + f"to use {mount.data}/old.json.bak, give its path.",
    ]


def of_holding_out(path: Path) -> list[Problem]:
    """The problems of a JSON file of which records are to be held out."""
    with pytest.raises(BadInput) as caught:
        check_records(DataSource({"": path}, SPLITS, held_out=HeldOut(0.2, 0)), Seq2Seq.schema)
    return caught.value.problems


def in_the_way(path: Path) -> str:
    (problem,) = of_holding_out(path)
    return problem.found


def prompts_of(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The prompts that are read of each split."""
    found: dict[str, list[str]] = {}
    names = check_records(
        DataSource(files, SPLITS),
        Seq2Seq.schema,
        lambda name, record: found.setdefault(name, []).append(record["prompt"]),
    )
    return {split: found[name] for split, name in names.items()}


@pytest.mark.parametrize("name", ["validation", "valid", "dev", "val", "test"])
def test_another_word_for_eval_is_read_where_there_is_no_eval(tmp_path: Path, name: str) -> None:
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
    assert in_the_way(path) == f"0.2, and the records of {name}"
    path.write_text(json.dumps({"eval": [], **lists}))
    assert in_the_way(path) == f"0.2, and the records of {name}"
    assert prompts_of({"": path}) == {"train": ["a"], "eval": ["e"]}
    path.write_text(json.dumps(lists | {"eval": [json.loads(ROW)], "nested": {name: 1}}))
    assert in_the_way(path) == "0.2, and the records of eval"
    wrong = {"train": lists["train"], name: [{"prompt": 1, "completion": "f"}]}
    path.write_text(json.dumps(wrong))
    assert told(path) == (
        f"{{folder}}/d.json: {name}[0].prompt: the number 1 (expected a text). Hint: write it in "
        "quotes."
    )


@pytest.mark.parametrize(
    "name",
    ["Eval", " eval", "EVAL", "evals", "evaluation", "Validation", "validaton", "Dev", "dev_set",
     "test_data", "Test", "valid-1", "val split", "development"],
)  # fmt: skip
def test_records_of_nearly_a_name_of_eval_are_not_passed_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d.json"
    for others in ({}, {"eval": []}):
        path.write_text(json.dumps({"train": [json.loads(ROW)], name: [json.loads(ROW)]} | others))
        found = f'the key "{name}"'
        message = Problem(str(path), found, 'the key "eval"', 'rename it to "eval"')
        assert of_holding_out(path) == [message]
        for splits in (SPLITS, ["eval"]):
            assert told(path, splits) == str(message).replace(str(tmp_path), "{folder}")


def test_other_keys_are_no_eval_records() -> None:
    records = [json.loads(ROW)]
    names = ["values", "devices", "text", "best", "rest", "invalid", "train", "trained", "evil"]
    assert near_eval_names(dict.fromkeys(names, records)) == []
    assert near_eval_names({"Eval": [1], "tests": [], "dev_set": {"a": records}, "evals": ""}) == []


def problems_of(path: Path, records: list[Any]) -> str:
    path.write_text(json.dumps({"train": records, "eval": [json.loads(ROW)]}))
    return told(path)


def test_a_problem_that_many_records_share_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    at = "{folder}/d.json: train"
    good = json.loads(ROW)
    lacking = 'expected "completion": an answer to learn; add it'
    assert problems_of(path, [{"prompt": "a"}] * 5000) == (
        f"{at}: found no key \"completion\" (keys: 'prompt') in all 5,000 records; {lacking}"
    )
    assert problems_of(path, [good, *[{"prompt": "a"}] * 4]) == (
        f"{at}[1]: found no key \"completion\" (keys: 'prompt') (the first of 4 such records); "
        + lacking
    )
    numbers = [good | {"prompt": number} for number in range(40)]
    text = "expected a text; write it in quotes"
    assert problems_of(path, numbers) == (
        f"{at}.prompt: found the number 0 and the like in all 40 records; {text}"
    )
    assert problems_of(path, [*numbers[:3], good]) == "\n".join(
        f"{at}[{number}].prompt: found the number {number}; {text}" for number in range(3)
    )
    mixed = [good | {"prompt": 1}, good | {"completion": 2}, good | {"prompt": 3}] * 2
    assert [line.partition(": found")[0] for line in problems_of(path, mixed).splitlines()] == [
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


def test_of_what_is_held_out_there_is_one_on_each_side(tmp_path: Path) -> None:
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
        f"{tmp_path}/d.jsonl: a single record (expected two to hold one out). Hint: add records, "
        "or leave --eval_fraction out."
    )


def test_lines_are_all_eval_where_nothing_is_trained(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(f'{ROW}\n{{"prompt": 1}}')
    assert told(tmp_path / "d.jsonl", ["eval"]).startswith("{folder}/d.jsonl: line 2.prompt: found")


@pytest.mark.parametrize("flags", [{}, {"add_missing_tokens": True}, {"no_train": True}])
def test_what_is_evaluated_is_told_at_every_start(
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
        asked = {"data_name": data, "max_steps": 1, **flags, **others}
        prepare(make_job("seq2seq", model_init_name="small", **asked), mount)
        return [line for line in caplog.messages if line.startswith(("the eval", "held out"))]

    for _ in range(2):
        assert lines_of("named") == ["the eval records are those of dev"]
        assert lines_of("folder") == ["the eval records are those of val"]
        if "no_train" not in flags:
            held = ["held out to evaluate on: 2 of 10 records"]
            assert lines_of("alone", eval_fraction=0.2) == held
