"""Metrics by models: BARTScore, BERTScore and perplexity, in whole runs too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ALONE, BERT_TINY, GPT_TINY, T5_TINY, addition_records, write_data
from test_loop import run, seq2seq
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from workflow.config.metric_kinds import AskedMetric
from workflow.core.errors import BadInput
from workflow.reporting.compare.comparison import compare_named
from workflow.reporting.compare.selectors import find_named
from workflow.runs.mount import Mount
from workflow.training.judges import (
    Likelihood,
    find_judges,
    judge_of,
    load_judge,
)

TEXTS = ["the cat sat", "a", "", "seven 7 and eight 8, which is a longer text", "the cat sat down"]
PAIRS = [(first, second) for first in TEXTS for second in TEXTS]
JUDGED = ("bartscore:t5", "bartscore_source:gpt", "perplexity:gpt", "bertscore:bert:1")


@pytest.fixture
def judges(mount: Mount) -> Mount:
    """A mount with models that judge."""
    for name, folder in (("t5", T5_TINY), ("gpt", GPT_TINY), ("bert", BERT_TINY)):
        (mount.models / name).symlink_to(folder)
    return mount


def scores(asked: str, folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> dict[int, Any]:
    judge = judge_of(AskedMetric(asked), folder)
    return dict(judge.scorer.scores(load_judge(judge, False), pairs, ALONE))


def test_an_encoder_decoder_scores_as_its_loss_says_of_each_text_alone() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(T5_TINY)
    model = AutoModelForSeq2SeqLM.from_pretrained(T5_TINY).eval()
    found = scores("bartscore:t5", T5_TINY)
    assert found.keys() == set(range(len(PAIRS)))
    for index, (given, text) in enumerate(PAIRS):
        ids = tokenizer([given], return_tensors="pt")
        labels = tokenizer([text], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = -float(model(**ids, labels=labels).loss)
        assert found[index] == (pytest.approx(expected, abs=1e-5),), (given, text)


def test_a_decoder_scores_the_text_that_follows_the_other() -> None:
    scorer = Likelihood.of(GPT_TINY)
    tokenizer, given = scorer.settings.tokenizer, [pair[0] for pair in PAIRS]
    model = AutoModelForCausalLM.from_pretrained(GPT_TINY).eval()
    sources = scorer.format.sources(tokenizer, given)
    targets = scorer.format.targets(tokenizer, given, [pair[1] for pair in PAIRS])
    found = scores("perplexity:gpt", GPT_TINY)
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([[*source, *target]])).logits[0, len(source) - 1 : -1]
        chosen = logits.log_softmax(-1)[range(len(target)), target]
        assert found[index] == (pytest.approx(float(chosen.mean()), abs=1e-5),)


def test_texts_longer_than_the_model_reads_are_cut() -> None:
    """What is cut off changes nothing."""
    longest = AutoModelForCausalLM.from_pretrained(GPT_TINY).config.max_position_embeddings
    long = "word " * longest
    found = scores("perplexity:gpt", GPT_TINY, [("a", long), ("a", long + "other"), (long, "b")])
    assert found[0] == found[1]


def naive_bertscore(text: str, reference: str, layer: int) -> tuple[float, float, float]:
    """The formulas of Zhang et al. 2020 for one pair: F1, precision and recall."""
    tokenizer: Any = AutoTokenizer.from_pretrained(BERT_TINY)
    model = AutoModel.from_pretrained(BERT_TINY).eval()
    rows = []
    for one in (text, reference):
        with torch.no_grad():
            states = model(**tokenizer([one], return_tensors="pt"), output_hidden_states=True)
        rows.append(states.hidden_states[layer][0])
    if min(map(len, rows)) <= 2:  # no token but the special ones
        return 0.0, 0.0, 0.0
    cosines = torch.cosine_similarity(rows[0][:, None], rows[1][None], dim=-1)
    precision, recall = (float(cosines.amax(side)[1:-1].mean()) for side in (1, 0))
    return 2 * precision * recall / (precision + recall), precision, recall


@pytest.mark.parametrize("layer", [1, 2])
def test_bertscore_of_a_batch_is_that_of_each_pair(layer: int) -> None:
    for index, found in scores(f"bertscore:bert:{layer}", BERT_TINY).items():
        assert found == pytest.approx(naive_bertscore(*PAIRS[index], layer), abs=1e-5)


def test_a_baseline_becomes_0_and_1_stays(tmp_path: Path) -> None:
    (tmp_path / "base.tsv").write_text("LAYER,P,R,F\n0,0,0,0\n1,0.2,0.3,0.25\n")
    plain = scores("bertscore:bert:1", BERT_TINY)
    scaled = scores(f"bertscore:bert:1:{tmp_path / 'base.tsv'}", BERT_TINY)
    for index, (f1, precision, recall) in plain.items():
        expected = ((f1 - 0.25) / 0.75, (precision - 0.2) / 0.8, (recall - 0.3) / 0.7)
        assert scaled[index] == pytest.approx(expected)
    same = scaled[PAIRS.index(("the cat sat", "the cat sat"))]
    assert same == pytest.approx((1, 1, 1))


def test_judges_that_cannot_be(judges: Mount, tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("LAYER,P,R,F\n0,0,0,0\n")
    asked = [
        "bartscore:bert",
        "bertscore:t5",
        "bertscore:bert:9",
        f"bertscore:bert:2:{tmp_path / 'bad.tsv'}",
        f"bertscore:bert:2:{tmp_path / 'none.tsv'}",
        "perplexity:../t5",
        "perplexity:t6",
    ]
    folders, problems = find_judges(asked, judges)
    assert folders == {}
    columns = "a file of bert-score with the columns LAYER,P,R,F"
    assert [str(problem) for problem in problems] == [
        "--metric bartscore:bert: the model type bert (expected a model that generates texts). "
        "Hint: name an encoder-decoder or a decoder-only model.",
        "--metric bertscore:t5: the model type t5 (expected an encoder). "
        "Hint: name an encoder, e.g. of BERT's or RoBERTa's type.",
        "--metric bertscore:bert:9: layer 9 of a model with 2 (expected at most 2). "
        "Hint: correct LAYER.",
        f"--metric {asked[3]}: {tmp_path / 'bad.tsv'} without figures of layer 2 "
        f"(expected {columns}). Hint: correct the file or its path.",
        f"--metric {asked[4]}: {tmp_path / 'none.tsv'}: no such file or directory "
        f"(expected {columns}). Hint: correct the file or its path.",
        *map(str, problems[5:]),
    ]
    assert [problem.where for problem in problems[5:]] == [
        "--metric perplexity:../t5", "--metric perplexity:t6",
    ]  # fmt: skip


def items_of(folder: Path, step: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (folder / f"temperature=0.00_n=1_step={step}.json").read_text()
    )
    return found


def test_a_run_is_judged(judges: Mount, read_lines: Any) -> None:
    """The metrics are in log, items and comparison; the best checkpoint is the best judged one."""
    asked = (*JUDGED, "squad", "copying")
    both = [
        run(
            judges, training_run_name=name, metric=list(asked), seed=seed, eval_steps=2,
            metric_for_best_model="bartscore",
        )
        for name, seed in (("one", 0), ("two", 1))
    ]  # fmt: skip
    lines = read_lines(both[0] / "metrics.jsonl")
    status = json.loads((both[0] / "status.json").read_text())
    assert status["best_value"] == max(line["bartscore"] for line in lines[1:])
    last, items = lines[-1], items_of(both[0], 4)
    for name in ("bartscore", "bartscore_coverage", "bertscore_recall", "squad_f1"):
        values = [item["metrics"][name] for item in items]
        assert last[name] == pytest.approx(sum(values) / len(values))
        low, high = last[f"{name}_ci95"]
        assert low <= last[name] <= high
    perplexities = torch.tensor([item["metrics"]["answer_perplexity"] for item in items])
    assert last["answer_perplexity"] == pytest.approx(float(perplexities.log().mean().exp()))
    half = [
        (item["metrics"]["bartscore_precision"] + item["metrics"]["bartscore_recall"]) / 2
        for item in items
    ]
    assert half == pytest.approx([item["metrics"]["bartscore"] for item in items])
    text, reference = items[0]["generations"][0]["lm_postprocess"], items[0]["demonstration"]
    (alone,) = scores("bartscore:t5", T5_TINY, [(reference, text)]).values()
    assert items[0]["metrics"]["bartscore_precision"] == pytest.approx(alone[0], abs=1e-5)
    compared = compare_named(find_named(judges, ["one", "two"]))
    assert compared.main.name == "bartscore"
    by_name = {metric.name: metric for metric in compared.metrics}
    ends = read_lines(both[1] / "metrics.jsonl")[-1]
    for name in ("bartscore", "answer_perplexity", "squad_f1", "length_ratio", "copied_run"):
        assert by_name[name].values == pytest.approx((last[name], ends[name]))
        assert by_name[name].has_intervals
    assert "bartscore" in (both[0] / "report.html").read_text()


def test_an_answer_is_judged_once_in_a_run(judges: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    plain = Likelihood.scores

    def counting(self: Any, model: Any, pairs: Any, shard: Any) -> Any:
        seen.extend(pairs)
        return plain(self, model, pairs, shard)

    monkeypatch.setattr(Likelihood, "scores", counting)
    (judges.models / "own").mkdir()
    for file in T5_TINY.iterdir():
        (judges.models / "own" / file.name).symlink_to(file)
    folder = run(judges, metric=["bartscore:own", "perplexity:own"], eval_steps=2)
    steps = (0, 2, 4)
    texts = {
        (item["demonstration"], item["generations"][0]["lm_postprocess"])
        for step in steps for item in items_of(folder, step)
    }  # fmt: skip
    assert len(seen) == len(set(seen))
    both = {pair for text in texts for pair in (text, text[::-1], ("", text[1]))}
    assert set(seen) == both


@pytest.mark.parametrize("tuning", ["lora", "ia3", "prompt"])
def test_the_frozen_model_of_an_adapter_judges_without_a_copy(
    judges: Mount, tuning: str, monkeypatch: pytest.MonkeyPatch, read_lines: Any
) -> None:
    """It gives the scores of the same model loaded anew, and training goes on as without it."""
    options = {"model_init_name": "t5", "tuning": tuning, "learning_rate": 0.1, "eval_steps": 2}
    plain = run(judges, training_run_name="plain", **options)
    (judges.models / "again").mkdir()
    for file in T5_TINY.iterdir():
        (judges.models / "again" / file.name).symlink_to(file)
    other = run(judges, training_run_name="copy", metric=["bartscore:again"], **options)
    monkeypatch.setattr("workflow.training.judges.load_judge", None)
    own = run(judges, training_run_name="own", metric=["bartscore:t5"], **options)
    losses = [
        [line["loss"] for line in read_lines(folder / "metrics.jsonl")]
        for folder in (plain, other, own)
    ]
    assert losses[0] == losses[1] == losses[2]
    for step in (0, 2, 4):
        one, two = ([item["metrics"] for item in items_of(f, step)] for f in (other, own))
        assert [pytest.approx(values, abs=1e-5) for values in one] == two


def test_two_processes_judge_as_one(judges: Mount, read_lines: Any) -> None:
    command = "python3 seq2seq.py --model_init_name small --data sums --max_steps 2 "
    command += f"--train_batch_size 4 --max_new_tokens 4 --metric {' '.join(JUDGED)} "
    found = []
    for processes in (1, 2):
        done = seq2seq(
            judges, f"{command}--num_processes {processes} --training_run_name p{processes}"
        )
        assert done.returncode == 0, done.stderr
        found.append([item["metrics"] for item in items_of(judges.models / f"p{processes}", 2)])
    assert [pytest.approx(values, rel=1e-4) for values in found[0]] == found[1]


def test_the_evaluated_model_judges_its_own_answers(judges: Mount, read_lines: Any) -> None:
    """Without a second copy, and with several references: the best one counts."""
    records = addition_records(5)
    several = [{**one, "completion": [one["completion"], "one", "7 7"]} for one in records]
    write_data(judges, "several", records, several)
    folder = run(
        judges, model_init_name="t5", data_name="several", no_train=True, max_steps=None,
        metric=["bartscore:t5", "squad", "ter"], training_run_name="own",
    )  # fmt: skip
    for item, record in zip(items_of(folder), several, strict=True):
        assert item["reference"] == record["completion"]
        text = item["generations"][0]["lm_postprocess"]
        alone = scores("bartscore:t5", T5_TINY, [(r, text) for r in record["completion"]])
        best = max(value for (value,) in alone.values())
        assert item["metrics"]["bartscore_precision"] == pytest.approx(best, abs=1e-5)


def test_several_references_are_for_eval_alone(judges: Mount) -> None:
    records = addition_records(4)
    wrong = [{**one, "completion": [one["completion"]]} for one in records]
    write_data(judges, "wrong", wrong, [{**records[0], "completion": ["a", 3]}])
    with pytest.raises(BadInput) as caught:
        run(judges, data_name="wrong")
    where = judges.data / "wrong.json"
    assert [str(one) for one in caught.value.problems] == [
        f"{where}: train: completion: a list in all 4 records (expected text). "
        "Hint: write one text; only eval records may have several references.",
        f"{where}: eval[0].completion[1]: the number 3 (expected text). "
        "Hint: write the completion in quotes.",
    ]
