"""Diverse beam search: as by all groups together, step by step, for each prompt alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ALONE, make_t5
from tiny_models import make_small

from workflow.inference.choices import Trie
from workflow.inference.decoding import Decoding, GeneratedIds, PromptBatch, end_ids
from workflow.inference.hf_generate import hf_generate

LENGTHS = (9, 1, 12, 3)
DIVERSE = Decoding(
    max_new_tokens=8, num_beams=6, n_samples=6, num_beam_groups=3, diversity_penalty=0.5
)


def make_model(kind: str) -> Any:
    """A model with small differences of logits, and many tokens that end a text."""
    model = make_t5() if kind == "t5" else make_small(kind, vocab_size=1000)
    model.get_output_embeddings().weight.data *= 0.3
    model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 5))
    return model


def make_prompts() -> PromptBatch:
    drawn = np.random.default_rng(1)
    ids = [drawn.integers(5, 900, length).tolist() for length in LENGTHS]
    return PromptBatch(ids, range(len(ids)), [7, 11])


def write(model: Any, prompts: PromptBatch, decoding: Decoding) -> GeneratedIds:
    with torch.no_grad():
        return hf_generate(model, prompts, decoding, ALONE)


def write_alone(model: Any, prompts: PromptBatch, decoding: Decoding) -> list[list[int]]:
    batches = [replace(prompts, ids=[ids], indexes=[0]) for ids in prompts.ids]
    return [ids for batch in batches for ids in write(model, batch, decoding).sequences]


def logprobs_after(model: Any, prompt: list[int], written: list[list[int]]) -> torch.Tensor:
    """Of the next token of each text of a prompt."""
    if model.config.is_encoder_decoder:
        given = torch.tensor([prompt] * len(written))
        read = torch.tensor([[0, *ids] for ids in written])
        logits = model(input_ids=given, decoder_input_ids=read).logits
    else:
        logits = model(torch.tensor([prompt + ids for ids in written])).logits
    return logits[:, -1].log_softmax(-1)


@dataclass
class Group:
    """A beam search as transformers', of which others see the tokens that it takes."""

    beams: int
    ends: set[int]
    running: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])
    kept: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def take(self, logprobs: torch.Tensor, last: bool) -> list[int]:
        """Take the next tokens; returns those of the beams that continue."""
        candidates = [
            (score + float(row[token]), [*ids, token])
            for (score, ids), row in zip(self.running, logprobs, strict=True)
            for token in row.topk(len(self.ends) + self.beams).indices.tolist()
        ]
        candidates.sort(reverse=True)
        length = len(candidates[0][1])
        self.kept += [
            (score / length, ids)
            for score, ids in candidates[: self.beams]
            if last or ids[-1] in self.ends
        ]
        self.kept = sorted(self.kept, reverse=True)[: self.beams]
        self.running = [one for one in candidates if one[1][-1] not in self.ends][: self.beams]
        full = len(self.kept) == self.beams
        # With one beam it is greedy decoding, which does not search for a better text.
        self.done = full and (self.beams == 1 or self.running[0][0] / length <= self.kept[-1][0])
        continuing = candidates[:1] if self.beams == 1 else self.running
        return [ids[-1] for _, ids in continuing if ids[-1] not in self.ends]


