"""The audit counts every problem of the data exactly and reports it in readable lines."""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED_DATA, addition_records
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workflow.core.tables import as_lines
from workflow.data.audit import (
    AuditReport,
    audit_splits,
    figures,
    missing_characters,
    render,
    warnings_of,
)
from workflow.data.audit.round_trip import Damage
from workflow.data.records import Record
from workflow.data.shapes.targets import Targets
from workflow.data.source import DataSource
from workflow.data.text_ids import Frame
from workflow.data.token_cache import Encoder, prepare_splits
from workflow.tasks.seq2seq import Seq2Seq

LONG = "add one: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9"
TRAIN = [
    {"prompt": "code", "completion": "if {\n\tgo  on\n} ~"},  # 0: lost in a completion
    {"prompt": "same", "completion": "yes"},  # 1: contradicted by 2
    {"prompt": "same", "completion": "no"},
    {"prompt": "twice", "completion": "yes"},  # 3: 4 and 5 are duplicates
    {"prompt": "twice", "completion": "yes"},
    {"prompt": "twice", "completion": "yes"},
    {"prompt": " \n", "completion": "no"},  # 6: empty
    {"prompt": LONG, "completion": "no"},  # 7: truncated
    {"prompt": "sum", "completion": LONG},
    {"prompt": "a\nb  c   d", "completion": "\ufb01ve\u00a0go"},  # 9: lost; changed
    {"prompt": "stop</s> it", "completion": "no"},  # 10: a special token
    {"prompt": "do so:\n", "completion": "  indented"},  # 11: whitespace at an end
]
EVAL = [
    {"prompt": "same", "completion": "no"},
    {"prompt": "twice", "completion": "no"},
    {"prompt": "unseen", "completion": "yes"},
]
RENDERED = r"""
split  field        records  median tokens  p99 tokens  max tokens  truncated  lost characters
train  prompts           12              4          32          32          1                7
train  completions       12              2          32          32          1                9
eval   prompts            3              4           5           5          0                0
eval   completions        3              2           2           2          0                0
shape of the records: completion
train: 1 completion with lost characters (newline ×2, tab ×1, extra space ×1, { ×1, } ×1, ~ ×1), e.g. train[0] 'if {\n\tgo  on\n} ~'. Hint: add --add_missing_tokens
eval: 1 record also in train (train/eval overlap, inflates metrics), e.g. train[2] = eval[0] 'same'. Hint: remove them from train or eval
eval: 2 prompts also in train (train/eval overlap, any target), e.g. train[1] = eval[0] 'same'. Hint: remove them from train or eval
train: 2 contradicting records (1 prompt with different targets), e.g. train[1] 'same'. Hint: keep one per prompt
train: 1 truncated completion, e.g. train[8] 32 tokens. Hint: increase --max_target_length
train: 1 truncated prompt (end removed), e.g. train[7] 32 tokens. Hint: increase --max_source_length
train: 1 prompt with lost characters (extra space ×3, newline ×1), e.g. train[9] 'a\nb  c   d'. Hint: add --add_missing_tokens
train: 1 prompt with special tokens as text (</s> ×1), e.g. train[10] 'stop</s> it'. Hint: remove them
train: 1 empty prompt, e.g. train[6]. Hint: add text, or remove the records
train: 2 duplicate records, e.g. train[4] 'twice'. Hint: remove them, unless intended
train: 1 completion with lost leading or trailing whitespace (extra space ×2), e.g. train[11] '  indented'. Hint: strip it, or add --add_missing_tokens
train: 1 completion with changed characters (U+00A0 ×1, ﬁ ×1), e.g. train[9] '\ufb01ve\xa0go'. Hint: check whether this matters
train: 2 prompts with lost leading or trailing whitespace (newline ×2, extra space ×1), e.g. train[6] ' \n'. Hint: check whether this matters
"""  # noqa: E501


class Numbers:
    """A task whose targets are numbers."""

    encoding = "numbers"
    shape = Targets()

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        sources = tokenizer([record["input"] for record in records])["input_ids"]
        return sources, [[] for _ in records]

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {"source": (0, 1), "target": (0, 0)}


def lost_characters(report: AuditReport, part: str) -> dict[str, int]:
    """Counts of lost characters over all splits, without extra spaces."""
    counts: Counter[str] = Counter()
    for split in report["splits"].values():
        counts.update(split[part]["lost"]["characters"])
    del counts[" "]
    return dict(counts)


def audit(
    folder: Path, tokenizer: Any, data: dict[str, list[Record]], task: Encoder | None = None
) -> AuditReport:
    """The report on `data` after a JSON round trip; texts may have up to 30 tokens."""
    task = task or Seq2Seq()
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    splits = prepare_splits(
        DataSource({"": path}, list(data), False), task, tokenizer, folder / "cache"
    )
    limits = {"prompts": 30, "completions": 30}
    report = json.dumps(audit_splits(splits, task.shape, Damage(tokenizer), limits))
    as_written: AuditReport = json.loads(report)
    return as_written


