"""The task against plain transformers calls on the same weights."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Evaluation, addition_records, evaluate_alone, make_t5, write_hub_folder

from workflow import make_job
from workflow.config.job import JobSpec, resolve_defaults
from workflow.core.console import inform_once, warn_once
from workflow.core.errors import BadInput
from workflow.data.source import DataSource
from workflow.data.text_format import SeparateTexts
from workflow.data.token_cache import TokenizedSplit, prepare_splits
from workflow.inference import generate as generate_module
from workflow.inference.decoding import GeneratedIds, PromptBatch
from workflow.models.loading import load_model
from workflow.runs.predictions import prediction_files
from workflow.tasks import seq2seq_evaluation
from workflow.tasks.base import one_for_each
from workflow.tasks.seq2seq import Seq2Seq

RECORDS = [
    *addition_records(13),
    {"prompt": "is the summary of the story a good answer to the question?", "completion": "yes"},
    {"prompt": "no", "completion": "The people in the house looked for the right word."},
    {"prompt": "who was it?", "completion": ""},
]


def make_spec(**values: Any) -> JobSpec:
    spec = make_job("seq2seq", model_init_name="x", data_name="y", bf16=False, **values)
    spec = resolve_defaults(spec, "run", len(RECORDS), 12, fast_bf16=True)
    return dataclasses.replace(spec, micro_batch_tokens=spec.micro_batch_tokens or 64)


def make_split(folder: Path, tokenizer: Any, records: Sequence[dict[str, Any]]) -> TokenizedSplit:
    path = folder / "data.json"
    path.write_text(json.dumps({"eval": records}))
    splits = prepare_splits(
        DataSource({"": path}, ["eval"], answers_needed=False),
        Seq2Seq(),
        tokenizer,
        folder / "cache",
    )
    return splits["eval"]


@pytest.fixture(params=[True, False], ids=["own-head", "tied-head"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    folder = write_hub_folder(make_t5(own_head=request.param), tmp_path / "model", "safetensors")
    return load_model(folder).eval()


def evaluate(model: Any, tokenizer: Any, split: TokenizedSplit, spec: JobSpec) -> Evaluation:
    return evaluate_alone(Seq2Seq(), model, tokenizer, split, spec)


def padded(tokenizer: Any, texts: Sequence[str]) -> Any:
    return tokenizer(list(texts), padding=True, return_tensors="pt")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_naive_one(
    model: Any, tokenizer: Any, tmp_path: Path, smoothing: float
) -> None:
    split = make_split(tmp_path, tokenizer, RECORDS)
    task, spec = Seq2Seq(), make_spec()
    everything = np.arange(len(split))
    rows, examples = tuple(everything[:, None]), one_for_each(split, spec)
    loss = task.loss(model, task.collate(examples, rows, model.config), smoothing)
    sources = padded(tokenizer, [r["prompt"] for r in RECORDS])
    labels = padded(tokenizer, [r["completion"] for r in RECORDS])["input_ids"]
    labels = labels.masked_fill(labels == 0, -100)
    whole = model(**sources, labels=labels).logits
    naive = F.cross_entropy(
        whole.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=0)
    assert examples.targets.lengths.sum() == int((labels != -100).sum())


def test_an_evaluation_equals_plain_transformers_calls(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    split = make_split(tmp_path, tokenizer, RECORDS)
    evaluation = evaluate(model, tokenizer, split, make_spec())
    sources = padded(tokenizer, [r["prompt"] for r in RECORDS])
    labels = padded(tokenizer, [r["completion"] for r in RECORDS])["input_ids"]
    labels = labels.masked_fill(labels == 0, -100)
    with torch.no_grad():
        output = model(**sources, labels=labels)
        ids = model.generate(**sources, max_new_tokens=12, do_sample=False)
        start = torch.zeros(len(RECORDS), 1, dtype=torch.long)
        first = model(**sources, decoder_input_ids=start).logits[:, 0]
    real = labels != -100
    right = (output.logits.argmax(-1) == labels)[real].float().mean()
    assert evaluation.metrics["loss"] == pytest.approx(float(output.loss), rel=1e-5)
    assert evaluation.metrics["perplexity"] == pytest.approx(float(output.loss.exp()), rel=1e-4)
    assert evaluation.metrics["token_accuracy"] == pytest.approx(float(right))
    answers = [item["generations"][0] for item in evaluation.items]
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert [answer["lm_postprocess"] for answer in answers] == texts
    pieces = tokenizer.convert_tokens_to_ids(["▁no", "▁yes"])
    expected = first[:, pieces].tolist()
    np.testing.assert_allclose([answer["scores"] for answer in answers], expected, atol=1e-4)


@pytest.mark.parametrize("eval_batch_size", [1, 2, 5, None])
def test_greedy_texts_do_not_depend_on_the_batch(
    model: Any, tokenizer: Any, tmp_path: Path, eval_batch_size: int | None
) -> None:
    split = make_split(tmp_path, tokenizer, RECORDS)
    alone = evaluate(model, tokenizer, split, make_spec(eval_batch_size=3))
    spec = make_spec(eval_batch_size=eval_batch_size)
    together = evaluate(model, tokenizer, split, spec)

    def texts(items: list[dict[str, Any]]) -> list[str]:
        return [item["generations"][0]["full_generated"] for item in items]

    assert texts(together.items) == texts(alone.items)
    assert together.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-6)


def test_items_are_whole_and_in_the_order_of_the_file(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    records = [dict(record) for record in RECORDS]
    del records[4]["completion"]
    split = make_split(tmp_path, tokenizer, records)
    spec = make_spec(temperature=1.0, n_samples=3)
    evaluation = evaluate(model, tokenizer, split, spec)
    assert [item["orig_d"] for item in evaluation.items] == records
    assert [item["prompt"] for item in evaluation.items] == [r["prompt"] for r in records]
    assert [item["demonstration"] for item in evaluation.items] == [
        record.get("completion") for record in records
    ]
    for item in evaluation.items:
        assert list(item) == ["prompt", "generations", "demonstration", "orig_d"]
        assert len(item["generations"]) == 3
        for answer in item["generations"]:
            assert list(answer) == ["lm_postprocess", "full_generated", "scores"]
            assert len(answer["scores"]) == 2
    assert prediction_files(vars(spec), 7) == ("temperature=1.00_n=3_step=7.json",)


def test_samples_differ_and_come_again_with_the_same_seed(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    split = make_split(tmp_path, tokenizer, RECORDS)

    def sample(seed: int) -> list[Any]:
        spec = make_spec(temperature=1.0, n_samples=2, seed=seed)
        items = evaluate(model, tokenizer, split, spec).items
        return [answer["full_generated"] for item in items for answer in item["generations"]]

    first = sample(0)
    assert first == sample(0)
    assert first != sample(1)
    assert any(one != other for one, other in zip(first[::2], first[1::2], strict=True))


def test_the_encoder_runs_once_a_prompt(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = []
    model.encoder.register_forward_hook(
        lambda module, inputs, kwargs, output: rows.append(len(output[0])), with_kwargs=True
    )
    split = make_split(tmp_path, tokenizer, [{"prompt": r["prompt"]} for r in RECORDS])
    evaluate(model, tokenizer, split, make_spec(temperature=1.0, n_samples=4))
    assert sum(rows) == len(RECORDS)


def test_without_completions_there_are_predictions_and_no_metrics(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    split = make_split(tmp_path, tokenizer, [{"prompt": r["prompt"]} for r in RECORDS])
    evaluation = evaluate(model, tokenizer, split, make_spec())
    assert len(evaluation.items) == len(RECORDS)
    names = ["loss", "perplexity", "token_accuracy"]
    assert [evaluation.metrics[name] for name in names] == [None] * 3
    assert "exact_match" not in evaluation.metrics
    assert 0 <= evaluation.metrics["empty"] <= 1


def test_a_vocabulary_without_yes_and_no_gives_null_and_one_warning(
    model: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    warn_once.cache_clear()
    monkeypatch.setattr(SeparateTexts, "word_ids", lambda self, *_: [2])
    split = make_split(tmp_path, tokenizer, RECORDS)
    for _ in range(2):
        spec = make_spec(eval_batch_size=2)
        evaluation = evaluate(model, tokenizer, split, spec)
    assert {item["generations"][0]["scores"] for item in evaluation.items} == {None}
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.message for record in warnings] == [
        "the vocabulary lacks yes or no as one token; scores are null"
    ]


def test_long_records_are_cut_and_keep_their_end(tokenizer: Any, tmp_path: Path) -> None:
    split = make_split(tmp_path, tokenizer, RECORDS)
    examples = one_for_each(split, make_spec(max_source_length=4, max_target_length=5))
    batch = Seq2Seq().collate(examples, (np.array([14]), np.array([0])), make_t5().config)
    assert batch.input_ids.shape == (2, 4)
    assert batch.decoder_input_ids.shape == (2, 5)
    ids = tokenizer(RECORDS[14]["completion"])["input_ids"]
    assert batch.targets[:5].tolist() == [*ids[:4], tokenizer.eos_token_id]
    assert batch.decoder_input_ids[0].tolist() == [0, *ids[:4]]
    assert batch.input_ids[1].tolist() == [*tokenizer("add one: 0")["input_ids"][:3], 1]


@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram_size": 5}])
def test_a_model_s_own_beams_penalties_and_lengths_decide_nothing(
    model: Any, tokenizer: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """With our own loop, and with transformers' for penalties."""
    split = make_split(tmp_path, tokenizer, RECORDS)
    plain = evaluate(model, tokenizer, split, make_spec(**settings)).items
    own = model.generation_config
    own.update(
        max_length=20, num_beams=4, repetition_penalty=3.0, no_repeat_ngram_size=1, min_length=9,
        typical_p=0.1, length_penalty=3.0,
        exponential_decay_length_penalty=(1, 9.0), return_dict_in_generate=True,
    )  # fmt: skip
    assert evaluate(model, tokenizer, split, make_spec(**settings)).items == plain
    assert model.generation_config is own


