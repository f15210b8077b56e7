"""Several processes end to end: the real commands, real DeepSpeed on CPU processes over gloo."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, make_mount, make_t5, write_data, write_hub_folder
from forks import Fork, finish, free_port, places, run_script
from safetensors.torch import load_file
from test_families import make_any

from workflow.runs.mount import Mount

KEY_BIAS = re.compile(r"\b(c_attn|k_proj|key|key_proj)\.bias$")
"""It changes no attention, so its gradient is rounding error, which AdamW scales up."""
Lines = Callable[[Path], list[dict[str, Any]]]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
BASE = {
    "model_init_name": "small", "max_steps": 4, "train_batch_size": 6, "learning_rate": 1e-3,
    "bf16": False, "logging_steps": 1, "eval_steps": 4, "save_steps": 4, "max_new_tokens": 5,
}  # fmt: skip


def run_world(mount: Mount, processes: int, jobs: list[dict[str, Any]]) -> None:
    """Run jobs, one after the other, in one world of forks: plainly, or in several processes."""
    (mount.root / "jobs.json").write_text(json.dumps(jobs))
    script = [ROOT / "benchmarks" / "several_jobs.py", str(mount.root), f"{mount.root}/jobs.json"]
    world = places(processes) if processes > 1 else [None]
    for done in finish([Fork(run_script, *script, environment=place) for place in world]):
        assert done.returncode == 0, done.stderr[-9000:]


def job(task: str, name: str, **flags: Any) -> dict[str, Any]:
    data = {"seq2seq": "sums", "clf": "more"}[task]
    of_task = {} if task == "seq2seq" else {"max_new_tokens": None}
    return BASE | {"task": task, "data_name": data, "training_run_name": name} | of_task | flags


@pytest.fixture
def more(mount: Mount) -> Mount:
    """The mount with additional records to score."""
    write_scored(mount)
    return mount


def write_scored(mount: Mount) -> None:
    """7 records to evaluate, as of the sums."""
    records = [{"input": f"is {i * i} more than {7 * i}?", "target": i % 5 / 4} for i in range(31)]
    write_data(mount, "more", records[:24], records[24:])


def curve(run: Path, read_lines: Lines) -> list[float]:
    return [
        line[name] for line in read_lines(run / "train_log.jsonl") for name in ("loss", "grad_norm")
    ]


def answers(run: Path, step: int = 4) -> list[Any]:
    path = run / f"temperature=0.00_n=1_step={step}.json"
    path = path if path.exists() else run / f"checkpoint-{step}-preds.json"
    return json.loads(path.read_text())


def assert_same_run(run: Path, plain: Path, read_lines: Lines, rel: float = 2e-6) -> None:
    """Equal losses and norms, equal weights, and a prediction for every record, in order."""
    assert curve(run, read_lines) == pytest.approx(curve(plain, read_lines), rel=rel)
    tensors, wanted = (load_file(r / "checkpoint-4" / "model.safetensors") for r in (run, plain))
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        atol = 1e-4 if KEY_BIAS.search(name) else 2e-6
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=atol)
    settings, wanted_settings = (
        {file.name: file.read_bytes() for file in (r / "checkpoint-4").glob("*.json")}
        for r in (run, plain)
    )
    assert settings.keys() == wanted_settings.keys()
    for name in settings.keys() - {"checksums.json"}:
        assert settings[name] == wanted_settings[name], name
    found, expected = answers(run), answers(plain)
    assert [item["orig_d"] for item in found] == [item["orig_d"] for item in expected]
    if "generations" in expected[0]:
        assert [[g["full_generated"] for g in item["generations"]] for item in found] == [
            [g["full_generated"] for g in item["generations"]] for item in expected
        ]
    elif "pred_probs" in expected[0]:
        for item, other in zip(found, expected, strict=True):
            assert item["pred_label"] == other["pred_label"]
            assert item["pred_probs"] == pytest.approx(other["pred_probs"], rel=1e-5)
    else:
        scores = [item["pred_score"] for item in found]
        assert scores == pytest.approx([item["pred_score"] for item in expected], rel=1e-5)
    metrics, wanted_metrics = (read_lines(r / "metrics.jsonl")[-1] for r in (run, plain))
    assert metrics["loss"] == pytest.approx(wanted_metrics["loss"], rel=1e-6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    """A mount with one run of each task in plain torch, to compare those of other worlds with."""
    made = make_mount(tmp_path_factory.mktemp("plain") / "mount")
    write_scored(made)
    run_world(made, 1, [job(task, f"plain-{task}") for task in ("seq2seq", "clf")])
    return made


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (1, [(3, "none")]),
        (2, [(1, "none"), (2, "none"), (3, "none"), (1, "optimizer"), (3, "all")]),
        pytest.param(3, [(3, "none")], marks=pytest.mark.slow),
        (4, [(2, "none")]),
    ],
)
def test_any_world_gives_the_run_of_one_process(
    plain: Mount, read_lines: Lines, processes: int, settings: list[tuple[int, str]]
) -> None:
    """Odd counts: 7 eval records, batches of 6, a micro-batch bound that leaves ranks idle."""
    jobs = {
        (task, name): job(task, name, zero_stage=stage, offload=offload, micro_batch_tokens=40)
        for task in ("seq2seq", "clf")
        for stage, offload in settings
        for name in [f"{task}-{processes}-{stage}-{offload}"]
    }
    run_world(plain, processes, list(jobs.values()))
    for task, name in jobs:
        assert_same_run(plain.models / name, plain.models / f"plain-{task}", read_lines)


@pytest.mark.parametrize(("stage", "bf16"), [(1, False), (2, False), (2, True)])
def test_reducing_gradients_during_the_backward_pass_changes_no_bit(
    mount: Mount, read_lines: Lines, stage: int, bf16: bool
) -> None:
    """Several micro-batches a step and several buckets, as two GPUs reduce them by default."""
    jobs = []
    for overlaps in (True, False):
        zero = {"stage": stage, "overlap_comm": overlaps, "reduce_bucket_size": 33_000}
        settings = mount.root / f"{overlaps}.json"
        settings.write_text(json.dumps({"zero_optimization": zero}))
        jobs.append(job("seq2seq", f"{overlaps}", deepspeed=str(settings), bf16=bf16,
                        micro_batch_tokens=40, dropout_rate=0.1))  # fmt: skip
    run_world(mount, 2, jobs)
    during, after = (mount.models / name for name in ("True", "False"))
    assert curve(during, read_lines) == curve(after, read_lines)
    weights = load_file(during / "checkpoint-4" / "model.safetensors").values()
    assert max(map(torch.numel, weights)) < 33_000 < 66_000 < sum(map(torch.numel, weights))
    for path in during.rglob("*.safetensors"):
        assert path.read_bytes() == (after / path.relative_to(during)).read_bytes()


def test_bf16_and_dropout_train_in_every_stage(mount: Mount, read_lines: Lines) -> None:
    jobs = [
        job("seq2seq", f"bf16-{stage}", zero_stage=stage, bf16=True, dropout_rate=0.1, max_steps=12,
            gradient_checkpointing=stage > 1, learning_rate=5e-3, eval_steps=12, save_steps=12)
        for stage in (1, 2, 3)
    ]  # fmt: skip
    run_world(mount, 2, jobs)
    for stage in (1, 2, 3):
        run = mount.models / f"bf16-{stage}"
        losses = [line["loss"] for line in read_lines(run / "train_log.jsonl")]
        assert losses[-1] < 0.8 * losses[0]
        saved = load_file(run / "checkpoint-12" / "model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
        rounded = [torch.equal(t, t.to(torch.bfloat16).float()) for t in saved.values()]
        assert not any(rounded)  # the masters, not the copy that computes
        assert len(answers(run, 12)) == 7


@pytest.mark.parametrize(("stage", "launched"), [(1, True), (3, False)])
def test_a_step_that_is_not_finite_changes_nothing(
    mount: Mount, stage: int, launched: bool
) -> None:
    """Reported once, by the command that starts its processes and under other launchers."""
    words = flag_words(
        job("seq2seq", "wild", zero_stage=stage, learning_rate=1e30, max_grad_norm=0,
            warmup_steps=0)
    )  # fmt: skip
    if launched:
        done = run_command(mount, "seq2seq", *words, "--num_processes", "2")
        status, told = done.returncode, done.stderr
    else:
        ranks = start_ranks([["--mount", str(mount.root), *words]] * 2)
        (status,) = {rank.returncode for rank in ranks}
        told = "".join(rank.stderr for rank in ranks)
    assert status == 1
    (line,) = [line for line in told.splitlines() if line.startswith("step ")]
    assert re.fullmatch(
        r"step \d: non-finite (loss|gradient norm) on records train\[.+\]; the model was not "
        "updated. Hint: check those records, reduce --learning_rate, or set --bf16 false",
        line,
    )
    assert told.count("non-finite") == 1
    assert "Traceback" not in told
    assert json.loads((mount.models / "wild" / "status.json").read_text())["state"] == "failed"


def flag_words(flags: dict[str, Any]) -> list[str]:
    words = []
    for name, value in flags.items():
        if name != "task" and value is not None:
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return words


def run_command(
    mount: Mount, task: str, *words: str, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(ROOT / f"{task}.py"), "--mount", str(mount.root)]
    return subprocess.run(
        [*command, *words],
        check=False,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_the_contract_s_commands_on_two_processes(more: Mount, read_lines: Lines) -> None:
    """Verbatim except for the steps: training, scoring, and evaluation of a checkpoint."""
    write_hub_folder(make_t5(), more.models / "flan-t5-xxl", "sharded-safetensors")
    (more.data / "synthetic_explain.json").symlink_to(more.data / "sums.json")
    two = ("--num_processes", "2")
    words = (
        "--model_init_name flan-t5-xxl --training_run_name 0216syn_explain "
        "--gradient_accumulation_steps 2 --train_batch_size 8 --max_steps 6 "
        "--data synthetic_explain --eval_steps 2 --temperature 0.001 --n_samples 1"
    )
    done = run_command(more, "seq2seq", *words.split(), *two)
    assert done.returncode == 0, done.stderr[-9000:]
    assert "2 processes" in done.stderr
    assert done.stderr.count("results are in") == 1
    run = more.models / "0216syn_explain"
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [0, 2, 4, 6]
    assert len(answers(run, 6)) == 7
    words = (
        "--model_init_name 0216syn_explain/checkpoint-6 --data_name synthetic_explain --no_train"
    )
    done = run_command(more, "seq2seq", *words.split(), *two)
    assert done.returncode == 0, done.stderr[-9000:]
    evaluated = more.models / "0216syn_explain_checkpoint-6_synthetic_explain_eval"
    assert [item["generations"][0]["lm_postprocess"] for item in answers(evaluated, 6)] == [
        item["generations"][0]["lm_postprocess"] for item in answers(run, 6)
    ]


def test_the_deepspeed_launcher_is_joined(more: Mount) -> None:
    """It appends --local_rank=N to the script's arguments."""
    launcher = (
        "-m", "deepspeed.launcher.launch", "--world_info", _world_info(2),
        "--master_addr", "127.0.0.1", "--master_port", str(free_port()),
    )  # fmt: skip
    words = flag_words(job("clf", "launched", zero_stage=2))
    done = run_command(more, "clf", *words, launcher=launcher)
    assert done.returncode == 0, done.stderr[-9000:]
    assert len(answers(more.models / "launched")) == 7
    assert json.loads((more.models / "launched" / "status.json").read_text())["state"] == "done"