def test_every_problem_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    report = audit(tmp_path, tokenizer, {"train": TRAIN, "eval": EVAL})
    train = report["splits"]["train"]
    prompts, completions = train["prompts"], train["completions"]
    assert train["records"] == 12
    assert completions["lost"]["count"] == 1
    assert completions["lost"]["characters"] == {
        "\n": 2, "\t": 1, " ": 1, "{": 1, "}": 1, "~": 1,
    }  # fmt: skip
    assert completions["unknown_tokens"] == 3
    assert completions["changed"]["characters"] == {"\u00a0": 1, "\ufb01": 1}
    assert completions["not_surviving"]["count"] == 3
    assert completions["ends"]["characters"] == {" ": 2}
    assert prompts["ends"]["characters"] == {"\n": 2, " ": 1}
    assert prompts["lost"]["characters"] == {" ": 3, "\n": 1}
    assert prompts["special"] == {
        "count": 1, "examples": ["train[10] 'stop</s> it'"], "characters": {"</s>": 1},
    }  # fmt: skip
    assert prompts["cut"]["count"] == completions["cut"]["count"] == 1
    assert prompts["cut"]["examples"][0].startswith("train[7] ")
    assert train["empty_prompts"] == {"count": 1, "examples": ["train[6]"]}
    assert train["duplicates"] == {"count": 2, "examples": ["train[4] 'twice'", "train[5] 'twice'"]}
    assert train["contradictions"] == {"count": 2, "prompts": 1, "examples": ["train[1] 'same'"]}
    assert train["common_prefix"] is None
    assert report["eval_records_in_train"]["examples"] == ["train[2] = eval[0] 'same'"]
    assert report["eval_prompts_in_train"]["count"] == 2
    assert missing_characters(report) == set("\n\t{}~ \ufb01\u00a0")
    assert lost_characters(report, "completions") == {"\n": 2, "\t": 1, "{": 1, "}": 1, "~": 1}


def test_rendered_lines(tmp_path: Path, tokenizer: Any) -> None:
    lines = as_lines(render(audit(tmp_path, tokenizer, {"train": TRAIN, "eval": EVAL})))
    assert lines == RENDERED.strip("\n").splitlines()


def test_the_table_of_a_large_data_set_fits_a_terminal_of_100_columns() -> None:
    million, none = 1_234_567, {"count": 0, "examples": []}
    kinds = dict.fromkeys(("lost", "ends", "changed", "special"), none | {"characters": {}})
    part = kinds | {"cut": none | {"count": million}, "lost": none | {"characters": {"~": million}},
                    "tokens": dict.fromkeys(("median", "p99", "max"), million)}  # fmt: skip
    split = {"records": million, "prompts": part, "completions": part, "targets": None}
    lines = as_lines(figures({"splits": {"train": split, "eval": split}}))
    assert len(lines) == 5
    assert max(map(len, lines)) <= 100
    assert lines[2].split() == ["train", "completions", *["1,234,567"] * 6]


def test_no_hint_names_a_flag_that_is_refused_or_set(tmp_path: Path, tokenizer: Any) -> None:
    record = {"prompt": "say it", "completion": "a\nb"}
    report = audit(tmp_path, tokenizer, {"train": [record]})
    for known, remedy in (
        ({}, "add --add_missing_tokens"),
        ({"can_grow": False}, "replace them"),
        ({"added_tokens": []}, "replace them"),
    ):
        assert [warning.remedy for warning in warnings_of(report | known)] == [remedy]
    added = as_lines(render(report | {"added_tokens": ["\n", "{"]}))[-2]
    assert added == "added tokens: 2 (newline, {); texts that do not round-trip exactly: 1"


def test_a_vocabulary_without_latin_letters_is_tested_with_its_own(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0)] + [(one, -3.0) for one in "абвг"]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    damage = Damage(
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    )
    assert damage.find("аб xв", "аб в") == {"lost": Counter("x")}


def test_clean_data_gives_no_warning(tmp_path: Path, tokenizer: Any) -> None:
    words = ["add", "one", "two", "three"]
    data = {
        name: [{"prompt": f"{word} {name}", "completion": word} for word in words]
        for name in ("train", "eval")
    }
    report = audit(tmp_path, tokenizer, data)
    assert warnings_of(report) == []
    assert len(as_lines(render(report))) == 6


def test_one_record_without_an_answer(tmp_path: Path, tokenizer: Any) -> None:
    report = audit(tmp_path, tokenizer, {"eval": [{"prompt": "a long enough prompt"}]})
    split = report["splits"]["eval"]
    assert split["completions"]["tokens"] is None
    assert split["common_prefix"] is None
    assert split["prompts"]["tokens"]["min"] == split["prompts"]["tokens"]["max"]
    assert warnings_of(report) == []
    assert len(as_lines(render(report))) == 3  # no row for completions


