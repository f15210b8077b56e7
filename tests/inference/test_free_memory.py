"""How many positions are generated at once on a GPU, and the memory that they take."""

from typing import Any

import pytest
import torch
from conftest import make_t5
from test_generate import make_decoding
from test_t5_decoder import random_prompts
from transformers import T5Config

from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from workflow.distributed.world import World
from workflow.inference.free_memory import MOST_AT_ONCE, positions_at_once, positions_in
from workflow.inference.t5_decoder import T5Decoder
from workflow.memory.activations import Work, evaluation_bytes
from workflow.models.families import Dimensions, Modules, family_of

XL = Dimensions(
    24, 24, 2048, 32, 2048, 2048, 5120, 32128, joins_texts=False, modules=Modules(gated=True)
)


def test_positions_fill_half_of_the_free_memory_as_the_plan_counts_it() -> None:
    for free in (20e9, 70e9):
        positions = positions_in(free, XL, 2)
        work = Work(True, 256, 256, 0, trains=False, generated=positions)
        planned = evaluation_bytes(XL, work)["evaluation"]
        assert 0.9 * free / 2 < planned <= free / 2  # all texts of the greatest length
    assert 2 * 2 * XL.inner * XL.decoder_layers == 196_608  # of keys and values alone


def test_positions_are_those_of_the_plan_at_least_and_few_enough_for_indexes() -> None:
    assert positions_in(1e9, XL, 2) == POSITIONS_AT_ONCE
    assert positions_in(1e13, XL, 2) == MOST_AT_ONCE
    assert MOST_AT_ONCE / POSITIONS_AT_ONCE * LOGITS_AT_ONCE < 2**31


def test_a_cpu_generates_as_many_positions_as_ever() -> None:
    assert positions_at_once(make_t5(), World()) == POSITIONS_AT_ONCE


def test_the_process_with_the_least_free_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranks(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, 30e9]

    class Model:
        device, dtype = torch.device("cuda", 0), torch.bfloat16
        config = T5Config(d_model=2048, num_heads=32, d_ff=5120, num_layers=24)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * 10**9)
    sizes = family_of(Model.config).dimensions(Model.config)
    model: Any = Model()
    assert positions_at_once(model, Ranks()) == positions_in(30e9, sizes, 2)
    assert positions_at_once(model, World()) == positions_in(62e9, sizes, 2)


@pytest.mark.parametrize("samples", [1, 4])
def test_a_decoder_takes_no_more_than_its_positions(samples: int) -> None:
    model, prompts = make_t5(num_layers=4, d_kv=64), random_prompts(50)
    decoding = make_decoding(max_new_tokens=30, temperature=1.0, n_samples=samples)
    decoder = T5Decoder.of(model, prompts, decoding, at_once=20)
    rooms = [value for value in vars(decoder).values() if isinstance(value, torch.Tensor)]
    taken = sum(room.numel() * room.element_size() for room in rooms)
    sizes = family_of(model.config).dimensions(model.config)
    positions = 20 * samples * (30 + 40)  # the longest prompt, padded
    assert taken <= positions * sizes.bytes_per_position(4)
