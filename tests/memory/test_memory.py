"""The memory plan: properties of the predictions, published cases, and choices."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workflow.core.errors import BadInput
from workflow.distributed.strategy import ShardingStrategy
from workflow.distributed.world import World
from workflow.memory import machine as this_host
from workflow.memory.activations import Work
from workflow.memory.estimate import predict
from workflow.memory.machine import Machine, this_machine
from workflow.memory.model_dims import Sizes, checkpoint_bytes, sizes_of
from workflow.memory.search import (
    PlanRequest,
    choose,
    fits,
    name_of,
    on_cpu,
    plans,
)

SHAPES = {
    "xl": {"d_model": 2048, "num_heads": 32, "d_ff": 5120},
    "xxl": {"d_model": 4096, "num_heads": 64, "d_ff": 10240},
}
SETTINGS = [
    ShardingStrategy(stage, offload) for stage in (1, 2, 3) for offload in ("none", "optimizer")
]
SETTINGS.append(ShardingStrategy(3, "all"))
FOUR_80GB = Machine(processes=4, on_each=4, device_memory=80e9, host_memory=512e9)
WORK = Work(bf16=True, source_length=1024, target_length=512, positions=1536)


def write_config(folder: Path, shape: str) -> Path:
    """A Flan-T5's config.json, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_kv": 64,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config | SHAPES[shape]))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sizes]:
    folder = tmp_path_factory.mktemp("configs")
    return {shape: sizes_of(write_config(folder / shape, shape)) for shape in SHAPES}


@pytest.fixture
def xxl(models: dict[str, Sizes]) -> Sizes:
    return models["xxl"]


def with_work(**changes: Any) -> Work:
    return dataclasses.replace(WORK, **changes)


def test_parameters_of_flan_t5(models: dict[str, Sizes]) -> None:
    assert models["xl"].parameters == 2_849_757_184
    assert models["xxl"].parameters == 11_135_332_352
    assert models["xxl"].largest_tensor == 32128 * 4096
    assert (models["xl"].encoder_layers, models["xl"].decoder_layers) == (24, 24)
    assert checkpoint_bytes(models["xxl"]) == (44_541_329_408, 133_623_988_224)


@pytest.mark.parametrize("strategy", SETTINGS, ids=name_of)
@pytest.mark.parametrize("on_gpu", [True, False], ids=["gpu", "cpu"])
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
class TestOfEverySetting:
    def test_more_processes_never_need_more(
        self, models: dict[str, Sizes], strategy: ShardingStrategy, on_gpu: bool, bf16: bool
    ) -> None:
        for sizes in models.values():
            needs = [predict(sizes, with_work(bf16=bf16, on_gpu=on_gpu, processes=count), strategy)
                     for count in (2, 4, 8, 64)]  # fmt: skip
            assert all(more.device <= less.device for less, more in pairwise(needs))
            assert all(more.host <= less.host for less, more in pairwise(needs))
            assert all(more.both <= less.both for less, more in pairwise(needs))

    def test_a_larger_micro_batch_needs_more(
        self, xxl: Sizes, strategy: ShardingStrategy, on_gpu: bool, bf16: bool
    ) -> None:
        works = [with_work(bf16=bf16, on_gpu=on_gpu, processes=4, positions=rows * 1536)
                 for rows in (1, 8, 16, 32)]  # fmt: skip
        needs = [predict(xxl, work, strategy).device for work in works]
        assert all(less < more for less, more in pairwise(needs[1:]))
        assert needs[0] <= needs[1]  # one row may be less than what evaluation takes

    def test_recomputing_and_no_dropout_lower_activations(
        self, xxl: Sizes, strategy: ShardingStrategy, on_gpu: bool, bf16: bool
    ) -> None:
        work = with_work(bf16=bf16, on_gpu=on_gpu, positions=16 * 1536, processes=4)
        recomputing = dataclasses.replace(work, gradient_checkpointing=True)
        modules = dataclasses.replace(xxl.modules, dropout=False)
        whole, recomputed, undropped = (
            phase_of(predict(*each, strategy), "backward").device["activations"]
            for each in (
                (xxl, work),
                (xxl, recomputing),
                (dataclasses.replace(xxl, modules=modules), work),
            )
        )
        assert recomputed < 0.25 * whole
        assert undropped < whole

    def test_nothing_is_offloaded_but_what_is_said(
        self, xxl: Sizes, strategy: ShardingStrategy, on_gpu: bool, bf16: bool
    ) -> None:
        work = with_work(bf16=bf16, on_gpu=on_gpu, processes=4)
        need = predict(xxl, work, strategy)
        for phase in need.phases:
            if strategy.offload == "none":
                assert not phase.host
            elif phase.host:
                assert sum(phase.host.values()) >= 12 * xxl.parameters / work.processes
                assert not {"optimizer", "masters"} & phase.device.keys()