def _world_info(processes: int) -> str:
    import base64

    return base64.urlsafe_b64encode(
        json.dumps({"localhost": list(range(processes))}).encode()
    ).decode()


def test_bad_input_ends_before_a_process_is_started(more: Mount) -> None:
    words = flag_words(job("seq2seq", "bad", optim="adafactor"))
    done = run_command(more, "seq2seq", *words, "--num_processes", "2")
    assert done.returncode == 2
    assert done.stderr == (
        "--optim: adafactor on 2 processes (expected adamw_torch, as ZeRO flattens the "
        "matrices that Adafactor factors). Hint: use --optim adamw_torch, or "
        "--num_processes 1 without DeepSpeed.\n"
    )
    assert not (more.models / "bad").exists()


def test_bad_input_under_a_launcher_is_reported_once_and_in_status_json(more: Mount) -> None:
    words = flag_words(job("seq2seq", "bad", data_name="sumz"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run_command(more, "seq2seq", *words, launcher=launcher)
    assert done.returncode != 0
    assert done.stderr.count("did you mean sums?") == 1
    status = json.loads((more.models / "bad" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["exit_status"] == 2
    assert "did you mean sums?" in status["error"]
    assert [path.name for path in (more.models / "bad").iterdir()] == ["status.json"]
    mended = flag_words(job("seq2seq", "bad", max_steps=1, eval_on_start=False))
    done = run_command(more, "seq2seq", *mended)  # the name is still free
    assert done.returncode == 0, done.stderr[-9000:]


def test_a_killed_process_brings_the_job_down(mount: Mount) -> None:
    words = flag_words(
        job("seq2seq", "long", max_steps=100_000, save_steps=100_000, eval_steps=100_000)
    )
    command = [sys.executable, str(ROOT / "seq2seq.py"), "--mount", str(mount.root), *words]
    with subprocess.Popen(
        [*command, "--num_processes", "2"], env=ONE_THREAD, stderr=subprocess.PIPE, text=True
    ) as launched:
        log = mount.models / "long" / "train_log.jsonl"
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        workers = [
            p
            for p in psutil.Process(launched.pid).children()
            if "seq2seq.py" in " ".join(p.cmdline())
        ]
        victim = max(workers, key=lambda process: process.pid)
        assert len(workers) == 2
        victim.send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, told = launched.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert launched.returncode == 137
    assert f"(pid {victim.pid}) was killed by SIGKILL (probably the kernel's out-of-mem" in told
    assert "killer); the other processes were stopped. Hint: reduce --micro_batch" in told
    assert "Traceback" not in told
    assert not any(process.is_running() for process in workers)
    assert json.loads((mount.models / "long" / "status.json").read_text())["state"] == "failed"


def start_ranks(
    words: list[list[str]], task: str = "seq2seq"
) -> list[subprocess.CompletedProcess[str]]:
    """One fork for each list of words, in a world that only its environment makes."""
    return finish(
        Fork(run_script, ROOT / f"{task}.py", *of_rank, environment=place)
        for of_rank, place in zip(words, places(len(words)), strict=True)
    )


def test_an_audit_and_a_dry_run_print_once_and_train_nothing(mount: Mount) -> None:
    words = ["--mount", str(mount.root), *flag_words(job("seq2seq", "none"))]
    for flag in ("--audit", "--dry_run"):
        first, second = start_ranks([[*words, flag]] * 2)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        assert "records" in first.stderr or "checkpoint" in first.stdout
        assert second.stdout == ""
        assert second.stderr == ""
        assert not (mount.models / "none").exists()


def test_an_error_of_one_rank_ends_all_and_is_reported(mount: Mount) -> None:
    """As if the nodes did not share the mount."""
    words = flag_words(job("seq2seq", "none"))
    elsewhere = mount.root / "elsewhere"
    elsewhere.mkdir()
    first, second = start_ranks(
        [["--mount", str(root), *words] for root in (mount.root, elsewhere)]
    )
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.stderr.count("--data_name sums: does not exist") == 1
    assert str(elsewhere) in first.stderr
    assert second.stderr == ""


def test_new_tokens_are_the_same_in_every_stage(mount: Mount, read_lines: Lines) -> None:
    records = [{"prompt": f"write {i}", "completion": f"{{{i}}}"} for i in range(12)]
    write_data(mount, "braces", records, records[:3])
    flags = {"data_name": "braces", "add_missing_tokens": True, "max_steps": 2, "eval_steps": 2}
    run_world(mount, 1, [job("seq2seq", "plain-tokens", **flags)])
    run_world(mount, 2, [job("seq2seq", f"tokens-{s}", zero_stage=s, **flags) for s in (1, 3)])
    wanted = load_file(mount.models / "plain-tokens" / "checkpoint-2" / "model.safetensors")
    for stage in (1, 3):
        run = mount.models / f"tokens-{stage}"
        assert curve(run, read_lines) == pytest.approx(
            curve(mount.models / "plain-tokens", read_lines), rel=2e-6
        )
        tensors = load_file(run / "checkpoint-2" / "model.safetensors")
        assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in wanted.items()}


@pytest.mark.parametrize(
    ("family", "stages"),
    [
        ("marian", (3,)),
        *(
            pytest.param(family, (1, 2, 3), marks=pytest.mark.slow)
            for family in ("marian", "nllb", "led", "t5gemma", "t5gemma2", "bart", "byt5")
        ),
    ],
)
def test_other_families_train_the_same_in_any_world(
    mount: Mount, family: str, stages: tuple[int, ...], read_lines: Lines
) -> None:
    """Also those with positions that are computed, unused parts, or layers left out at random."""
    flags = make_any(family, mount.models / family) | {
        "model_init_name": family, "max_source_length": 64, "max_target_length": 64,
        "dropout_rate": 0, "weight_decay": 0.5,
    }  # fmt: skip
    run_world(mount, 1, [job("seq2seq", "plain", **flags)])
    runs = [f"zero{stage}" for stage in stages]
    worlds = zip(runs, stages, strict=True)
    run_world(mount, 2, [job("seq2seq", run, **flags, zero_stage=z) for run, z in worlds])
    plain = mount.models / "plain"
    for run in runs:
        assert curve(mount.models / run, read_lines) == pytest.approx(
            curve(plain, read_lines), rel=2e-5
        )
        texts, wanted = (
            [item["generations"][0]["full_generated"] for item in answers(folder)]
            for folder in (mount.models / run, plain)
        )
        assert texts == wanted
        of_run, of_plain = (
            load_file(folder / "checkpoint-4" / "model.safetensors")
            for folder in (mount.models / run, plain)
        )
        for name in filter(re.compile("vision").search, of_run):  # texts do not change it
            assert torch.equal(of_run[name], of_plain[name])
