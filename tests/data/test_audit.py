"""The audit finds what the data holds, counts it exactly, and says it on lines one can read."""

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

from workflow.data.audit import AuditReport, audit_splits, missing_characters, render, warnings_of
from workflow.data.audit.round_trip import Damage
from workflow.data.schema import Record, Schema
from workflow.data.source import DataSource
from workflow.data.text_ids import Frame
from workflow.data.token_cache import Encoder, prepare_splits
from workflow.tasks.seq2seq import Seq2Seq

LONG = "add one: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9"
TRAIN = [
    {"prompt": "code", "completion": "if {\n\tgo  on\n} ~"},  # 0: lost in a completion
    {"prompt": "same", "completion": "yes"},  # 1: contradicted by 2
    {"prompt": "same", "completion": "no"},
    {"prompt": "twice", "completion": "yes"},  # 3: repeated by 4 and 5
    {"prompt": "twice", "completion": "yes"},
    {"prompt": "twice", "completion": "yes"},
    {"prompt": " \n", "completion": "no"},  # 6: empty
    {"prompt": LONG, "completion": "no"},  # 7: cut
    {"prompt": "sum", "completion": LONG},
    {"prompt": "a\nb  c   d", "completion": "\ufb01ve\u00a0go"},  # 9: lost; changed
    {"prompt": "stop</s> it", "completion": "no"},  # 10: a special token
    {"prompt": "do so:\n", "completion": "  indented"},  # 11: white space at an end
]
EVAL = [
    {"prompt": "same", "completion": "no"},
    {"prompt": "twice", "completion": "no"},
    {"prompt": "unseen", "completion": "yes"},
]
RENDERED = r"""
       records       prompt tokens   completion tokens                    cut        characters lost
                median / p99 / max  median / p99 / max  prompts / completions  prompts / completions
train       12         4 / 32 / 32         2 / 32 / 32                  1 / 1                  7 / 9
eval         3           4 / 5 / 5           2 / 2 / 2                  0 / 0                  0 / 0
train: completions that cannot be written back: 1 (newline ×2, tab ×1, surplus space ×1, { ×1, } ×1, ~ ×1); as train[0] 'if {\n\tgo  on\n} ~'; add --add_missing_tokens
eval: records that occur in train: 1; as train[2] = eval[0] 'same'; remove them from train or eval
eval: prompts that occur in train, with whatever answer: 2; as train[1] = eval[0] 'same'; remove them from train or eval
train: records that contradict another: 2 (prompts: 1); as train[1] 'same'; keep one of each
train: completions that are cut: 1; as train[8] 32 tokens; raise --max_target_length or shorten them
train: prompts that lose their end: 1; as train[7] 32 tokens; raise --max_source_length or shorten them
train: prompts with what the model cannot see: 1 (surplus space ×3, newline ×1); as train[9] 'a\nb  c   d'; add --add_missing_tokens
train: prompts that spell special tokens: 1 (</s> ×1); as train[10] 'stop</s> it'; take them out
train: empty prompts: 1; as train[6]; write or remove them
train: records that repeat an earlier one: 2; as train[4] 'twice'; remove them, unless they are to weigh
train: completions that lose white space at an end: 1 (surplus space ×2); as train[11] '  indented'; strip it, or add --add_missing_tokens
train: completions that come back written another way: 1 (U+00A0 ×1, ﬁ ×1); as train[9] '\ufb01ve\xa0go'; look if it matters
train: prompts that lose white space at an end: 2 (newline ×2, surplus space ×1); as train[6] ' \n'; look if it matters
"""  # noqa: E501


class Numbers:
    """A task whose answers are numbers and hence no texts."""

    encoding = "numbers"
    schema = Schema("input", "target", lambda value: None, (0.0, 1.0))

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        sources = tokenizer([record["input"] for record in records])["input_ids"]
        return sources, [[] for _ in records]

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {"source": (0, 1), "target": (0, 0)}


def lost_characters(report: AuditReport, part: str) -> dict[str, int]:
    """Lost characters with their counts over all splits, surplus spaces aside."""
    counts: Counter[str] = Counter()
    for split in report["splits"].values():
        counts.update(split[part]["lost"]["characters"])
    del counts[" "]
    return dict(counts)


def audit(
    folder: Path, tokenizer: Any, data: dict[str, list[Record]], task: Encoder | None = None
) -> AuditReport:
    """The report on `data`, as it is after JSON; prompts and completions may have 30 tokens."""
    task = task or Seq2Seq()
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    splits = prepare_splits(
        DataSource({"": path}, list(data), False), task, tokenizer, folder / "cache"
    )
    limits = {"prompts": 30, "completions": 30}
    report = json.dumps(audit_splits(splits, task.schema, tokenizer, limits))
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
    lines = render(audit(tmp_path, tokenizer, {"train": TRAIN, "eval": EVAL}))
    assert lines == RENDERED.strip("\n").splitlines()