def test_a_common_prefix_ends_with_a_whole_word(tmp_path: Path, tokenizer: Any) -> None:
    report = audit(tmp_path, tokenizer, {"train": addition_records(20)})
    assert report["splits"]["train"]["common_prefix"] is None  # "add one:" is short
    records = [{"prompt": f"please add one: 1{i}", "completion": "2"} for i in range(3)]
    prefix = audit(tmp_path, tokenizer, {"train": records})["splits"]["train"]["common_prefix"]
    ids = tokenizer("please add one:", add_special_tokens=False)["input_ids"]
    assert prefix == {"text": "please add one:", "tokens": len(ids)}


def test_a_combining_mark_is_tested_with_its_letter(tmp_path: Path, tokenizer: Any) -> None:
    texts = ["x n\u0303 n", "\u0303 x", "\u0928\u093f"]
    records = [{"prompt": text, "completion": "yes"} for text in texts]
    prompts = audit(tmp_path, tokenizer, {"train": records})["splits"]["train"]["prompts"]
    assert prompts["lost"]["characters"] == {"\u0303": 2, "\u0928": 1, "\u093f": 1}


def test_lines_are_printable_and_short(tmp_path: Path, tokenizer: Any) -> None:
    strange = "".join(map(chr, [*range(1, 32), 0x200B, 0x202E, 0x303, *range(0x4E00, 0x4E40)]))
    records = [{"prompt": f"p{i} {strange}" * 3, "completion": strange} for i in range(3)]
    lines = as_lines(render(audit(tmp_path, tokenizer, {"train": records, "eval": records})))
    assert all(line.isprintable() and len(line) <= 200 for line in lines)
    assert any(" more)" in line for line in lines)


def random_texts(alphabet: str, count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(alphabet, k=draw.randint(0, 30))) for _ in range(count)]


def check_against_round_trips(report: AuditReport, texts: list[str], tokenizer: Any) -> None:
    """Compare the report with a round trip of each text; texts must not hold combining marks.

    Whitespace at either end of a text is lost.
    """
    lost: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    not_surviving = 0
    for whole in texts:
        text = whole.strip()
        ends.update(Counter(whole) - Counter(text))
        ids = tokenizer(text)["input_ids"]
        decoded = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        not_surviving += decoded != whole
        lost.update(Counter(text.replace(" ", "")) - Counter(decoded))
        runs = re.findall(r"\s{2,}", text)
        lost[" "] += sum(max(0, run.count(" ") - 1) for run in runs)
    prompts = report["splits"]["train"]["prompts"]
    found = Counter(prompts["lost"]["characters"]) + Counter(prompts["changed"]["characters"])
    assert found == +lost
    assert Counter(prompts["ends"]["characters"]) == +ends
    assert prompts["not_surviving"]["count"] == not_surviving


ALPHABETS = {
    "ascii": "".join(map(chr, range(32, 127))) + "\n\t\r     ",
    "letters": "abc def ghi",
    "unicode": "abc 12  \n\u00a0\u3000{}éßñ日本\ufb01\u2026½Ω\u200dж😀",
}


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("real", [False, True])
def test_counts_match_round_trips(tmp_path: Path, tokenizer: Any, name: str, real: bool) -> None:
    if real:
        if not SHARED_DATA.is_dir():
            pytest.skip("the real vocabulary is missing")
        tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    texts = random_texts(ALPHABETS[name], 400)
    records = [{"prompt": text, "completion": "yes"} for text in texts]
    report = audit(tmp_path, tokenizer, {"train": records})
    check_against_round_trips(report, texts, tokenizer)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data is missing")
def test_real_data(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    instruct = json.loads((SHARED_DATA / "instruct.json").read_text())
    report = audit(tmp_path, tokenizer, instruct)
    train = report["splits"]["train"]
    newlines = sum(record["prompt"].strip().count("\n") for record in instruct["train"])
    assert train["prompts"]["lost"]["characters"]["\n"] == newlines == 557
    assert train["completions"]["lost"]["characters"]["^"] == 5
    sports = json.loads((SHARED_DATA / "sports.json").read_text())
    report = audit(tmp_path, tokenizer, sports, Numbers())
    assert report["splits"]["train"]["completions"]["tokens"] is None
    assert report["splits"]["train"]["common_prefix"]["tokens"] == 17
    assert lost_characters(report, "completions") == {}
    assert lost_characters(report, "prompts") == {"\n": 11400, "\\": 867}


def test_empty_completions_are_counted_but_not_as_lost(tmp_path: Path, tokenizer: Any) -> None:
    records = [{"prompt": text, "completion": ""} for text in ("who?", "when?")]
    train = [*records, {"prompt": "why?", "completion": "so"}, {"prompt": "no", "completion": " "}]
    report = audit(tmp_path, tokenizer, {"train": train, "eval": records})
    found = report["splits"]["train"]
    assert found["empty_completions"]["count"] == 3
    assert found["completions"]["tokens"]["min"] == 1
    assert found["completions"]["lost"]["count"] == 0
    assert (
        "train: 3 empty completions, e.g. train[0] 'who?'. Hint: add text, unless intended"
    ) in as_lines(render(report))
    del found["empty_completions"]  # an audit.json of an earlier version
    assert warnings_of(report)
