"""Greedy texts and scores of models with adapters: as plain peft's, for any batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ALONE
from tuned_models import (
    ALL,
    DECODERS,
    METHODS,
    assert_close,
    base_folder,
    by_peft,
    logits_of,
    ready,
    save,
    stirred,
    train,
    tuned_job,
)

from workflow.distributed.stop import Stop
from workflow.inference.causal_decoder import CausalDecoder, by_rows
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch
from workflow.inference.decoding_loop import generate_rows, own_decoder
from workflow.inference.hf_generate import hf_generate
from workflow.inference.t5_decoder import T5Decoder
from workflow.training.prepare import Job

NEW = 8
CAUSAL = [("gpt2", method) for method in METHODS] + [("llama", method) for method in METHODS]
OTHERS = [
    (kind, method) for kind in ("t5", "bart", "t5gemma") for method in METHODS if method != "prefix"
]  # fmt: skip


def prompts_of(job: Job) -> PromptBatch:
    examples = job.train_examples
    return PromptBatch([examples.sources[index].tolist() for index in ALL], ALL, [7, 11])


def by_loop(model: Any, prompts: PromptBatch, at_once: int) -> GeneratedIds:
    decoding = Decoding(max_new_tokens=NEW)
    kind = own_decoder(model, decoding, max(map(len, prompts.ids)))
    assert kind in (CausalDecoder, T5Decoder)
    with torch.no_grad(), by_rows(model):
        decoder = kind.of(model, prompts.ids, decoding, at_once)
        return generate_rows(decoder, prompts, decoding, Stop(), lambda _: None)


def by_generate(model: Any, prompts: PromptBatch) -> GeneratedIds:
    with torch.no_grad():
        return hf_generate(model, prompts, Decoding(max_new_tokens=NEW), ALONE)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # of peft
@pytest.mark.parametrize(("kind", "method"), CAUSAL + OTHERS)
def test_greedy_texts_are_those_of_peft_for_each_prompt_alone(
    kind: str, method: str, tmp_path: Path
) -> None:
    job = tuned_job(kind, method, tmp_path)
    engine = train(job, stirred(ready(job)), steps=1)
    model = engine.model.eval()
    theirs = by_peft(save(job, engine, tmp_path / "run"), base_folder(kind))
    prompts, split = prompts_of(job), job.splits["train"]
    found = by_generate(model, prompts)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    if kind in (*DECODERS, "t5"):
        for at_once in (1, 3, 20):
            texts = by_loop(model, prompts, at_once)
            assert texts.sequences == found.sequences
            torch.testing.assert_close(texts.first_logits, found.first_logits, rtol=1e-4, atol=1e-4)
    for index in ALL:
        ids = torch.tensor([split.sources.row(index).tolist()])
        alone = theirs.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW,
            do_sample=False, num_beams=1, pad_token_id=0,
        )[0].tolist()  # fmt: skip
        new = alone[ids.shape[1] :] if kind in DECODERS else alone[1:]
        stop = next((place for place, one in enumerate(new) if one in ends), len(new))
        assert found.sequences[index] == new[: stop + 1]


@pytest.mark.parametrize(
    ("kind", "method"), CAUSAL + OTHERS + [("bert", "prompt"), ("roberta", "prompt")]
)
def test_scores_do_not_depend_on_the_batch(kind: str, method: str, tmp_path: Path) -> None:
    job = tuned_job(kind, method, tmp_path)
    model = stirred(ready(job))
    together = logits_of(job, model)
    alone = [logits_of(job, model, [index])[0] for index in ALL]
    assert_close(together, alone)
