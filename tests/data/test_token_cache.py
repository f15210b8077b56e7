"""Records are tokenized once; the cache is shared, safe, and specific to data and tokenizer."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import T5_TINY, addition_records
from forks import CONTEXT, Fork, finish
from transformers import AutoTokenizer

import workflow.data.json_stream
import workflow.data.token_cache
import workflow.data.token_writer
from workflow.core.errors import BadInput, RunFailed
from workflow.data.reading import check_records
from workflow.data.source import DataSource
from workflow.data.text_ids import fingerprint
from workflow.data.token_cache import TokenizedSplit, prepare_splits
from workflow.tasks.seq2seq import Seq2Seq

RECORDS = [
    {"prompt": "add one: 1", "completion": "2", "note": {"käse": [1, None, "\u2028"]}},
    {"prompt": "", "completion": "yes"},
    *addition_records(5),
]


def prepare(
    folder: Path, tokenizer: Any, train: Any = RECORDS, answers_needed: bool = True
) -> dict[str, TokenizedSplit]:
    path = folder / "data.json"
    path.write_text(json.dumps({"train": train, "eval": RECORDS[:3]}))
    source = DataSource({"": path}, ["train", "eval"], answers_needed)
    return prepare_splits(source, Seq2Seq(), tokenizer, folder / "cache")


def forbid_tokenizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(Seq2Seq, "encode", refuse)
    monkeypatch.setattr(workflow.data.token_cache, "check_records", refuse)


def test_ids_and_records_round_trip(tmp_path: Path, tokenizer: Any) -> None:
    split = prepare(tmp_path, tokenizer)["train"]
    assert len(split) == len(RECORDS)
    for index, record in enumerate(RECORDS):
        assert split.record(index) == record
        assert split.sources.row(index, 99).tolist() == tokenizer(record["prompt"])["input_ids"]
        expected = tokenizer(record["completion"])["input_ids"]
        assert split.targets.row(index, 99).tolist() == expected
    lengths = [len(tokenizer(record["prompt"])["input_ids"]) for record in RECORDS]
    assert split.sources.lengths(99).tolist() == lengths
    assert split.sources.lengths(4).tolist() == [min(length, 4) for length in lengths]


def test_a_second_start_tokenizes_nothing(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(tmp_path, tokenizer)
    forbid_tokenizing(monkeypatch)
    again = prepare(tmp_path, AutoTokenizer.from_pretrained(T5_TINY))
    assert np.array_equal(again["train"].sources.values[:], first["train"].sources.values[:])


def test_other_data_or_another_tokenizer_is_another_cache(tmp_path: Path, tokenizer: Any) -> None:
    prepare(tmp_path, tokenizer)
    other = AutoTokenizer.from_pretrained(T5_TINY)
    other.add_tokens(["dd on"])
    assert fingerprint(other) != fingerprint(tokenizer)
    assert 1000 in prepare(tmp_path, other)["train"].sources.values[:]
    changed = prepare(tmp_path, tokenizer, [{"prompt": "no", "completion": "yes"}])
    assert changed["train"].record(0) == {"prompt": "no", "completion": "yes"}
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_no_split_is_cached_if_another_has_problems(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.data.token_writer, "CHUNK", 2)
    wrong = {"eval": addition_records(5), "train": [*addition_records(5), {"prompt": 1}]}
    for text in (json.dumps(wrong), json.dumps(wrong)[:-20]):
        (tmp_path / "data.json").write_text(text)
        source = DataSource({"": tmp_path / "data.json"}, list(wrong))
        with pytest.raises(BadInput):
            prepare_splits(source, Seq2Seq(), tokenizer, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []


def test_only_a_missing_split_is_tokenized(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.data.token_writer, "CHUNK", 2)
    first = prepare(tmp_path, tokenizer)
    written = {name: contents(tmp_path / "cache" / first[name].key) for name in first}
    shutil.rmtree(tmp_path / "cache" / first["eval"].key)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    again = prepare(tmp_path, tokenizer)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.is_file())
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "cache")
    prepare(tmp_path, tokenizer)
    for name in again:
        assert contents(tmp_path / "cache" / again[name].key) == written[name]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_memory_does_not_grow_with_the_records(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, tokenizing, and reading rows again; 24 bytes a record are offsets."""
    monkeypatch.setattr(Seq2Seq, "encode", lambda *given: ([[1, 2, 3]] * len(given[-1]),) * 2)
    monkeypatch.setattr(workflow.data.token_writer, "CHUNK", 200)
    monkeypatch.setattr(workflow.data.json_stream, "WINDOW", 10_000)
    peaks = {}
    for count in (2_000, 20_000):
        data = {"train": addition_records(count), "eval": addition_records(1)}
        path = tmp_path / "many.json"
        path.write_text(json.dumps(data))
        del data
        tracemalloc.start()
        source = DataSource({"": path}, ["train", "eval"])
        splits = prepare_splits(source, Seq2Seq(), tokenizer, tmp_path / "cache")
        for index in range(0, count, 10):
            splits["train"].record(index)
            splits["train"].sources.row(index, 99)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[20_000] < peaks[2_000] + 40 * 18_000
    assert peaks[20_000] < 3_000_000