NO_LOSS = "16 of 16 records have a non-finite loss; loss is null"
NO_LOGITS = "16 of 16 records have non-finite logits; their predictions are meaningless"


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    ("keys", "settings", "told"),
    [
        (("prompt", "completion"), {}, [NO_LOSS]),
        (("prompt", "completion"), {"temperature": 1.0, "n_samples": 2}, [NO_LOSS]),
        (("prompt", "completion"), {"num_beams": 2}, [NO_LOSS]),
        (("prompt",), {}, [NO_LOGITS]),
    ],
)
def test_a_model_with_non_finite_outputs_is_reported(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    value: str, keys: Sequence[str], settings: dict[str, Any], told: list[str],
) -> None:  # fmt: skip
    model = make_t5()
    model.decoder.final_layer_norm.weight.data.fill_(float(value))
    records = [{key: record[key] for key in keys} for record in RECORDS]
    split = make_split(tmp_path, tokenizer, records)
    evaluation = evaluate(model, tokenizer, split, make_spec(**settings))
    assert {item["generations"][0]["scores"] for item in evaluation.items} == {None}
    assert evaluation.metrics["loss"] is evaluation.metrics["perplexity"] is None
    assert [one.message for one in caplog.records if "finite" in one.message] == told


def test_the_records_without_a_finite_loss_are_counted(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_t5()
    unknown = tokenizer("3 3", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        model.shared.weight[unknown] = float("nan")  # of what is read, not of what is said
    split = make_split(tmp_path, tokenizer, RECORDS)
    found = [unknown in split.sources.row(i, 99) or unknown in split.targets.row(i, 99)[:-1]
             for i in range(len(split))]  # fmt: skip
    assert 0 < sum(found) < len(found)
    assert evaluate(model, tokenizer, split, make_spec()).metrics["loss"] is None
    assert f"{sum(found)} of {len(found)} records have a non-finite loss" in caplog.text


def test_predictions_are_compared_with_writable_references(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that generates every completion exactly is right throughout."""
    completions = [
        "<extra_id_0> the house <extra_id_1>", "right END of it", "a</s>", " two words \n", "{a}",
    ]  # fmt: skip
    records = [{"prompt": f"say {i}", "completion": one} for i, one in enumerate(completions)]
    split = make_split(tmp_path, tokenizer, records)

    def learned(decoder: Any, prompts: PromptBatch, *_: Any) -> GeneratedIds:
        texts = [split.targets.row(i, 99).tolist() for i in prompts.indexes]
        return GeneratedIds(texts, [True] * len(texts), torch.zeros(len(texts), 4))

    monkeypatch.setattr(generate_module, "generate_rows", learned)
    evaluation = evaluate(make_t5(), tokenizer, split, make_spec(stop=[" END"]))
    assert [item["demonstration"] for item in evaluation.items] == completions
    assert evaluation.records == records
    references = [item.get("reference") for item in evaluation.items]
    assert references == ["the house", "right", "a", None, None]
    assert evaluation.metrics["exact_match"] == 4 / 5  # braces cannot be written


@pytest.mark.parametrize(
    ("metric", "completions", "found"),
    [
        (
            "rougeL",
            ["北京是中国的首都", "<extra_id_0> 上海 END of it"],
            "half of its letters in a-z",
        ),
        ("bleu", ["one two three", "yes"], "no eval completion has four tokens in a row"),
        ("rouge2", ["one", "北京市 a b"], "two words in a row"),
        ("rougeL", ["北京是中国的首都", "one"], None),
        ("rougeL_unicode", ["北京是中国的首都"], None),
        ("bleu", ["北京是中国的首都"], None),
        ("loss", ["北京"], None),
        ("chrf", ["", " \n", "!"], None),
        ("rougeL_unicode", ["", ""], None),
    ],
)
def test_a_metric_that_sees_no_completion_chooses_no_checkpoint(
    tokenizer: Any, tmp_path: Path, metric: str, completions: Sequence[str], found: str | None
) -> None:
    records = [{"prompt": "say", "completion": completion} for completion in completions]
    split = make_split(tmp_path, tokenizer, records)
    spec = make_spec(metric_for_best_model=metric, stop=[" END"])
    if found is None:
        Seq2Seq().check(tokenizer, split, spec)
        return
    with pytest.raises(BadInput, match=f"--metric_for_best_model {metric}: .*{found}"):
        Seq2Seq().check(tokenizer, split, spec)


@pytest.mark.parametrize(
    ("metric", "seen"), [("bleu", "four tokens in a row"), ("chrf", "a character")]
)
def test_of_empty_completions_a_metric_that_has_a_value_is_named(
    tokenizer: Any, tmp_path: Path, metric: str, seen: str
) -> None:
    split = make_split(tmp_path, tokenizer, [{"prompt": "say", "completion": ""}] * 2)
    with pytest.raises(BadInput) as caught:
        Seq2Seq().check(tokenizer, split, make_spec(metric_for_best_model=metric))
    assert str(caught.value) == (
        f"--metric_for_best_model {metric}: no eval completion has {seen} (expected a metric "
        "defined on these completions). Hint: choose rougeL_unicode or exact_match, which count an "
        "empty text as correct."
    )


def test_the_tokenizer_of_bleu_is_that_of_the_completions(
    tokenizer: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    chosen = []
    choose = seq2seq_evaluation.bleu_tokenizer
    monkeypatch.setattr(
        seq2seq_evaluation,
        "bleu_tokenizer",
        lambda texts: chosen.append(choose(texts)) or chosen[-1],
    )
    for once in (inform_once, warn_once):
        once.cache_clear()
    records = [{"prompt": "say", "completion": "北京是中国的首都"}] * 3
    split = make_split(tmp_path, tokenizer, records)
    for _ in range(2):
        metrics = evaluate(make_t5(), tokenizer, split, make_spec()).metrics
    assert "|tok:zh|" in metrics["bleu_signature"]
    assert metrics["rougeL"] is metrics["rougeL_ci95"] is None
    assert chosen == ["zh"]  # once a split
    assert caplog.text.count("sacrebleu's tokenizer zh") == 1
    assert caplog.text.count("in all 3 references") == 1
