"""Files with other layouts become data files that the program reads."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflow import make_job
from workflow.cli.main import main
from workflow.core.errors import BadInput
from workflow.data.importing.read import read
from workflow.data.reading import check_records
from workflow.data.records import Record
from workflow.data.source import DataSource
from workflow.runs.mount import Mount, find_data
from workflow.tasks import task_for

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thanks"},
]
SHARED = [
    {"from": role, "value": turn["content"]}
    for role, turn in zip(
        ("system", "human", "gpt", "human", "chatgpt", "human"), CHAT, strict=True
    )
]
ARENA = {"id": 7, "model_a": "x", "model_b": "y", "winner_model_a": 0}
ARENA |= {"winner_model_b": 1, "winner_tie": 0}
LAYOUTS: dict[str, tuple[Record, Record]] = {
    "Alpaca": (
        {"instruction": "Add.", "input": "2 + 2", "output": "4", "label": "easy"},
        {"instruction": "Add.", "input": "2 + 2", "output": "4"},
    ),
    "Alpaca, an empty input": (
        {"instruction": "Name a prime.", "input": "", "output": "7"},
        {"instruction": "Name a prime.", "input": "", "output": "7"},
    ),
    "Alpaca, no input": (
        {"instruction": "Name a prime.", "input": None, "output": "7"},
        {"instruction": "Name a prime.", "output": "7"},
    ),
    "ShareGPT": ({"id": "a", "conversations": SHARED}, {"messages": CHAT[:-1]}),
    "OpenAI chat": ({"messages": CHAT}, {"messages": CHAT[:-1]}),
    "OpenAI chat, keys of messages": (
        {"messages": [CHAT[1] | {"name": "Ada"}, CHAT[2] | {"weight": 1}], "tools": []},
        {"messages": [CHAT[1] | {"name": "Ada"}, CHAT[2] | {"weight": 1}]},
    ),
    "OpenAI completions": (
        {"prompt": "Is it so?\n\n###\n\n", "completion": " yes END"},
        {"prompt": "Is it so?", "completion": "yes"},
    ),
    "Chatbot Arena": (
        ARENA | {"prompt": "[\"2?\", \"3?\"]", "response_a": "[\"4\", null]"}
        | {"response_b": "[\"two\", \"three\"]"},
        {"prompt": "2?\n\n3?", "response_a": "4\n\n", "response_b": "two\n\nthree", "label": "b"},
    ),
    "Chatbot Arena, lists": (
        ARENA | {"prompt": ["2?"], "response_a": ["4"], "response_b": ["two"]},
        {"prompt": "2?", "response_a": "4", "response_b": "two", "label": "b"},
    ),
    "SQuAD": (
        {"context": "It rains.", "question": "What?", "answers": {"text": ["rain", "it"]}},
        {"prompt": "It rains.\n\nWhat?", "completion": "rain"},
    ),
    "SAMSum": (
        {"id": "1", "dialogue": "A: Hi\r\nB: Hi", "summary": "They greet."},
        {"prompt": "A: Hi\r\nB: Hi", "completion": "They greet."},
    ),
    "translation": (
        {"translation": {"en": "cheese", "de": "Käse"}},
        {"prompt": "cheese", "completion": "Käse"},
    ),
    "preferences": (
        {"prompt": "2?", "chosen": "4", "rejected": "5", "source": "x"},
        {"prompt": "2?", "chosen": "4", "rejected": "5"},
    ),
    "text, label": ({"text": "Buy!", "label": 1}, {"input": "Buy!", "label": "1"}),
    "input, label": ({"input": "Buy!", "label": "spam"}, {"input": "Buy!", "label": "spam"}),
    "input, target": ({"input": "So?", "target": "0.5"}, {"input": "So?", "target": 0.5}),
    "text": ({"text": " As it is.\n", "url": "x"}, {"text": " As it is.\n"}),
    "pairs": (
        {"prompt": "2?", "response_a": "4", "response_b": "", "label": "a"},
        {"prompt": "2?", "response_a": "4", "response_b": "", "label": "a"},
    ),
    "prompts": (
        {"prompt": " 2?\n", "completion": "\n\n 4", "id": 7},
        {"prompt": " 2?\n", "completion": "\n\n 4"},
    ),
    "question, answer": (
        {"question": "2?", "answer": "4"},
        {"prompt": "2?", "completion": "4"},
    ),
}  # fmt: skip


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    made = Mount(tmp_path / "mount")
    made.data.mkdir(parents=True)
    return made


Import = Callable[..., dict[str, Any]]


@pytest.fixture
def imported(mount: Mount, tmp_path: Path) -> Import:
    """Import files of these contents, and return what is written."""

    def run(content: bytes | str, *words: str, name: str = "given.csv") -> dict[str, Any]:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        command = ["import", str(file), "new", "--mount", str(mount.root), "--overwrite", *words]
        assert main(command) == 0
        return read_as_a_job(mount)

    return run


def read_as_a_job(mount: Mount, name: str = "new") -> dict[str, list[Record]]:
    """The records that the program reads from an imported file, which must be all of them."""
    files, problems = find_data(mount, name)
    assert not problems
    written = json.loads(files[""].read_text())
    first = next(part[0] for part in written.values() if part)
    kind = "seq2seq" if first.keys() & {"completion", "output", "messages", "text"} else "clf"
    task = task_for(make_job(kind, model_init_name="any", data_name=name), first)
    found: dict[str, list[Record]] = {}
    splits = [split for split in ("train", "eval") if split in written]
    check_records(
        DataSource(files, splits), task.shape,
        lambda name, record: found.setdefault(name, []).append(record),
    )  # fmt: skip
    assert found == written
    return found


def dropped(mount: Mount) -> list[tuple[str, str]]:
    """The place and reason of each dropped record."""
    path = mount.data / "new.dropped.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["place"], line["reason"]) for line in lines]


def refused(
    capsys: pytest.CaptureFixture[str], mount: Mount, *words: object, name: str = "new"
) -> list[str]:
    """The messages for a command that is refused and leaves nothing behind."""
    before = sorted(mount.root.rglob("*"))
    assert main(["import", *map(str, words), name, "--mount", str(mount.root)]) == 2
    assert sorted(mount.root.rglob("*")) == before
    lines = [line for line in capsys.readouterr().err.splitlines() if line[2:3] != ":"]
    return [line.replace(str(mount.root.parent), "{at}") for line in lines]


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_known_layout(imported: Import, name: str) -> None:
    raw, expected = LAYOUTS[name]
    assert imported(json.dumps([raw] * 2), name="a.json") == {"train": [expected] * 2}


def test_every_kind_of_json_has_the_same_records(imported: Import) -> None:
    raw, expected = LAYOUTS["question, answer"]
    columns = {key: [value, value] for key, value in raw.items()}
    of_pandas = {key: {"0": value, "1": value} for key, value in raw.items()}
    lines = f"{json.dumps(raw)}\n\n{json.dumps(raw)}\n"
    for text in (json.dumps(columns), json.dumps(of_pandas, indent=1), lines, "\ufeff" + lines):
        assert imported(text) == {"train": [expected] * 2}
    assert imported(lines.encode("utf-16")) == {"train": [expected] * 2}
    assert imported(gzip.compress(lines.encode()), name="a.jsonl.gz") == {"train": [expected] * 2}
    assert imported(json.dumps(raw), name="a.jsonl") == {"train": [expected]}


def test_fields_and_templates(imported: Import, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {"q": "2?", "of": {"list": ["4", "5"]}, "id": 7, "a.b": "dots", "kind": "sum"}
    text = json.dumps([raw, raw | {"id": None}])
    words = ["--map", "prompt=q", "--map", "completion=of.list.1", "--map", "id=id"]
    made = {"prompt": "2?", "completion": "5"}
    assert imported(text, *words, name="a.json") == {"train": [made | {"id": 7}, made]}
    words = ["--template", "{kind} {id}: {q}", "--map", "completion=a.b"]
    assert imported(json.dumps([raw]), *words, name="a.json") == {
        "train": [{"prompt": "sum 7: 2?", "completion": "dots"}]
    }
    words = ["--template", "{q}", "--map", "label=kind"]
    made = {"input": "2?", "label": "sum"}
    assert imported(json.dumps([raw]), *words, name="a.json") == {"train": [made]}
    raw, _ = LAYOUTS["question, answer"]
    text = json.dumps([raw | {"source": "book"}])
    made = {"prompt": "Q: 2?", "completion": "4", "source": "book"}
    words = ["--template", "Q: {question}", "--map", "source=source"]
    assert imported(text, *words, name="a.json") == {"train": [made]}
    raw, made = LAYOUTS["Alpaca"]
    words = ["--template", "{instruction} {input} =", "--map", "completion=output"]
    assert imported(json.dumps([raw]), *words, name="a.json") == {
        "train": [{"prompt": "Add. 2 + 2 =", "completion": "4"}]
    }
    raw = {"task": "Add.", "turns": made, "chat": CHAT[1:3], "body": "2 + 2"}
    words = ["--map", "instruction=task", "--map", "output=turns.output"]
    made = {"instruction": "Add.", "output": "4"}
    assert imported(json.dumps([raw]), *words, name="a.json") == {"train": [made]}
    assert imported(json.dumps([raw]), "--map", "messages=chat", name="a.json") == {
        "train": [{"messages": CHAT[1:3]}]
    }
    assert imported('[{"text": "a", "label": "b"}]', "--template", "Is it {text}?") == {
        "train": [{"input": "Is it a?", "label": "b"}]
    }


def test_json_is_read_as_a_stream(tmp_path: Path) -> None:
    """The first record is there before the file is read to its end, where it is damaged."""
    raw, _ = LAYOUTS["question, answer"]
    end = "x" * (3 << 20)
    for text, place in (
        (f"[{json.dumps(raw)}, ", "[0]"),
        (f'{{"dev": [{json.dumps(raw)}, ', "dev[0]"),
    ):
        (tmp_path / "a.json").write_text(f'{text}"{end}", 5 5]')
        found = read(tmp_path / "a.json")
        assert (first := next(found)).place == place and first.value == raw
        with pytest.raises(BadInput, match="Expecting ',' delimiter: line 1"):
            list(found)


def test_json_in_other_encodings(imported: Import, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps([{"question": "Käse?", "answer": "ja"}] * 3, ensure_ascii=False, indent=1)
    made = {"prompt": "Käse?", "completion": "ja"}
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        assert imported(text.encode(encoding), name="a.json") == {"train": [made] * 3}
    assert 'line 3 is not UTF-8; reading the file as Windows-1252: \'"question"' in (
        capsys.readouterr().err
    )
    rows = b"question,answer\n1," + b"2" * (1 << 20) + b"\n3,caf" + "é".encode()
    assert imported(rows)["train"][1] == {"prompt": "3", "completion": "café"}
    assert imported(rows[:-1])["train"][1] == {"prompt": "3", "completion": "cafÃ"}
    assert "line 3 is not UTF-8; reading the file as Windows-1252: '3,cafÃ'" in (
        capsys.readouterr().err
    )


# --- CSV -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(imported: Import, mount: Mount, delimiter: str, end: str) -> None:
    rows = [
        ["question", "answer"],
        ['"one, two; three"', '"a ""quoted"" word"'],
        ['"two\nlines | here\tand"', "b"],
        [],
        ["ragged"],
        ["", "no question"],
    ]
    text = end.join(delimiter.join(row) for row in rows)
    assert imported("\ufeff" + text) == {
        "train": [
            {"prompt": "one, two; three", "completion": 'a "quoted" word'},
            {"prompt": "two\nlines | here\tand", "completion": "b"},
        ]
    }
    assert dropped(mount) == [("line 6", "a ragged row"), ("line 7", "an empty prompt")]


def test_windows_1252(imported: Import, capsys: pytest.CaptureFixture[str]) -> None:
    text = "question,answer\nplain,a\ncafé “so”,b\n"
    found = imported(text.encode("cp1252"))
    assert found["train"][1] == {"prompt": "café “so”", "completion": "b"}
    assert (
        "line 3 is not UTF-8; reading the file as Windows-1252: 'café “so”,b'"
        in capsys.readouterr().err
    )


# --- splits --------------------------------------------------------------------------------------


def test_held_out_records_stay_where_they_are(imported: Import) -> None:
    raw = [{"question": str(number), "answer": "a"} for number in range(300)]
    first = imported(json.dumps(raw[:200]), "--split", "0.1", "--seed", "3", name="a.json")
    more = imported(json.dumps(raw), "--split", "0.1", "--seed", "3", name="a.json")
    other = imported(json.dumps(raw), "--split", "0.1", "--seed", "4", name="a.json")
    assert 5 < len(first["eval"]) < 40 and other["eval"] != more["eval"]
    for split in ("train", "eval"):
        assert more[split][: len(first[split])] == first[split]
    assert len(more["train"]) + len(more["eval"]) == 300


def test_splits_of_files_and_keys(mount: Mount, tmp_path: Path, imported: Import) -> None:
    def row(text: str) -> str:
        return f"question,answer\n{text},a\n"

    for stem in ("my-train", "my-validation", "part1", "part2"):
        (tmp_path / f"{stem}.csv").write_text(row(stem))
    at = ["new", "--mount", str(mount.root), "--overwrite"]
    assert main(["import", *(f"{tmp_path}/my-{s}.csv" for s in ("validation", "train")), *at]) == 0
    assert {split: part[0]["prompt"] for split, part in read_as_a_job(mount).items()} == {
        "train": "my-train", "eval": "my-validation",
    }  # fmt: skip
    assert main(["import", *(f"{tmp_path}/part{number}.csv" for number in "12"), *at]) == 0
    assert [one["prompt"] for one in read_as_a_job(mount)["train"]] == ["part1", "part2"]
    raw, made = LAYOUTS["question, answer"]
    parts = imported(json.dumps({"meta": 1, "train": [raw], "dev": [raw] * 2}), name="a.json")
    assert parts == {"train": [made], "eval": [made] * 2}


# --- what is dropped -----------------------------------------------------------------------------


def test_dropped_records_are_listed(
    imported: Import, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"question": "2?", "answer": "4"}
    values: list[tuple[object, str]] = [
        (good | {"answer": 4}, "completion: the number"),
        ({"question": "2?"}, "no answer"),
        (good | {"answer": None}, "no answer"),
        (good | {"question": " "}, "an empty prompt"),
        (good | {"question": "a\0b"}, "prompt: a NUL byte"),
        (good | {"question": "\ud800"}, "prompt: the lone surrogate"),
        (["2?", "4"], "not an object"),
    ]
    lines = [json.dumps(good), *(json.dumps(value) for value, _ in values), "{", json.dumps(good)]
    lines.append('{"question": "a", "question": "b", "answer": "c"}')
    lines.append('{"question": NaN, "answer": "c"}')
    assert len(imported("\n".join(lines), name="a.jsonl")["train"]) == 2
    reasons = [*(reason for _, reason in values), "invalid JSON"]
    expected = [(f"line {number}", reason) for number, reason in enumerate(reasons, start=2)]
    expected += [("line 11", "duplicate keys"), ("line 12", "prompt: NaN")]
    assert dropped(mount) == expected
    assert "2 × no answer" in capsys.readouterr().err
    imported(json.dumps([good]), name="a.json")
    assert not dropped(mount)  # those of an earlier import are gone


def test_chats_that_do_not_fit(
    imported: Import, mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    user, system, said = ({"role": r, "content": "Hi"} for r in ("user", "system", "assistant"))
    values: list[tuple[object, str]] = [
        (5, "messages: the number"),
        ([], "messages: an empty list"),
        ([user, system], "messages: system in the last message"),
        ([said, user], "messages: an answer alone"),
        ([1, said], "messages[0]: the number"),
        ([user, said | {"content": None}], "messages[1].content: null"),
        ([user, said, user, said | {"content": None}], "messages[3].content: null"),
        ([user | {"content": [{"type": "text"}]}, said], "messages[0].content: a list"),
        ([user, user | {"role": "tool"}, said], "messages[1].role: 'tool'"),
    ]
    lists = [CHAT, *(value for value, _ in values)]
    imported(json.dumps([{"messages": value} for value in lists]), name="a.json")
    assert dropped(mount) == [(f"[{i}]", reason) for i, (_, reason) in enumerate(values, start=1)]
    assert "2 × messages[…].content: null" in capsys.readouterr().err
    turns = [SHARED[1], {"from": "gpt", "value": None}]
    lists = [SHARED, turns, [*SHARED, *turns], [*SHARED, {"from": "gpt"}], SHARED[:2], "Hi"]
    imported(json.dumps([{"conversations": value} for value in lists]), name="a.json")
    assert dropped(mount) == [
        ("[1]", "no conversations.1.value"),
        ("[2]", "no conversations.7.value"),
        ("[3]", "no conversations.6.value"),
        ("[4]", "messages: user in the last message"),
        ("[5]", "messages: an empty list"),
    ]
    assert "3 × no conversations.….value" in capsys.readouterr().err


def test_empty_completions_stay(imported: Import, mount: Mount) -> None:
    rows = "question,answer\nWho?,\nWhen?,now\n"
    assert imported(rows)["train"][0] == {"prompt": "Who?", "completion": ""}
    raw, made = LAYOUTS["Alpaca"]
    found = imported(json.dumps([raw, raw | {"output": ""}]), name="a.json")
    assert found == {"train": [made, made | {"output": ""}]}
    raw, made = LAYOUTS["SQuAD"]  # and version 2.0, where a question may have no answer
    found = imported(json.dumps([raw, raw | {"answers": {"text": []}}]), name="a.json")
    assert found == {"train": [made, made | {"completion": ""}]}
    assert not dropped(mount)


def test_a_failed_import_keeps_the_old_file(
    imported: Import, mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported("question,answer\n1,2\n,3\n")
    before = {path: path.read_bytes() for path in mount.data.iterdir()}
    assert len(before) == 2
    file = tmp_path / "b.csv"
    file.write_text('question,answer\n4,5\n"6,7\n')
    assert refused(capsys, mount, file) == [
        "NAME new: {at}/mount/data/new.json exists (expected a new name). "
        "Hint: choose another name, or add --overwrite."
    ]
    assert "unexpected end of data" in refused(capsys, mount, "--overwrite", file)[0]
    assert {path: path.read_bytes() for path in mount.data.iterdir()} == before


def test_where(imported: Import, mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    raw = [{"text": str(i), "label": i % 3, "of": {"good": i < 5}} for i in range(9)]
    found = imported(
        json.dumps(raw), "--where", "label=1", "--where", "of.good=true", name="a.json"
    )
    assert [one["input"] for one in found["train"]] == ["1", "4"]
    assert "7 × excluded by --where" in capsys.readouterr().err and not dropped(mount)


VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.text(max_size=2)))
RAW = st.one_of(
    st.dictionaries(st.sampled_from(["question", "answer", "id"]), VALUES),
    st.fixed_dictionaries({"question": st.text(max_size=9), "answer": st.text(max_size=9)}),
    VALUES,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(RAW, max_size=8))
def test_what_is_read_is_written_or_dropped(
    imported: Import, mount: Mount, values: list[object]
) -> None:
    values = [LAYOUTS["question, answer"][0], *values]
    for text, name in (
        (json.dumps(values), "a.json"),
        ("\n".join(map(json.dumps, values)), "a.jsonl"),
    ):
        assert len(imported(text, name=name)["train"]) + len(dropped(mount)) == len(values)


# --- bad uses ------------------------------------------------------------------------------------


def test_all_problems_at_once(
    mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "train.csv").write_text("question,answer\na,b\n")
    (tmp_path / "other.csv").write_text("question,answer\na,b\n")
    (mount.data / "old.jsonl").touch()
    files = [tmp_path / name for name in ("no.csv", "empty", "train.csv", "other.csv")]
    words = ["--map=prompt=a", "--map=prompt=b", files[3]]
    assert refused(capsys, mount, *words, *files, name="old") == [
        "{at}/no.csv: does not exist (expected a data file). Hint: correct the path.",
        "{at}/empty: a folder without .arrow files (expected a data file). Hint: correct the path.",
        "other.csv and no.csv and empty: no split in the name (expected one, as in the others). "
        "Hint: rename them, for example to train.csv and eval.csv.",
        "{at}/other.csv: given twice (expected each once). Hint: remove one of them.",
        "--map prompt: given twice (expected each once). Hint: remove one of them.",
        "NAME old: {at}/mount/data/old.jsonl exists (expected a new name). "
        "Hint: choose another name.",
        "(6 problems in all)",
    ]


@pytest.mark.parametrize("name", ["../new", "/new", ".new", ".", "a/../../new", "a\nb"])
def test_names_outside_of_the_data(
    mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "a.csv").write_text("question,answer\na,b\n")
    assert refused(capsys, mount, tmp_path / "a.csv", name=name) == [
        f"NAME {name!r}: outside of mount/data, hidden or not printable "
        "(expected a name in {at}/mount/data). Hint: choose another name."
    ]


BAD: dict[str, tuple[bytes, list[str], str]] = {
    "an unknown layout": (
        b"q,a\n1,2\n", [],
        "{file}: the keys 'q', 'a' (expected the keys of a known layout, or --map). "
        "Hint: name the fields, for example --map prompt=q --map completion=a.",
    ),
    "one column": (
        b"question\n1\n", [],
        "{file}: the keys 'question' (expected the keys of a known layout, or --map). "
        "Hint: name the fields, for example --map prompt=question --map completion=FIELD.",
    ),
    "nothing that fits": (
        b"q,a\n1,\n,2\n", ["--map", "prompt=q", "--map", "completion=b"],
        "import: no record to import: 2 × no b (expected at least one record). "
        "Hint: correct the flags or the files.",
    ),
    "a template of a chat": (
        json.dumps([{"messages": CHAT}]).encode(), ["--template", "{messages.0.content}"],
        "--template: a prompt beside messages (expected the prompt of a completion). "
        "Hint: add --map completion=PATH.",
    ),
    "columns of different lengths": (
        b'{"question": ["a", "b"], "answer": ["c"]}', [],
        "{file}: an object with the keys 'question', 'answer' (expected a list, an object of "
        'splits, or of columns of equal length). Hint: name the list of records "train".',
    ),
    "a record alone": (
        b'{"question": "ab", "answer": "cd"}', [],
        "{file}: an object with the keys 'question', 'answer' (expected a list, an object of "
        'splits, or of columns of equal length). Hint: name the list of records "train".',
    ),
    "two lists of one name": (
        b'{"train": [{"prompt": "a", "completion": "b"}], "train": []}', [],
        "{file}: the duplicate key 'train' (expected unique keys). Hint: keep one of them.",
    ),
    "a cut JSON file": (
        b'[{"prompt": "a", "completion": "b"},', [],
        "{file}: Expecting value: line 1 column 37 (char 36) (expected an intact file). "
        "Hint: write it again.",
    ),
    "more after the end": (
        b'{"train": [{"prompt": "a", "completion": "b"}]}\n[]', [],
        "{file}: Extra data: line 2 column 1 (char 48) (expected an intact file). "
        "Hint: write it again.",
    ),
    "an empty file": (
        b"", [], "{file}: Expecting value: line 1 column 1 (char 0) (expected an intact file). "
        "Hint: write it again.",
    ),
    "duplicate columns": (
        b"a,a\n1,2\n", [],
        "{file}: line 1: a duplicate column in 'a', 'a' (expected unique names). "
        "Hint: rename one of them.",
    ),
    "an open quote": (
        b'question,answer\n1,2\n"3,4\n5,6\n', [],
        "{file}: line 3: unexpected end of data (expected a row of CSV). "
        'Hint: put cells with " in quotes, and double each " inside.',
    ),
    "other objects": (
        b'{"version": "1", "data": [{}]}', [],
        "{file}: an object with the keys 'version', 'data' (expected a list, an object of splits, "
        'or of columns of equal length). Hint: name the list of records "train".',
    ),
    "a cut gzip file": (
        gzip.compress(b"question,answer\n1,2\n")[:-9], [],
        "{file}: Compressed file ended before the end-of-stream marker was reached "
        "(expected an intact file). Hint: write it again.",
    ),
    "an Excel file": (
        b"\xd0\xcf\x11\xe0", [],
        "{file}: an old Excel or Office file (expected CSV, JSON, JSON Lines or Parquet, also in "
        "gzip or zstd). Hint: name its columns like the keys of a record, then use pandas: "
        'read_excel("a.dat").to_json("a.jsonl", orient="records", lines=True).',
    ),
    "two splits for eval": (
        b'{"train": [], "dev": [{"prompt": "a", "completion": "b"}], '
        b'"val": [{"prompt": "a", "completion": "b"}]}', [],
        "splits: dev and val, both for eval (expected one for eval). "
        "Hint: remove one of them, or rename it.",
    ),
    "a split beside --split": (
        b'{"eval": [{"prompt": "a", "completion": "b"}]}', ["--split", "0.5"],
        "splits: eval, with --split (expected one for eval). "
        "Hint: remove one of them, or rename it.",
    ),
    "a single record to split": (
        b'[{"prompt": "a", "completion": "b"}]', ["--split", "0.01"],
        "--split: no record in eval (expected records in both). Hint: set another share or seed.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file(
    mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content, words, message = BAD[name]
    file = tmp_path / "a.dat"
    file.write_bytes(content)
    found = refused(capsys, mount, *words, file)
    assert found == [message.replace("{file}", "{at}/a.dat")]


@pytest.mark.parametrize(
    ("content", "package"), [(b"PAR1", "pyarrow"), (b"\x28\xb5\x2f\xfd", "zstandard")]
)
def test_a_missing_package(
    mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, package: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)  # as if not installed
    (tmp_path / "a.dat").write_bytes(content)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.arrow").touch()
    hint = f"run scripts/setup --extra import, or pip install {package}"
    message = f"needs {package}, which is missing (expected the package). Hint: {hint}."
    assert refused(capsys, mount, tmp_path / "a.dat") == [f"{{at}}/a.dat: {message}"]
    if package == "pyarrow":
        assert refused(capsys, mount, tmp_path / "set") == [f"{{at}}/set/data.arrow: {message}"]


@pytest.mark.parametrize("flag", ["--map=a", "--map=a=", "--where==b", "--split=1", "--split=x"])
def test_a_bad_flag(mount: Mount, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["import", "a.csv", "new", flag])
    assert raised.value.code == 2
    assert f"error: argument {flag.partition('=')[0]}: " in capsys.readouterr().err


def test_the_real_command(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("question\tanswer\tid\n2 + 2?\t4\t1\n\t5\t2\n")
    command = [sys.executable, "-m", "workflow", "import", "pairs.tsv", "sums", "--mount", "mount"]
    result = subprocess.run(
        command, cwd=tmp_path, text=True, capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert [line[9:] for line in result.stderr.splitlines()] == [
        "pairs.tsv: CSV in UTF-8, divided by tabs",
        "layout: questions (question, answer)",
        "not imported: 'id'; --map id=id imports one",
        "wrote records to mount/data/sums.json: 1 train",
        "dropped 1 × an empty prompt; the dropped records are listed in "
        "mount/data/sums.dropped.jsonl",
        "no eval records; --split 0.1 here, or --eval_fraction 0.1 in the job, holds some out",
    ]
    assert result.returncode == 0
    assert json.loads((tmp_path / "mount/data/sums.json").read_text()) == {
        "train": [{"prompt": "2 + 2?", "completion": "4"}]
    }
    (line,) = (tmp_path / "mount/data/sums.dropped.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "file": "pairs.tsv", "place": "line 3", "reason": "an empty prompt",
        "record": {"question": "", "answer": "5", "id": "2"},
    }  # fmt: skip