def test_long_records_are_tokenized_one_by_one(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are bounded in bytes and in records, and give the same cache."""
    lengths = [5, 5, 400, 5, 100, 100, 5, 5, 5, 5]
    records = [{"prompt": "add one: 1 " * count, "completion": "2"} for count in lengths]
    whole = prepare(tmp_path, tokenizer, records)["train"]
    expected = contents(tmp_path / "cache" / whole.key)
    shutil.rmtree(tmp_path / "cache")
    chunks: list[int] = []
    encode = Seq2Seq.encode

    def noted(task: Seq2Seq, tokenizer: Any, records: Any) -> Any:
        chunks.append(len(records))
        return encode(task, tokenizer, records)

    monkeypatch.setattr(Seq2Seq, "encode", noted)
    monkeypatch.setattr(workflow.data.token_writer, "CHUNK", 3)
    monkeypatch.setattr(workflow.data.token_writer, "CHUNK_BYTES", 2_500)
    again = prepare(tmp_path, tokenizer, records)["train"]
    assert contents(tmp_path / "cache" / again.key) == expected
    assert sorted(chunks) == [1, 1, 2, 3, 3, 3]  # the last three are those of eval
    assert [stop - start for start, stop in again.chunks()] == [2, 1, 3, 3, 1]
    bounds = list(again.chunks())
    assert [one for start, stop in bounds for one in again.records(start, stop)] == records
    rows = [row.tolist() for start, stop in bounds for row in again.sources.rows(start, stop)]
    assert rows == [again.sources.row(i).tolist() for i in range(len(records))]


def test_a_cache_truncated_while_in_use_is_reported(tmp_path: Path, tokenizer: Any) -> None:
    split = prepare(tmp_path, tokenizer)["train"]
    (tmp_path / "cache" / split.key / "records.jsonl").write_bytes(b"{}")
    with pytest.raises(RunFailed, match=r"records\.jsonl was truncated while in use"):
        split.record(0)


def test_a_cache_with_missing_answers_is_not_used_for_training(
    tmp_path: Path, tokenizer: Any
) -> None:
    records = [RECORDS[0], {"prompt": "open"}]
    split = prepare(tmp_path, tokenizer, records, answers_needed=False)["train"]
    assert split.answered.tolist() == [True, False]
    with pytest.raises(BadInput, match=r'train\[1\]: no key "completion"'):
        prepare(tmp_path, tokenizer, records, answers_needed=True)


@pytest.mark.parametrize("name", ["source.ids", "target.offsets", "records.jsonl", "sizes.json"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, tokenizer: Any, name: str) -> None:
    prepare(tmp_path, tokenizer)
    for folder in (tmp_path / "cache").iterdir():
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-3])
    assert prepare(tmp_path, tokenizer)["train"].record(0) == RECORDS[0]
    again = prepare(tmp_path, tokenizer)["train"]
    assert again.sources.row(0, 99).tolist() == tokenizer("add one: 1")["input_ids"]


def _prepare_many(folder: Path, barrier: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(T5_TINY)
    barrier.wait()
    source = DataSource({"": folder / "data.json"}, ["train"])
    splits = prepare_splits(source, Seq2Seq(), tokenizer, folder / "cache")
    assert splits["train"].record(2999)["id"] == 2999 * 37


def test_several_jobs_may_start_at_once(tmp_path: Path) -> None:
    data = {"train": addition_records(3000), "eval": addition_records(1)}
    (tmp_path / "data.json").write_text(json.dumps(data))
    barrier = CONTEXT.Barrier(3)
    done = finish(Fork(_prepare_many, tmp_path, barrier) for _ in range(3))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_json_lines_give_the_same_records(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("train", "eval"):
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in RECORDS)
        (tmp_path / f"{name}.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "eval")}
    source = DataSource(files, ["train", "eval"])
    splits = prepare_splits(source, Seq2Seq(), tokenizer, tmp_path / "cache")
    assert [splits["train"].record(i) for i in range(len(RECORDS))] == RECORDS


def test_an_empty_completion_is_eos_and_a_missing_one_has_no_target(
    tmp_path: Path, tokenizer: Any
) -> None:
    completions = ["2", "", " \n"]
    records = [{"prompt": "a", "completion": text} for text in completions]
    split = prepare(tmp_path, tokenizer, [*records, {"prompt": "a"}], answers_needed=False)["train"]
    rows = [split.targets.row(i, 9).tolist() for i in range(4)]
    assert rows[1:] == [[tokenizer.eos_token_id]] * 2 + [[]]
    assert split.answered.tolist() == [True] * 3 + [False]
    assert split.record(2) == records[2]


def test_data_changed_while_reading_is_not_cached(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_and_change(source: DataSource, *others: Any) -> dict[str, str]:
        names = check_records(source, *others)
        with source.files[""].open("a") as file:
            file.write(" ")
        return names

    monkeypatch.setattr(workflow.data.token_cache, "check_records", check_and_change)
    with pytest.raises(BadInput, match=r"data\.json: changed while it was read"):
        prepare(tmp_path, tokenizer)
    assert list((tmp_path / "cache").iterdir()) == []
