"""Multilingual models use the requested source and target languages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import T5_TINY
from test_families import CODES, job_of, make_any
from tiny_models import MULTILINGUAL, change_settings, make_multilingual
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from workflow import BadInput, make_job, run_job
from workflow.models.hub import load_tokenizer
from workflow.models.languages import language_ids, set_languages
from workflow.runs.mount import Mount


@pytest.mark.parametrize("kind", MULTILINGUAL)
def test_the_codes_of_a_tokenizer(tmp_path: Path, kind: str) -> None:
    make_multilingual(kind, tmp_path / kind)
    tokenizer = load_tokenizer(tmp_path / kind)
    codes = language_ids(tokenizer)
    assert len(codes) == {"mbart50": 52, "mbart25": 25, "nllb": 202, "m2m100": 100}[kind]
    assert set(CODES[kind]) <= set(codes)
    assert len(set(codes.values())) == len(codes)
    assert tokenizer.unk_token_id not in codes.values()
    assert set_languages(tokenizer, *CODES[kind], target_needed=True) == []
    source, target = tokenizer("yes")["input_ids"], tokenizer(text_target="yes")["input_ids"]
    (of_source,) = set(source) - set(target)
    (of_target,) = set(target) - set(source)
    assert {of_source, of_target} < set(codes.values())
    tokenizer.save_pretrained(tmp_path / "saved")
    for again in (load_tokenizer, AutoTokenizer.from_pretrained):
        saved = again(tmp_path / "saved")
        assert saved("yes")["input_ids"] == source
        assert saved(text_target="yes")["input_ids"] == target


def test_a_model_of_one_language_has_no_codes() -> None:
    tokenizer = load_tokenizer(T5_TINY)
    assert language_ids(tokenizer) == {}
    assert set_languages(tokenizer, None, None, target_needed=True) == []
    (problem,) = set_languages(tokenizer, None, "fr_XX", target_needed=True)
    assert str(problem) == (
        "--target_lang: 'fr_XX' (expected no value, since the tokenizer has no language codes). "
        "Hint: remove it."
    )


def test_missing_and_unknown_languages_are_reported(mount: Mount) -> None:
    make_multilingual("mbart50", mount.models / "mbart50")
    codes = ", ".join(sorted(language_ids(load_tokenizer(mount.models / "mbart50"))))
    known = f"(expected one of the tokenizer's 52 languages: {codes}). Hint:"
    with pytest.raises(BadInput) as raised:
        run_job(job_of("mbart50", "mbart50", max_steps=1), mount)
    assert str(raised.value) == (
        f"--source_lang: not set {known} add --source_lang CODE.\n"
        f"--target_lang: not set {known} add --target_lang CODE.\n"
        "(2 problems in all)"
    )
    with pytest.raises(BadInput) as raised:
        run_job(job_of("mbart50", "mbart50", source_lang="en", target_lang="french"), mount)
    assert str(raised.value) == (
        f"--source_lang: 'en' {known} did you mean en_XX?\n"
        f"--target_lang: 'french' {known} choose one of them.\n"
        "(2 problems in all)"
    )
    assert not [path for path in mount.models.iterdir() if path.name.startswith("mbart50_")]


def test_a_score_needs_no_target_language(mount: Mount) -> None:
    make_multilingual("mbart50", mount.models / "mbart50", src_lang="en_XX")
    records = [{"input": "the work", "target": 1}, {"input": "a licence", "target": 0}]
    (mount.data / "scores.json").write_text(json.dumps({"train": records, "eval": records}))
    job = make_job(
        "clf", model_init_name="mbart50", data_name="scores", max_steps=1, bf16=False,
        label_words=["▁the", "▁of"],
    )  # fmt: skip
    run = run_job(job, mount)
    spec = json.loads((run / "training_args.json").read_text())
    assert (spec["source_lang"], spec.get("target_lang")) == ("en_XX", None)


def test_two_target_languages_share_no_tokens(mount: Mount) -> None:
    """The second model trains on its own language, although the first has cached the same data."""
    losses, first = [], []
    for name, target in (("one", "en_XX"), ("two", "fr_XX")):
        make_multilingual("mbart50", mount.models / name, src_lang="en_XX", tgt_lang=target)
        job = job_of("mbart50", name, max_steps=1, max_new_tokens=3, eval_on_start=False)
        run = run_job(job, mount)
        losses.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
        (item, *_) = json.loads((run / "temperature=0.00_n=1_step=1.json").read_text())
        first.append(item["generations"][0]["full_generated"].split(" ")[0][:5])
        settings = GenerationConfig.from_pretrained(run / "checkpoint-1")
        saved: Any = AutoTokenizer.from_pretrained(run / "checkpoint-1")
        assert saved.tgt_lang == target
        assert settings.forced_bos_token_id == saved.convert_tokens_to_ids(target)
    assert losses[0] != losses[1]
    assert first == ["en_XX", "fr_XX"]


def test_decoding_starts_with_the_target_language_of_mbart(mount: Mount) -> None:
    make_multilingual("mbart25", mount.models / "mbart25")
    run = run_job(
        job_of(
            "mbart25", "mbart25", max_steps=1, max_new_tokens=2, source_lang="en_XX",
            target_lang="fr_XX",
        ),
        mount,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint-1")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((run / "checkpoint-1" / name).read_text())
        assert settings["decoder_start_token_id"] == tokenizer.convert_tokens_to_ids("fr_XX")


@pytest.mark.parametrize("where", ["config.json", "generation_config.json", "one file"])
@pytest.mark.parametrize("family", ["bart", "mbart50", "m2m100", "nllb"])
def test_the_first_generated_token_is_the_forced_one(mount: Mount, family: str, where: str) -> None:
    """Either file may name it alone; the job's target language has precedence."""
    languages = make_any(family, mount.models / family)
    tokenizer = load_tokenizer(mount.models / family)
    named = wanted = 7
    if languages:
        named, wanted = (language_ids(tokenizer)[code] for code in languages.values())
    files = [mount.models / family / name for name in ("config.json", "generation_config.json")]
    if where == "one file":
        files.pop().unlink()
    for file in files:
        change_settings(
            file, {"forced_bos_token_id": named if where in (file.name, "one file") else None}
        )
    run = run_job(job_of(family, family, max_steps=1, max_new_tokens=3, **languages), mount)
    first = tokenizer.decode([wanted])
    for step in (0, 1):
        items = json.loads((run / f"temperature=0.00_n=1_step={step}.json").read_text())
        for item in items:
            assert item["generations"][0]["full_generated"].startswith(first)
    saved = AutoModelForSeq2SeqLM.from_pretrained(run / "checkpoint-1")
    ids = saved.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)
    assert ids[0, 1] == wanted