def test_no_flag_is_advised_that_is_refused_or_given(tmp_path: Path, tokenizer: Any) -> None:
    record = {"prompt": "say it", "completion": "a\nb"}
    report = audit(tmp_path, tokenizer, {"train": [record]})
    for known, remedy in (
        ({}, "add --add_missing_tokens"),
        ({"can_grow": False}, "write them another way"),
        ({"added_tokens": []}, "write them another way"),
    ):
        assert [warning.remedy for warning in warnings_of(report | known)] == [remedy]
    told = render(report | {"added_tokens": ["\n", "{"]})[-2]
    assert told == (
        "characters given tokens: 2 (newline, {); texts that do not come back exactly: 1"
    )


def test_a_vocabulary_without_latin_letters_is_tried_with_its_own(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0)] + [(one, -3.0) for one in "абвг"]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    damage = Damage(
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    )
    assert damage.find("аб xв", "аб в") == {"lost": Counter("x")}


def test_what_is_clean_gives_no_warning(tmp_path: Path, tokenizer: Any) -> None:
    words = ["add", "one", "two", "three"]
    data = {
        name: [{"prompt": f"{word} {name}", "completion": word} for word in words]
        for name in ("train", "eval")
    }
    report = audit(tmp_path, tokenizer, data)
    assert warnings_of(report) == []
    assert len(render(report)) == 4


def test_one_record_without_an_answer(tmp_path: Path, tokenizer: Any) -> None:
    report = audit(tmp_path, tokenizer, {"eval": [{"prompt": "a long enough prompt"}]})
    split = report["splits"]["eval"]
    assert split["completions"]["tokens"] is None
    assert split["common_prefix"] is None
    assert split["prompts"]["tokens"]["min"] == split["prompts"]["tokens"]["max"]
    assert warnings_of(report) == []
    assert "none" in render(report)[2]


def test_a_common_prefix_ends_with_a_whole_word(tmp_path: Path, tokenizer: Any) -> None:
    report = audit(tmp_path, tokenizer, {"train": addition_records(20)})
    assert report["splits"]["train"]["common_prefix"] is None  # "add one:" is short
    records = [{"prompt": f"please add one: 1{i}", "completion": "2"} for i in range(3)]
    prefix = audit(tmp_path, tokenizer, {"train": records})["splits"]["train"]["common_prefix"]
    ids = tokenizer("please add one:", add_special_tokens=False)["input_ids"]
    assert prefix == {"text": "please add one:", "tokens": len(ids)}


def test_a_mark_is_tried_with_its_letter(tmp_path: Path, tokenizer: Any) -> None:
    texts = ["x n\u0303 n", "\u0303 x", "\u0928\u093f"]
    records = [{"prompt": text, "completion": "yes"} for text in texts]
    prompts = audit(tmp_path, tokenizer, {"train": records})["splits"]["train"]["prompts"]
    assert prompts["lost"]["characters"] == {"\u0303": 2, "\u0928": 1, "\u093f": 1}


def test_lines_can_be_printed_and_are_not_too_long(tmp_path: Path, tokenizer: Any) -> None:
    strange = "".join(map(chr, [*range(1, 32), 0x200B, 0x202E, 0x303, *range(0x4E00, 0x4E40)]))
    records = [{"prompt": f"p{i} {strange}" * 3, "completion": strange} for i in range(3)]
    lines = render(audit(tmp_path, tokenizer, {"train": records, "eval": records}))
    assert all(line.isprintable() and len(line) <= 200 for line in lines)
    assert any("more kinds" in line for line in lines)


def random_texts(alphabet: str, count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(alphabet, k=draw.randint(0, 30))) for _ in range(count)]


def check_against_round_trips(report: AuditReport, texts: list[str], tokenizer: Any) -> None:
    """Compare with what every text loses by itself; its characters must not be marks.

    All white space at an end of a text is lost.
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
def test_counts_are_those_of_round_trips(
    tmp_path: Path, tokenizer: Any, name: str, real: bool
) -> None:
    if real:
        if not SHARED_DATA.is_dir():
            pytest.skip("the real vocabulary is not here")
        tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    texts = random_texts(ALPHABETS[name], 400)
    records = [{"prompt": text, "completion": "yes"} for text in texts]
    report = audit(tmp_path, tokenizer, {"train": records})
    check_against_round_trips(report, texts, tokenizer)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data is not here")
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


def test_empty_completions_are_counted_and_are_no_loss(tmp_path: Path, tokenizer: Any) -> None:
    records = [{"prompt": text, "completion": ""} for text in ("who?", "when?")]
    train = [*records, {"prompt": "why?", "completion": "so"}, {"prompt": "no", "completion": " "}]
    report = audit(tmp_path, tokenizer, {"train": train, "eval": records})
    found = report["splits"]["train"]
    assert found["empty_completions"]["count"] == 3
    assert found["completions"]["tokens"]["min"] == 1
    assert found["completions"]["lost"]["count"] == 0
    assert (
        "train: empty completions, whose answer is nothing: 3; as train[0] 'who?'; fine where "
        "that is meant; else write them"
    ) in render(report)
    del found["empty_completions"]  # as of an earlier version
    assert warnings_of(report)
