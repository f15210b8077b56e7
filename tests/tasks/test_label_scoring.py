"""Scoring against plain transformers calls on the same weights, and complete runs of clf.py."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    ROOT,
    T5_TINY,
    Evaluation,
    evaluate_alone,
    make_t5,
    write_data,
    write_hub_folder,
)

from workflow import make_job, run_job
from workflow.config.job import JobSpec, resolve_defaults
from workflow.config.task_specs import BEST_METRICS
from workflow.data.example_lengths import ExampleLengths
from workflow.data.source import DataSource
from workflow.data.step_planner import plan_step
from workflow.data.text_format import SeparateTexts
from workflow.data.token_cache import TokenizedSplit, prepare_splits
from workflow.distributed.world import World
from workflow.metrics.names import is_better
from workflow.models.families import DecoderIds, family_of
from workflow.models.loading import load_model
from workflow.runs.mount import Mount
from workflow.tasks.base import one_for_each
from workflow.tasks.label_scoring import LabelScoring
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.prepare import Job
from workflow.training.step import PlannedStep, add_gradients
from workflow.tuning import FullTuning

Lines = Callable[[Path], list[dict[str, Any]]]
SENTENCE = "the man went to the house with a bird and said that it was not his word"
WORDS = SENTENCE.split()
RECORDS = [
    {"input": " ".join(WORDS[: 1 + i % 9]) + f" {i}", "target": (i * 7 % 11) / 10, "id": i}
    for i in range(17)
]


def make_spec(**values: Any) -> JobSpec:
    values = {"max_steps": 10, "warmup_steps": 0, "max_grad_norm": 0} | values
    spec = make_job("clf", model_init_name="x", data_name="y", bf16=False, **values)
    spec = resolve_defaults(spec, "run", len(RECORDS), 1, fast_bf16=True)
    return dataclasses.replace(spec, micro_batch_tokens=spec.micro_batch_tokens or 64)


def make_split(
    folder: Path, task: LabelScoring, tokenizer: Any, records: Sequence[dict[str, Any]]
) -> TokenizedSplit:
    path = folder / "data.json"
    path.write_text(json.dumps({"eval": records}))
    splits = prepare_splits(
        DataSource({"": path}, ["eval"], answers_needed=False), task, tokenizer, folder / "cache"
    )
    return splits["eval"]


def evaluate(
    model: Any, tokenizer: Any, folder: Path, records: Any = RECORDS, **values: Any
) -> Evaluation:
    spec = make_spec(**values)
    task = LabelScoring.of(spec).bind_tokenizer(tokenizer, SeparateTexts(0, spec.template))
    split = make_split(folder, task, tokenizer, records)
    return evaluate_alone(task, model, tokenizer, split, spec)


def plain_logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """The logits of no and yes, as one writes it with transformers."""
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
    start = torch.full((len(texts), 1), model.config.decoder_start_token_id)
    ids = tokenizer.convert_tokens_to_ids(["▁no", "▁yes"])
    logits: torch.Tensor = model(**inputs, decoder_input_ids=start).logits[:, 0, ids]
    return logits


@pytest.fixture(params=[True, False], ids=["own-head", "tied-head"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    folder = write_hub_folder(make_t5(own_head=request.param), tmp_path / "model", "safetensors")
    return load_model(folder).eval()


@pytest.fixture(params=[True, False], ids=["adapted", "as-loaded"])
def ready(request: pytest.FixtureRequest, model: Any) -> Any:
    """A copy of the model, also optimized as in a run."""
    ready = copy.deepcopy(model)
    if request.param:
        LabelScoring.of(make_spec()).optimize_for_task(ready)
        family_of(ready.config).use_fast_modules(ready)
    return ready


@pytest.mark.parametrize("eval_batch_size", [1, 3, None])
def test_scores_are_those_of_plain_transformers(
    model: Any, ready: Any, tokenizer: Any, tmp_path: Path, eval_batch_size: int | None
) -> None:
    evaluation = evaluate(ready, tokenizer, tmp_path, eval_batch_size=eval_batch_size)
    with torch.no_grad():
        wanted = plain_logits(model, tokenizer, [record["input"] for record in RECORDS])
    found = torch.tensor([item["logits"] for item in evaluation.items])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    scores = [item["pred_score"] for item in evaluation.items]
    np.testing.assert_allclose(scores, wanted.softmax(-1)[:, 1], atol=1e-5)
    assert [item["orig_d"] for item in evaluation.items] == RECORDS
    assert [list(item) for item in evaluation.items] == [["orig_d", "pred_score", "logits"]] * 17
    targets = torch.tensor([[1 - r["target"], r["target"]] for r in RECORDS])
    loss = F.cross_entropy(wanted, targets)
    assert evaluation.metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert evaluation.metrics["log_loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("bound", [1, 30, 100, 10_000])
@pytest.mark.parametrize("packs", [False, True])
def test_the_gradient_is_the_naive_one_for_any_cut(
    model: Any, ready: Any, tokenizer: Any, tmp_path: Path, bound: int, packs: bool
) -> None:
    spec = make_spec()
    task = LabelScoring.of(spec).bind_tokenizer(tokenizer, SeparateTexts(0, spec.template))
    split = make_split(tmp_path, task, tokenizer, RECORDS)
    logits = plain_logits(model, tokenizer, [record["input"] for record in RECORDS])
    targets = torch.tensor([[1 - r["target"], r["target"]] for r in RECORDS])
    F.cross_entropy(logits, targets).backward()
    engine = SingleProcessEngine(ready, spec, lambda model, batch: task.loss(model, batch, 0.0))
    splits = {"train": split}
    job = Job(
        spec, task, FullTuning(), tokenizer, DecoderIds(0), None, {}, splits, tmp_path,
        tmp_path, tmp_path / "lock", strategy=None, request=spec,
        resolve_defaults=lambda request: request, resume_point=None,
    )  # fmt: skip
    sources, answers = split.sources.lengths(1024), split.targets.lengths(512)
    lengths = ExampleLengths(sources, answers)
    plan = plan_step(np.arange(len(RECORDS)), lengths, bound, packs)
    planned = PlannedStep.of(job, plan, 1, ready.config, rank=0)
    add_gradients(job, engine, planned, World())
    assert planned.loss_denominator == len(RECORDS)
    for (name, wanted), found in zip(model.named_parameters(), ready.parameters(), strict=True):
        if wanted.grad is not None:
            assert (found.grad - wanted.grad).norm() <= 1e-5 * wanted.grad.norm() + 1e-9, name


def test_only_two_rows_of_the_head_are_computed(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    linear = F.linear

    def counted(hidden: Any, weight: Any, bias: Any = None) -> Any:
        widths.append(len(weight))
        return linear(hidden, weight, bias)

    monkeypatch.setattr(F, "linear", counted)
    evaluate(model, tokenizer, tmp_path)
    assert 2 in widths
    assert model.config.vocab_size not in widths
    monkeypatch.undo()
    assert plain_logits(model, tokenizer, ["the head is whole again"]).shape == (1, 2)


def test_a_template_wraps_inputs_whatever_their_braces(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    inputs = ["{input}", "{0} {", "a {b} c"]
    records = [{"input": text, "target": 1} for text in inputs]
    evaluation = evaluate(model, tokenizer, tmp_path, records, template="is {input} so {x}?")
    with torch.no_grad():
        wanted = plain_logits(model, tokenizer, [f"is {text} so {{x}}?" for text in inputs])
    found = [item["logits"] for item in evaluation.items]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (tmp_path / "template.txt").write_text("is {input} so {x}?")
    assert make_spec(template=str(tmp_path / "template.txt")).template == "is {input} so {x}?"


def test_a_long_input_keeps_head_and_tail(tokenizer: Any, tmp_path: Path) -> None:
    text = " ".join(WORDS * 3)
    ids = tokenizer(text)["input_ids"]
    found = {}
    for side in ("middle", "right", "left"):
        spec = make_spec(max_source_length=11, truncation_side=side)
        task = LabelScoring.of(spec).bind_tokenizer(tokenizer, SeparateTexts(0, spec.template))
        split = make_split(tmp_path, task, tokenizer, [{"input": text, "target": 1}])
        batch = task.collate(one_for_each(split, spec), (np.array([0]),), make_t5().config)
        found[side] = batch.input_ids[0].tolist()
    assert found == {
        "middle": ids[:5] + ids[-6:], "right": [*ids[:10], ids[-1]], "left": ids[-11:],
    }  # fmt: skip
    assert make_spec().truncation_side == "middle"


def test_another_range_is_mapped_and_mapped_back(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    unit = evaluate(model, tokenizer, tmp_path)
    stars = [{**record, "target": 1 + 4 * record["target"]} for record in RECORDS]
    other = evaluate(model, tokenizer, tmp_path, stars, target_min=1, target_max=5)
    scores = np.array([item["pred_score"] for item in unit.items])
    np.testing.assert_allclose([item["pred_score"] for item in other.items], 1 + 4 * scores)
    assert [i["logits"] for i in other.items] == [i["logits"] for i in unit.items]
    for name, factor in {"loss": 1, "brier": 1, "pearson": 1, "rmse": 4, "mae": 4}.items():
        assert other.metrics[name] == pytest.approx(factor * unit.metrics[name], rel=1e-5)
    np.testing.assert_allclose(
        other.metrics["rmse_ci95"], 4 * np.array(unit.metrics["rmse_ci95"]), rtol=1e-5
    )
    threshold = 1 + 4 * unit.metrics["best_threshold"]
    assert other.metrics["best_threshold"] == pytest.approx(threshold)


def test_one_class_gives_null_and_true_is_one(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    records = [{"input": record["input"], "target": True} for record in RECORDS]
    metrics = evaluate(model, tokenizer, tmp_path, records).metrics
    assert metrics["auc"] is None
    assert metrics["auc_ci95"] is None
    assert metrics["accuracy"] is not None
    json.dumps(metrics, allow_nan=False)
    bare = [{"input": record["input"]} for record in RECORDS]
    evaluation = evaluate(model, tokenizer, tmp_path, bare)
    assert len(evaluation.items) == 17
    assert list(evaluation.metrics) == ["eval_seconds", "score_seconds"]


@pytest.mark.parametrize("key", ["target", "none"])
def test_scores_that_are_no_numbers_are_null(
    model: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    model.decoder.final_layer_norm.weight.data.fill_(float("nan"))
    records = [
        {name: record[name] for name in ("input", key) if name in record} for record in RECORDS
    ]
    evaluation = evaluate(model, tokenizer, tmp_path, records)
    assert {item["pred_score"] for item in evaluation.items} == {None}
    assert {item["logits"] for item in evaluation.items} == {None}
    assert evaluation.metrics.get("loss") is None
    assert f"{len(RECORDS)} of {len(RECORDS)} records have non-finite scores" in caplog.text


def test_a_score_of_an_infinite_logit_is_null(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    no = tokenizer.convert_tokens_to_ids("▁no")
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    with torch.no_grad():
        model.get_output_embeddings().bias[no] = -torch.inf
    evaluation = evaluate(model, tokenizer, tmp_path)
    assert {item["pred_score"] for item in evaluation.items} == {None}
    json.dumps([evaluation.items, evaluation.metrics], allow_nan=False)


def test_a_model_like_bart_scores_too(tokenizer: Any, tmp_path: Path) -> None:
    from tiny_models import make_family

    model = make_family("bart", tmp_path / "bart").eval()
    model.final_logits_bias = torch.randn(1, 1024)
    evaluation = evaluate(model, tokenizer, tmp_path)
    with torch.no_grad():
        wanted = plain_logits(model, tokenizer, [record["input"] for record in RECORDS])
    found = [item["logits"] for item in evaluation.items]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert model.final_logits_bias.shape == (1, 1024)


# --- whole runs ----------------------------------------------------------------------------------


def weather(count: int, seed: int, soft: bool = False) -> list[dict[str, Any]]:
    """Texts in which one word decides how likely the label is yes."""
    generator = np.random.default_rng(seed)
    chances = {"bird": 0.9, "house": 0.6, "word": 0.3, "man": 0.05}
    records = []
    for _ in range(count):
        word = str(generator.choice(list(chances)))
        words = [*generator.choice(["the", "of", "and", "in"], 4), word]
        chance = chances[word]
        target = chance if soft else float(generator.random() < chance)
        records.append({"input": " ".join(map(str, generator.permutation(words))),
                        "target": target, "chance": chance})  # fmt: skip
    return records


def test_the_contract_s_command(mount: Mount, tmp_path: Path, read_lines: Lines) -> None:
    """The second command of the design with fewer steps, on a stand-in folder."""
    write_hub_folder(make_t5(), tmp_path / "google" / "flan-t5-xl", "sharded-bin")
    write_data(mount, "1226verifier_ft_all", weather(40, 0), weather(11, 1))
    command = (
        "--model_pretrain_name google/flan-t5-xl --data_name 1226verifier_ft_all "
        f"--max_steps 21 --eval_steps 20 --save_steps 20 --mount {mount.root}"
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "clf.py"), *command.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = mount.models / "google_flan-t5-xl_1226verifier_ft_all_0"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "audit.json", "checkpoint-0-preds.json", "checkpoint-20-preds.json",
        "checkpoint-21-preds.json", "preds.json", "checkpoint-20", "checkpoint-21",
        "metrics.jsonl", "report.html", "starts.jsonl", "status.json", "train_log.jsonl",
        "training_args.json",
    }  # fmt: skip
    last = json.loads((folder / "checkpoint-21-preds.json").read_text())
    assert last == json.loads((folder / "preds.json").read_text())
    assert [item["orig_d"] for item in last] == weather(11, 1)
    spec = json.loads((folder / "training_args.json").read_text())
    assert (spec["train_batch_size"], spec["max_new_tokens"]) == (32, None)
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 20, 21]
    model = load_model(folder / "checkpoint-21").eval()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint-21")
    with torch.no_grad():
        wanted = plain_logits(model, tokenizer, [r["input"] for r in weather(11, 1)])
    atol = 0.4 if spec["bf16"] else 1e-5
    np.testing.assert_allclose([item["logits"] for item in last], wanted, atol=atol)


def test_evaluating_a_checkpoint_gives_the_scores_of_training(mount: Mount) -> None:
    write_data(mount, "weather", weather(40, 0), weather(11, 1))
    values = {"data_name": "weather", "bf16": False, "template": "will it be so: {input}?"}
    run = run_job(make_job("clf", model_init_name="small", max_steps=3, **values), mount)
    evaluated = run_job(
        make_job("clf", model_init_name=f"{run.name}/checkpoint-3", no_train=True, **values), mount
    )
    ours = json.loads((run / "preds.json").read_text())
    theirs = json.loads((evaluated / "checkpoint-3-preds.json").read_text())
    for one, other in zip(ours, theirs, strict=True):
        assert one["pred_score"] == pytest.approx(other["pred_score"], abs=1e-5)


def test_soft_targets_are_recovered(mount: Mount, read_lines: Lines) -> None:
    """Training on labels sampled with known probabilities, or on these, learns them."""
    shutil.copytree(T5_TINY, mount.models / "t5-tiny")
    for name, soft in (("hard", False), ("soft", True)):
        write_data(mount, name, weather(1500, 0, soft), weather(200, 1, soft=True))
        job = make_job(
            "clf", model_init_name="t5-tiny", data_name=name, max_steps=150, learning_rate=2e-3,
            dropout_rate=0, bf16=False, eval_steps=150,
        )  # fmt: skip
        run = run_job(job, mount)
        metrics = read_lines(run / "metrics.jsonl")[-1]
        assert metrics["rmse"] < (0.03 if soft else 0.06), name
        assert metrics["ece"] < (0.03 if soft else 0.06), name
        assert metrics["spearman"] > 0.85, name


def test_a_family_with_positions_trains_judged_by_the_user_s_own_metric(
    mount: Mount, tmp_path: Path, read_lines: Lines
) -> None:
    from tiny_models import make_family

    make_family("bart", mount.models / "bart")
    write_data(mount, "weather", weather(8, 0), weather(5, 1))
    (tmp_path / "own.py").write_text(
        "def highest(records, scores):\n    assert 'chance' in records[0]\n    return max(scores)\n"
    )
    job = make_job(
        "clf", model_init_name="bart", data_name="weather", max_steps=1,
        metric=f"{tmp_path / 'own.py'}:highest", metric_for_best_model="brier",
    )  # fmt: skip
    run = run_job(job, mount)
    scores = [item["pred_score"] for item in json.loads((run / "preds.json").read_text())]
    assert read_lines(run / "metrics.jsonl")[-1]["highest"] == pytest.approx(max(scores))


def test_every_metric_of_error_is_best_where_lowest() -> None:
    lowest = {"loss", "perplexity", "byte_perplexity", "brier", "log_loss", "ece", "rmse", "mae"}
    for name in BEST_METRICS:
        assert is_better(name, 0.1, 0.2) == (name in lowest), name


def test_the_audit_reads_inputs_within_their_template(mount: Mount) -> None:
    write_data(mount, "weather", weather(8, 0), weather(5, 1))
    for template, changed, lost in (
        ("is it so: {input}?", 0, {}),
        ("{{input}}", 0, {"{": 8, "}": 8}),
    ):
        job = make_job(
            "clf", model_init_name="small", data_name="weather", max_steps=1, template=template,
            training_run_name=f"run{len(lost)}", eval_on_start=False,
        )  # fmt: skip
        audit = json.loads((run_job(job, mount) / "audit.json").read_text())
        prompts = audit["splits"]["train"]["prompts"]
        assert prompts["changed"]["count"] == changed
        assert prompts["lost"]["characters"] == lost


def test_the_audit_covers_targets(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        *[{"input": f"the word {i}", "target": 0} for i in range(30)],
        {"input": "one way", "target": 1},
        {"input": "one way", "target": False},
        {"input": "the same", "target": 0},
        {"input": "the same", "target": 0.0},
        {"input": " ".join(WORDS * 3), "target": 0.25},
    ]
    write_data(mount, "odd", records, [{"input": "no", "target": 0}])
    job = make_job(
        "clf", model_init_name="small", data_name="odd", audit=True, max_source_length=40
    )
    caplog.set_level("INFO")
    run_job(job, mount)
    told = "\n".join(record.message for record in caplog.records)
    for line in (
        "train targets: 34 closer to no, 1 closer to yes; mean 0.0357; 10-bin histogram 94% 0% 3%",
        "train: 2 contradicting records (1 prompt with different targets), "
        "e.g. train[30] 'one way'",
        "train: 1 duplicate record, e.g. train[33] 'the same'",
        "train: 1 truncated prompt (middle removed), e.g. train[34]",
        "train: imbalanced targets: 1 of 35 (2.9%) closer to yes",
        "eval: none of 1 targets is closer to yes; auc and f1 are undefined",
    ):
        assert line in told