def phase_of(need: Any, name: str) -> Any:
    return next(phase for phase in need.phases if phase.name == name)


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
def test_each_stage_needs_less_than_the_one_before(
    models: dict[str, Sizes], bf16: bool, processes: int
) -> None:
    """Except ZeRO-2 in float32 on two processes, whose two shares are as large as all gradients."""
    for sizes in models.values():
        work = with_work(bf16=bf16, processes=processes)
        plain = predict(sizes, dataclasses.replace(work, processes=1), None).device
        one, two, three = (
            predict(sizes, work, ShardingStrategy(stage, gathers=False)).device
            for stage in (1, 2, 3)
        )
        if bf16 or processes > 2:
            assert three < two < one
        assert three < one < plain


@pytest.mark.parametrize(("stage", "bf16"), [(1, False), (2, False), (2, True)])
def test_reducing_during_the_backward_pass_takes_a_second_bucket(
    xxl: Sizes, stage: int, bf16: bool
) -> None:
    work, bucket = with_work(bf16=bf16, processes=4, positions=16 * 1536), 200_000_000
    during, after = (
        predict(xxl, work, ShardingStrategy(stage, users={"zero_optimization": users}))
        for users in ({}, {"overlap_comm": False})
    )
    one = (4 if stage == 1 else work.computing) * bucket
    for name in ("backward", "reduce"):
        assert phase_of(during, name).device["reduction"] == 8 * bucket + one
    assert phase_of(after, "backward").device["reduction"] == one
    assert during.device - after.device == 8 * bucket  # also what the reduction itself takes


def test_gradients_are_reduced_during_the_backward_pass_where_that_is_safe_and_faster() -> None:
    bucket = 200_000_000
    for stage, processes, largest, on_gpu, expected in (
        (1, 2, bucket, True, True),
        (2, 2, bucket, True, True),
        (3, 2, bucket, True, False),  # has a default of its own
        (2, 1, bucket, True, False),
        (2, 2, bucket, False, False),
        (2, 8, bucket + 1, True, False),  # would be freed too early
    ):
        strategy = ShardingStrategy(stage)
        assert strategy.overlaps(processes, largest, on_gpu) is expected
    for given in (True, False):
        users = {"zero_optimization": {"overlap_comm": given}}
        assert ShardingStrategy(2, users=users).overlaps(2, 1, not given) is given
    users = {"zero_optimization": {"reduce_bucket_size": 10}}
    assert not ShardingStrategy(2, users=users).overlaps(2, 11, True)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
def test_offloading_moves_bytes_to_the_host(xxl: Sizes, bf16: bool, stage: int) -> None:
    work = with_work(bf16=bf16, processes=4)
    here, away = (
        predict(xxl, work, ShardingStrategy(stage, offload)) for offload in ("none", "optimizer")
    )
    assert away.device < here.device
    assert here.host == 0 < away.host
    if stage == 3:
        everything = predict(xxl, work, ShardingStrategy(3, "all"))
        assert everything.device < away.device
        assert everything.host - away.host >= work.computing * xxl.parameters / 4


def test_pinned_buffers_are_rounded_up_to_powers_of_two(xxl: Sizes) -> None:
    share = xxl.parameters / 4  # 2.8 billion: masters and gradients of 11.1 GB take 17.2 each
    host = phase_of(
        predict(xxl, with_work(processes=4), ShardingStrategy(2, "optimizer")), "update"
    ).host
    assert host["masters"] == host["gradients"] == 2**34
    assert host["optimizer"] == 8 * share
    on_cpu = predict(xxl, with_work(processes=4, on_gpu=False), ShardingStrategy(2, "optimizer"))
    assert phase_of(on_cpu, "update").host["masters"] == 4 * share


def test_an_evaluation_alone_needs_its_weights_and_little_more(xxl: Sizes) -> None:
    work = with_work(processes=4, trains=False)
    whole = 2 * xxl.parameters
    assert whole < predict(xxl, work, None).device < 1.5 * whole
    divided = predict(xxl, work, ShardingStrategy(3, gathers=False))
    gathering = predict(xxl, work, ShardingStrategy(3))
    assert divided.device < 0.75 * whole < whole < gathering.device
    assert phase_of(gathering, "evaluate").device["evaluation's copy"] == whole


def test_what_a_machine_has_for_each_process() -> None:
    assert FOUR_80GB.for_device == pytest.approx(0.92 * 80e9 - 1e9)
    assert FOUR_80GB.for_host == pytest.approx(0.92 * 128e9 - 3e9)
    assert dataclasses.replace(FOUR_80GB, host_memory=None).for_host == float("inf")
    on_cpus = Machine(2, 2, 4e9, 8e9, on_gpu=False)
    assert on_cpus.for_device == pytest.approx(0.92 * 4e9 - this_host.CPU_BYTES)