@torch.no_grad()
def together(
    model: Any, prompt: list[int], decoding: Decoding, lengths: Sequence[int] = ()
) -> list[list[int]]:
    """All groups take a step before any takes the next.

    Args:
        lengths: steps in which each group counts, up to the end of its longest text; if not given,
            they are found by trying: the first group's, then the second's, which depends on it.
    """
    beams = decoding.num_beams // decoding.num_beam_groups
    groups = [Group(beams, {*end_ids(model)}) for _ in range(decoding.num_beam_groups)]
    known = [*lengths, *[decoding.max_new_tokens] * (len(groups) - len(lengths))]
    for step in range(decoding.max_new_tokens):
        taken: Counter[int] = Counter()
        for group, length in zip(groups, known, strict=True):
            if group.done:
                continue
            logprobs = logprobs_after(model, prompt, [ids for _, ids in group.running])
            for token, count in taken.items():
                logprobs[:, token] -= decoding.diversity_penalty * count
            tokens = group.take(logprobs, step == decoding.max_new_tokens - 1)
            taken.update(tokens if step < length else [])
    found = [max(len(ids) for _, ids in group.kept) for group in groups]
    if len(lengths) < len(groups):
        return together(model, prompt, decoding, found[: len(lengths) + 1])
    assert found == [*lengths]
    ranked = [group.kept[rank][1] for rank in range(beams) for group in groups]
    return ranked[: decoding.n_samples]


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beam_groups": 2, "n_samples": 3}, {"num_beam_groups": 6}, {"max_new_tokens": 1}],
)
def test_texts_are_those_of_groups_that_search_together(
    kind: str, settings: dict[str, Any]
) -> None:
    model, prompts, decoding = make_model(kind), make_prompts(), replace(DIVERSE, **settings)
    found = write(model, prompts, decoding)
    expected = [ids for prompt in prompts.ids for ids in together(model, [*prompt], decoding)]
    assert found.sequences == expected
    ends = {*end_ids(model)}
    assert found.ended == [ids[-1] in ends for ids in expected]
    assert write_alone(model, prompts, decoding) == expected
    plain = write(model, prompts, Decoding(max_new_tokens=1))
    torch.testing.assert_close(found.first_logits, plain.first_logits)
    assert len({len(ids) for ids in expected}) > min(2, decoding.max_new_tokens - 1)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_the_first_group_is_a_beam_search_and_others_differ_from_it(kind: str) -> None:
    model, prompts = make_model(kind), make_prompts()
    few = Decoding(max_new_tokens=8, min_new_tokens=2, num_beams=2, n_samples=2)
    many = replace(few, num_beams=6, n_samples=6)
    groups = replace(many, num_beam_groups=3, diversity_penalty=50.0)
    first, plain, diverse = (write(model, prompts, how).sequences for how in (few, many, groups))
    assert diverse[::6] == first[::2] and diverse[3::6] == first[1::2]
    for prompt in range(0, len(plain), 6):
        openings = [{ids[0] for ids in texts[prompt : prompt + 3]} for texts in (diverse, plain)]
        assert len(openings[0]) == 3 >= len(openings[1])
    assert different_pairs(diverse) > 1.1 * different_pairs(plain)


def different_pairs(sequences: list[list[int]]) -> int:
    """Pairs of neighbours that differ among the six texts of each prompt."""
    texts = [sequences[at : at + 6] for at in range(0, len(sequences), 6)]
    return sum(len({pair for ids in six for pair in pairwise(ids)}) for six in texts)


OTHERS: list[dict[str, Any]] = [
    {"presence_penalty": 1.0, "logit_bias": ((17, 9.0),)}, {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 4},
]  # fmt: skip


@pytest.mark.parametrize("num_beam_groups", [3, 6])
@pytest.mark.parametrize("settings", OTHERS)
def test_other_settings_work_with_groups(settings: dict[str, Any], num_beam_groups: int) -> None:
    model, prompts = make_model("t5"), make_prompts()
    plain = replace(DIVERSE, num_beam_groups=num_beam_groups)
    found = write(model, prompts, replace(plain, **settings)).sequences
    assert found != write(model, prompts, plain).sequences
    assert write_alone(model, prompts, replace(plain, **settings)) == found
    assert min(map(len, found)) > settings.get("min_new_tokens", 0)


@pytest.mark.parametrize("num_beam_groups", [3, 6])
def test_texts_of_groups_are_among_the_choices(num_beam_groups: int) -> None:
    """Even where there are fewer than beams."""
    model, prompts = make_model("t5"), make_prompts()
    model.generation_config.eos_token_id = 1
    for tokens in (range(20, 22), range(20, 40)):
        choices = [[first, second, 1] for first in tokens for second in (first, 7)]
        trie = Trie.of(choices, choices, torch.device("cpu"))
        chosen = replace(prompts, trie=trie, roots=[0] * len(prompts.ids))
        decoding = replace(DIVERSE, num_beam_groups=num_beam_groups, diversity_penalty=5.0)
        found = write(model, chosen, decoding).sequences
        assert all(ids in choices for ids in found)
        assert write_alone(model, replace(chosen, roots=[0]), decoding) == found
        assert len({tuple(ids) for ids in found[:6]}) > 2
