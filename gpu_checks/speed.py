"""Tokens/s of decoding by batch, and training speed by size, against Seq2SeqTrainer."""

import gc
import importlib.util
import json
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.publish import matrix_rates
from benchmarks.synthetic import FLAN_T5, even_record, training_gflop
from gpu_checks.place import Failed, Place, Skip

SOURCE, TOKENS = 128, 64
"""Tokens of a prompt, and of a text."""
BATCHES = {"cuda": (1, 8, 64, 256), "cpu": (1, 8)}
DECODED = {"cuda": ("large", "xl"), "cpu": ("small",)}

TRAINED = {"cuda": ("small", "base", "large", "xl"), "cpu": ("small",)}
COMPILED = ("small", "base")
"""Others take minutes to compile."""
STEPS, WARM_UP = {"cuda": 12, "cpu": 2}, {"cuda": 4, "cpu": 1}
"""Of each trial, and how many of them are not timed."""
BATCH, ACCUMULATED = {"cuda": 16, "cpu": 2}, 4
"""Examples of a batch, and batches of a step."""
LENGTHS = ((4.6, 0.7, 16, 512), (3.7, 0.6, 4, 128))
"""Of sources and of targets: mean and deviation of the logarithm, least and most tokens."""
MARGIN = {"cuda": 60.0, "cpu": 20.0}
"""Seconds that a trial may take: none begins with less time left."""


def decoding(place: Place) -> str:
    """Tokens/s of texts of one length, by layout and batch, in bf16 where that is fast."""
    said = []
    for layout in DECODED[place.device]:
        for batch in BATCHES[place.device]:
            if place.left < MARGIN[place.device]:
                place.note(left_out="the rest, for lack of time")
                break
            name = f"{layout} {batch}"
            try:
                found = _decoded(place, layout, batch)
            except (Skip, Failed) as error:
                place.note(**{name: {"error": str(error)}})
                continue
            place.note(**{name: found})
            said.append(f"{name}: {found['tokens_per_second']:,.0f}")
    if not said:
        raise Failed("nothing was decoded; see the figures")
    return f"tokens/s by batch: {', '.join(said)}"