def test_of_a_host_its_group_may_have_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"MemTotal": 9_000_000, "MemAvailable": 4_000_000}
    others = ("MemFree", "Buffers", "Cached", "Shmem", "Active", "Inactive", "Slab")
    lines = [f"{name}:  {size} kB\n" for name, size in (dict.fromkeys(others, 1) | sizes).items()]
    (tmp_path / "meminfo").write_text("".join(lines))
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path))
    monkeypatch.setattr(this_host, "GROUP", tmp_path)
    assert this_host.available_memory() == 4_096_000_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 250\nactive_file 50\n")
    assert this_host.available_memory() == 4_096_000_000
    (tmp_path / "memory.max").write_text("3000000000\n")
    assert this_host.available_memory() == 2_000_000_300  # what files take can be had


class Gpu:
    """A GPU of 80 GB as torch shows it, without a GPU."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.free, self.cached, self.measured = 79e9, 0, 0
        total = SimpleNamespace(total_memory=80_000_000_000)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 8)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: total)
        patch.setattr(torch.cuda, "memory_reserved", lambda device: self.cached)
        patch.setattr(torch.cuda, "mem_get_info", self._measure)

    def _measure(self, device: torch.device) -> tuple[float, float]:
        self.measured += 1
        return self.free, 80e9


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_of_a_shared_gpu_only_what_is_free_counts(
    gpu: Gpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow.core.console.log.propagate", True)
    for free in (80e9, 79e9, 77e9):  # with a CUDA context, and a display
        gpu.free = free
        assert this_machine(World()).device_memory == 80e9
    assert not caplog.records
    gpu.free = 40e9
    machine = this_machine(World())
    assert machine.device_memory == pytest.approx(40e9 / 0.96)
    assert machine.for_device == pytest.approx(0.92 / 0.96 * 40e9 - 1e9)
    assert {record.getMessage() for record in caplog.records} == {
        "other programs use the GPU: the plan is for 41.7 GB of 80.0 GB"
    }
    gpu.cached = 38_000_000_000  # of an earlier job in this process
    assert this_machine(World()).device_memory == 80e9


def test_a_launcher_takes_no_memory_of_a_gpu(gpu: Gpu) -> None:
    machine = this_machine(World(size=4, local_size=2))
    assert (machine.processes, machine.on_each, machine.device_memory) == (4, 2, 80e9)
    assert gpu.measured == 0


def test_the_gpu_with_the_least_free_memory_decides(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ranks = torch.distributed.HashStore(), iter(range(3))  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "workflow.distributed.world.rendezvous",
        lambda *_, **__: iter([(store, next(ranks), 3)]),
    )
    for name, value in (("RANK", "0"), ("MASTER_ADDR", "here"), ("LOCAL_WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    worlds = []
    for free in (79e9, 20e9, 60e9):
        gpu.free = free
        worlds.append(World.joined())
    gpu.free = 1e9  # by now, of the job itself
    for world in worlds:
        assert this_machine(world).device_memory == pytest.approx(20e9 / 0.96)


VERDICTS = {
    "ZeRO 1": False,
    "ZeRO 2": False,
    "ZeRO 3": True,
    "ZeRO 1, offload optimizer": False,
    "ZeRO 2, offload optimizer": True,
    "ZeRO 3, offload optimizer": True,
    "ZeRO 3, offload all": True,
}


def test_xxl_on_four_gpus_of_80_gb(xxl: Sizes) -> None:
    found = plans(xxl, FOUR_80GB, WORK, PlanRequest())
    assert {name_of(plan.strategy): plan.positions is not None for plan in found} == VERDICTS
    chosen = choose(xxl, FOUR_80GB, WORK, PlanRequest())
    assert chosen == found[2]
    assert chosen.strategy == ShardingStrategy(
        3, gathers=False, users={}
    )  # 22 GB more would not fit


def test_the_largest_micro_batch_that_fits_is_taken(xxl: Sizes) -> None:
    for plan in plans(xxl, FOUR_80GB, WORK, PlanRequest()):
        if plan.positions is None:
            assert plan.need == plan.least
            assert not fits(plan.least, FOUR_80GB, plan.strategy)
            continue
        assert fits(plan.need, FOUR_80GB, plan.strategy)
        more = plan.positions + max(64, plan.positions // 16)
        larger = predict(xxl, with_work(processes=4, positions=more), plan.strategy)
        assert not fits(larger, FOUR_80GB, plan.strategy)


def test_with_more_memory_a_whole_copy_is_gathered_to_evaluate(xxl: Sizes) -> None:
    for memory, gathers in ((80e9, False), (192e9, True)):
        machine = dataclasses.replace(FOUR_80GB, device_memory=memory)
        chosen = choose(xxl, machine, WORK, PlanRequest(stage=3, positions=1536))
        assert chosen.strategy is not None
        assert chosen.strategy.gathers == gathers
        evaluating = phase_of(chosen.need, "evaluate")
        assert ("evaluation's copy" in evaluating.device) == gathers


def test_requested_settings_are_respected(models: dict[str, Sizes]) -> None:
    xl = models["xl"]
    alone = dataclasses.replace(FOUR_80GB, processes=1, on_each=1)
    assert choose(xl, alone, WORK, PlanRequest()).strategy is None
    assert choose(xl, alone, WORK, PlanRequest(offload="optimizer")).strategy == ShardingStrategy(
        1, "optimizer", users={}
    )
    assert choose(xl, FOUR_80GB, WORK, PlanRequest(stage=3)).strategy == ShardingStrategy(
        3, users={}
    )
    assert choose(xl, FOUR_80GB, WORK, PlanRequest(positions=777)).positions == 777
    users = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1_000_000}}
    chosen = choose(xl, FOUR_80GB, WORK, PlanRequest(users=users))
    assert chosen.strategy == ShardingStrategy(2, users=users)
    default = choose(xl, FOUR_80GB, WORK, PlanRequest(stage=2))
    assert chosen.least.device < default.least.device - 0.9e9
    on_cpus = Machine(2, 2, 20e9, 40e9, on_gpu=False)
    tried = plans(xl, on_cpus, WORK, PlanRequest())
    assert [name_of(plan.strategy) for plan in tried] == ["ZeRO 1", "ZeRO 2", "ZeRO 3"]


def test_to_evaluate_whole_weights_are_tried_before_divided_ones(xxl: Sizes) -> None:
    assert choose(xxl, FOUR_80GB, with_work(trains=False), PlanRequest()).strategy is None
    small = dataclasses.replace(FOUR_80GB, device_memory=24e9)
    chosen = choose(xxl, small, with_work(trains=False), PlanRequest())
    assert chosen.strategy == ShardingStrategy(3, gathers=False, users={})


def test_on_a_cpu_device_and_host_are_one_memory(xxl: Sizes) -> None:
    need = predict(xxl, with_work(on_gpu=False, processes=2), ShardingStrategy(2, "optimizer"))
    assert max(need.device, need.host) < need.both <= need.device + need.host
    assert on_cpu(need, ShardingStrategy(2, "optimizer")) == need.both < on_cpu(need, None)


NOTHING_FITS = [
    (
        "xxl", Machine(1, 1, 16e9, 64e9), PlanRequest(),
        "memory: 13.7 GB per GPU for the model, 55.9 GB of host memory (expected at least 33.7 GB "
        "per GPU, 250.7 GB of host memory with ZeRO 3, offload optimizer). Hint: use 8 "
        "processes on 8 times as many nodes.",
    ),
    (
        "xxl", FOUR_80GB, PlanRequest(stage=2, offload="none"),
        "memory: 72.6 GB per GPU for the model (expected at least 76.8 GB per GPU with ZeRO 2). "
        "Hint: remove --zero_stage and --offload, or add --gradient_checkpointing, or use 8 "
        "processes on 2 times as many nodes.",
    ),
    (
        "xl", Machine(1, 1, 40e9, 128e9), PlanRequest(positions=90_000),
        "memory: 35.8 GB per GPU for the model (expected at least 228.1 GB per GPU with ZeRO 3, "
        "offload all). Hint: remove --micro_batch_tokens, or add --gradient_checkpointing.",
    ),
    (
        "xl", Machine(1, 1, 8e9, 8e9, on_gpu=False), PlanRequest(),
        "memory: 6.9 GB per process for the model (expected at least 69.8 GB per process with "
        "plain torch). Hint: use a smaller model, or a machine with more memory.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "machine", "asked", "message"), NOTHING_FITS)
def test_where_nothing_fits_the_message_is_whole(
    models: dict[str, Sizes], model: str, machine: Machine, asked: PlanRequest, message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        choose(models[model], machine, WORK, asked)
    assert str(caught.value) == message


def test_recomputing_is_no_hint_where_the_model_cannot(xxl: Sizes) -> None:
    modules = dataclasses.replace(xxl.modules, recomputes=False)
    request = PlanRequest(stage=2, offload="none")
    for sizes, hinted in ((xxl, True), (dataclasses.replace(xxl, modules=modules), False)):
        with pytest.raises(BadInput) as caught:
            choose(sizes, FOUR_80GB, WORK, request)
        assert ("add --gradient_checkpointing" in str(caught.value)) == hinted