def _decoded(place: Place, layout: str, batch: int) -> dict[str, float]:
    import torch

    from workflow import RunFailed, find_mount, make_job, run_job
    from workflow.runs.predictions import evaluations

    tokens = TOKENS if place.device == "cuda" else TOKENS // 4
    place.write_records([], [even_record(SOURCE, tokens)] * batch)
    job = make_job(
        "seq2seq", model_pretrain_name=place.layout(layout), data_name="data", no_train=True,
        training_run_name=f"{layout}-{batch}", eval_batch_size=batch, max_source_length=SOURCE,
        max_new_tokens=tokens, min_new_tokens=tokens,
    )  # fmt: skip
    if place.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # the plan counts what is free
        torch.cuda.reset_peak_memory_stats()
    try:
        (evaluation,) = evaluations(run_job(job, find_mount(str(place.folder))))
    except RunFailed as error:
        raise Failed(str(error)) from error
    found = {"tokens_per_second": batch * tokens / evaluation.metrics["generate_seconds"]}
    if place.device == "cuda":
        found["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def training(place: Place) -> str:
    """Examples/s and the share of the matrix rate, by layout, of this project and its peer."""
    records, mean = _records()
    place.write_records(records, records[:1])
    rate = matrix_rates()["bf16"]
    place.note(bf16_gflops=rate, mean_tokens=mean, examples_of_a_step=_step(place))
    peer = importlib.util.find_spec("accelerate") is not None
    if not peer:
        place.note(peer="skip: accelerate is not installed (scripts/setup --extra bench)")
    said = []
    for layout, kind, compiled in _trials(place, peer):
        if place.left < MARGIN[place.device]:
            place.note(left_out="the rest, for lack of time")
            break
        name = f"{layout} {kind}" + " compiled" * compiled
        try:
            speed = (_peers if kind == "peer" else _ours)(place, name, layout, compiled)
        except (Skip, Failed) as error:
            place.note(**{name: {"error": str(error)}})
            continue
        share = speed * training_gflop(FLAN_T5[layout], *mean) / rate
        place.note(**{name: {"examples_per_second": round(speed, 2), "share": round(share, 4)}})
        said.append(f"{name} {speed:.1f}/s ({share:.0%})")
    if not any(" ours" in words for words in said):
        raise Failed("nothing was trained; see the figures")
    return ", ".join(said) + ("" if peer else "; no peer: accelerate is not installed")


def _trials(place: Place, peer: bool) -> list[tuple[str, str, bool]]:
    """Layout, kind, and whether compiled; what takes longest at the end."""
    kinds = ["ours", "peer"] if peer else ["ours"]
    plain = [(layout, kind, False) for layout in TRAINED[place.device] for kind in kinds]
    if not _compiles(place):
        kinds.remove("ours")
    compiled = [(layout, kind, True) for layout in COMPILED for kind in kinds]
    return plain + compiled * (place.device == "cuda")


def _compiles(place: Place) -> bool:
    """Whether seq2seq.py knows the flag."""
    return "--torch_compile" in place.call([*place.command("help")[:2], "--help_all"])


def _records() -> tuple[list[dict[str, str]], tuple[float, float]]:
    """Records of varying lengths, and their mean numbers of source and target tokens."""
    numbers = random.Random(0)

    def length(mean: float, deviation: float, least: int, most: int) -> int:
        return max(least, min(most, int(numbers.lognormvariate(mean, deviation))))

    lengths = [(length(*LENGTHS[0]), length(*LENGTHS[1])) for _ in range(1024)]
    source, target = (statistics.mean(column) for column in zip(*lengths, strict=True))
    return [even_record(*pair) for pair in lengths], (source, target)


def _step(place: Place) -> int:
    return BATCH[place.device] * ACCUMULATED


def _ours(place: Place, name: str, layout: str, compiled: bool) -> float:
    """Examples/s of the steps after the warm-up; in one process."""
    changes: dict[str, Any] = {"torch_compile": True} if compiled else {}
    lines = place.run_steps(
        name.replace(" ", "-"), STEPS[place.device], model_pretrain_name=place.layout(layout),
        num_processes=1, bf16=True, train_batch_size=BATCH[place.device],
        gradient_accumulation_steps=ACCUMULATED, **changes,
    )  # fmt: skip
    speeds = [float(line["examples_per_second"]) for line in lines[WARM_UP[place.device] :]]
    return statistics.harmonic_mean(speeds)


def _peers(place: Place, name: str, layout: str, compiled: bool) -> float:
    """The same of the peer, in a process of its own, as its memory is."""
    folder = place.layout(layout)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            speed: float = pool.submit(train_peer, place, folder, compiled).result()
        except Exception as error:
            raise Failed(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return speed


def train_peer(place: Place, folder: str, compiled: bool) -> float:
    """Examples/s of Seq2SeqTrainer, as fast as its own settings make it."""
    from transformers import AutoTokenizer

    from benchmarks.peer import tokenized
    from benchmarks.training.train import time_peer

    records = json.loads((place.folder / "data" / "data.json").read_text())["train"]
    steps, warm_up = STEPS[place.device], WARM_UP[place.device]
    settings = {
        "output_dir": str(place.folder / "peer"),
        "per_device_train_batch_size": BATCH[place.device],
        "gradient_accumulation_steps": ACCUMULATED,
        "max_steps": steps,
        "bf16": True,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length",
        "torch_compile": compiled,
    }
    examples = tokenized(AutoTokenizer.from_pretrained(folder), records)
    _, seconds = time_peer(Path(folder), examples, settings, warm_up)
    speed: float = _step(place) * (steps - warm_up) / seconds
    return speed
