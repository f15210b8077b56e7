"""Trackers log the content of the run's files, and cannot harm the run."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import addition_records, make_mount, write_data
from wandb_server import WandbServer, serving

import workflow.training.loop
from workflow import BadInput, make_job, run_job
from workflow.core.console import log
from workflow.reporting.trackers import base as trackers
from workflow.reporting.trackers.base import SAMPLES, Shielded, Start, Trackers
from workflow.runs.mount import Mount
from workflow.tasks import task_for

pytestmark = pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")  # TensorBoard's
Numbers = dict[str, dict[int, float]]
NASTY = [
    "<script>alert('|')</script>", "| --- | a\n| b", "**bold** _it_ `code` [a](b) ![x](y)",
    "&lt;b&gt; &#60; \\| \\", "# a\n\n- b\n\n<img src=x onerror=y>", "~~~\nü | …", "\t* 1. two\r\n",
]  # fmt: skip
FLAGS = {
    "model_init_name": "small", "data_name": "nasty", "max_steps": 9, "eval_steps": 4,
    "save_steps": 4, "logging_steps": 1, "train_batch_size": 4, "max_new_tokens": 4,
}  # fmt: skip
METRIC = "def mine(records, predictions):\n    return len(records)\n"
TIMES = {"time", "examples_per_second", "tokens_per_second", "memory_gb", "eval_seconds",
         "generate_seconds"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests use no W&B account and write to no folder of the user."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("API_KEY", "MODE", "BASE_URL", "PROJECT", "DATA_DIR"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        patch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "netrc"))
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.getbasetemp()))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    made = make_mount(tmp_path_factory.mktemp("trackers") / "mount")
    nasty = [{"prompt": f"add {text}", "completion": text * 40} for text in NASTY]
    write_data(made, "nasty", addition_records(24), [*nasty, *addition_records(3)])
    (made.root / "mine.py").write_text(METRIC)
    return made


def run(mount: Mount, name: str, **flags: Any) -> Path:
    named = {"training_run_name": name, "metric": f"{mount.root / 'mine.py'}:mine"}
    return run_job(make_job("seq2seq", **(FLAGS | named | flags)), mount)


@pytest.fixture(scope="module")
def tracked(mount: Mount) -> tuple[Path, list[str]]:
    """A run that failed after step 6 and resumed from step 4, with its log lines."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    both = {"report_to": ["tensorboard", "wandb"]}
    add_gradients = workflow.training.loop.add_gradients

    def breaking(job: Any, engine: Any, planned: Any, world: Any) -> Any:
        if planned.step == 7:
            raise RuntimeError("broken")
        return add_gradients(job, engine, planned, world)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow.training.loop, "add_gradients", breaking)
        with pytest.raises(RuntimeError, match="broken"):
            run(mount, "tracked", **both)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        folder = run(mount, "tracked", **both)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return folder, lines


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path) -> Numbers:
    """All numbers of the run's files by tracker name and step."""
    found: Numbers = {}
    for file, group in (("train_log.jsonl", "train"), ("metrics.jsonl", "eval")):
        for line in lines_of(folder / file):
            for name, value in line.items():
                if isinstance(value, list):
                    bare = f"{group}_ci95/{name.replace('_ci95', '')}"
                    found.setdefault(f"{bare}_low", {})[line["step"]] = value[0]
                    found.setdefault(f"{bare}_high", {})[line["step"]] = value[1]
                elif isinstance(value, int | float) and name not in ("step", "time"):
                    found.setdefault(f"{group}/{name}", {})[line["step"]] = value
    return found


def shown_records(folder: Path, step: int) -> list[list[str | None]]:
    """Prompt, reference and prediction of the first records in the run's file."""
    items = json.loads((folder / f"temperature=0.00_n=1_step={step}.json").read_text())
    rows = [
        [item["prompt"], item["demonstration"], item["generations"][0]["lm_postprocess"]]
        for item in items[:8]
    ]
    return [[text if len(text) <= 1000 else text[:999] + "…" for text in row] for row in rows]


def test_trackers_change_no_result(mount: Mount, tracked: tuple[Path, Any]) -> None:
    plain, (folder, _) = run(mount, "plain"), tracked
    for file in ("train_log.jsonl", "metrics.jsonl"):
        found, wanted = (
            [{k: v for k, v in line.items() if k not in TIMES} for line in lines_of(r / file)]
            for r in (folder, plain)
        )
        assert found == wanted
    weights, wanted_weights = (
        (r / "checkpoint-9" / "model.safetensors").read_bytes() for r in (folder, plain)
    )
    assert weights == wanted_weights
    names, wanted_names = ({path.name for path in r.iterdir()} for r in (folder, plain))
    assert names == wanted_names | {"tensorboard", "wandb"}
    assert run(mount, "plain", report_to=["wandb"]) == plain  # the same job, which is done


# --- TensorBoard ---------------------------------------------------------------------------------


class Cells(HTMLParser):
    """The texts of a page's cells, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def rendered(markdown: str) -> Cells:
    """A text as TensorBoard renders it."""
    from tensorboard.plugin_util import markdown_to_safe_html

    cells = Cells()
    cells.feed(markdown_to_safe_html(markdown))
    return cells


TABLE = {"table", "thead", "tbody", "tr", "th", "td"}


def test_tensorboard_has_every_number_and_sample_once(tracked: tuple[Path, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = tracked
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0}).Reload()
    wanted = written(folder)
    assert set(events.Tags()["scalars"]) == wanted.keys()
    for name, values in wanted.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in values.items()]
    logged = lines_of(folder / "train_log.jsonl")
    times = [event.wall_time for event in events.Scalars("train/loss")]
    assert times == [line["time"] for line in logged]
    texts = events.Tensors("eval/samples/text_summary")
    assert [event.step for event in texts] == [0, 4, 8, 9]
    for event in texts:
        page = rendered(event.tensor_proto.string_val[0].decode())
        assert page.rows == [
            ["prompt", "completion", "prediction"],
            *shown_records(folder, event.step),
        ]
        assert page.tags == TABLE
    first, second = events.Tensors("config/text_summary")
    assert (first.step, second.step) == (0, 4)
    job = rendered(second.tensor_proto.string_val[0].decode())
    spec = json.loads((folder / "training_args.json").read_text())
    assert {row[0]: json.loads(row[1]) for row in job.rows[1:]} == spec


@pytest.mark.parametrize("text", [*NASTY, "", "x" * 3000, None, 0.25, True])
def test_no_text_breaks_a_table_or_runs(text: object) -> None:
    from workflow.reporting.trackers.tensorboard import markdown_table

    page = rendered(markdown_table([{"a": text, "b|": "end"}, {"a": "next", "b|": text}]))
    shown = "" if text is None else str(text)
    shown = shown if len(shown) <= 1000 else shown[:999] + "…"
    assert page.rows == [["a", "b|"], [shown, "end"], ["next", shown]]
    assert page.tags == TABLE


# --- Weights & Biases ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent(tracked: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> WandbServer:
    """A server that received the run from the real `wandb sync`."""
    cwd = tmp_path_factory.mktemp("sync")
    copied = shutil.copytree(tracked[0] / "wandb", cwd / "offline")  # sync leaves marks there
    command = [str(Path(sys.executable).with_name("wandb")), "sync", str(copied)]
    with serving() as server:
        own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40}
        done = subprocess.run(
            command, env=os.environ | own, cwd=cwd, timeout=60, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    assert (done.returncode, server.unknown, server.complete) == (0, [], 2), done.stdout
    assert done.stdout.count("Finished syncing") == 2  # sync can fail with status 0
    return server


def test_tables_are_staged_in_the_run_folder(
    tracked: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    waiting = tracked[0] / "wandb" / "artifacts" / "staging"
    assert len([path for path in waiting.rglob("*") if path.is_file()]) >= 4
    assert not (tmp_path_factory.getbasetemp() / "home").exists()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_wandb_sync_sends_every_number(tracked: tuple[Path, Any], sent: WandbServer) -> None:
    folder, _ = tracked
    rows = [json.loads(line) for line in sent.lines]
    again = [5, 6]  # repeated steps are logged twice
    assert [row["step"] for row in rows if "eval/samples" not in row] == [
        0, 1, 2, 3, 4, 4, *again, 5, 6, 7, 8, 8, 9, 9,
    ]  # fmt: skip
    assert [row["_step"] for row in rows] == list(range(len(rows)))  # no row replaces another
    found: Numbers = {}
    for row in rows:
        for name, value in row.items():
            if re.match(r"(train|eval|eval_ci95)/(?!samples)", name):
                found.setdefault(name, {})[row["step"]] = value
    assert found == written(folder)


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_wandb_sync_sends_one_run_with_its_job(
    tracked: tuple[Path, Any], sent: WandbServer
) -> None:
    folder, _ = tracked
    run_id = (folder / "wandb" / "run_id").read_text()
    assert sent.run | {"name": run_id, "displayName": "tracked", "project": "workflow"} == sent.run
    config = {name: item["value"] for name, item in json.loads(sent.run["config"]).items()}
    spec = json.loads((folder / "training_args.json").read_text())
    assert {name: config[name] for name in spec} == spec
    first, every = config["_wandb"]["m"]  # by the numbers of protobuf's fields
    assert (first["1"], every["2"], every["5"]) == ("step", "*", 1)  # 1: by the first one's steps


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_wandb_sync_sends_every_sample(tracked: tuple[Path, Any], sent: WandbServer) -> None:
    """Samples are files of the run, and artifacts."""
    rows = [json.loads(line) for line in sent.lines]
    tables = {row["step"]: row["eval/samples"] for row in rows if "eval/samples" in row}
    assert list(tables) == [0, 4, 8, 9]
    for step, table in tables.items():
        artifact = table["artifact_path"].removeprefix("wandb-client-artifact://")
        for path in (table["path"], artifact):
            assert json.loads(sent.files[path])["data"] == shown_records(tracked[0], step)
        assert artifact.partition("/")[0] in sent.committed


def test_the_command_to_upload_is_logged(tracked: tuple[Path, list[str]]) -> None:
    folder, lines = tracked
    command = f"{Path(sys.executable).parent}/wandb"
    assert (
        "logging to wandb offline (no API key configured); to upload, run "
        f"{command} sync {folder}/wandb"
    ) in lines


def test_a_restarted_run_is_a_new_wandb_run(mount: Mount) -> None:
    short = {"report_to": ["wandb"], "max_steps": 1, "eval_on_start": False}
    ids = [
        (run(mount, "again", overwrite_output_dir=True, **short) / "wandb" / "run_id").read_text()
        for _ in range(2)
    ]
    assert ids[0] != ids[1]
    (left,) = (mount.models / "again" / "wandb").glob("offline-run-*")
    assert left.name.endswith(ids[1])


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_an_unreachable_server_is_detected_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow.reporting.trackers.wandb import choose_mode

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        url = server.url
        assert choose_mode("online", url) == ("online", None)
        monkeypatch.setenv("http_proxy", "127.0.0.1:1")
        assert choose_mode("online", url.replace("127.0.0.1", "host.invalid"))[0] == "offline"
        monkeypatch.delenv("http_proxy")
    began = time.monotonic()
    assert choose_mode("online", url) == ("offline", f"{url} is unreachable")
    assert time.monotonic() - began < 1
    assert choose_mode("disabled", url) == ("disabled", None)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert choose_mode("online", url) == ("online", None)
    monkeypatch.delenv("WANDB_API_KEY")
    assert choose_mode("online", url) == ("offline", "no API key configured")


# --- what goes wrong -----------------------------------------------------------------------------


class Recording:
    """A tracker that records its calls, and misbehaves at one of them."""

    def __init__(self, at: str = "", harm: Callable[[], object] = lambda: None):
        self.at, self.harm = at, harm
        self.calls: list[str] = []
        self._note("open")

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._note(f"step {line['step']}")

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
    ) -> None:
        self._note(f"evaluation {step}")

    def close(self) -> None:
        self._note("close")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.at:
            self.harm()


def fail() -> None:
    raise OSError(28, "No space left on device")


def test_a_failing_tracker_is_disabled_and_the_run_continues(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Recording] = []

    def opened(at: str) -> Callable[[Start], Recording]:
        def make(start: Start) -> Recording:
            made.append(Recording(at, fail))
            return made[-1]

        return make

    opened_by = {"tensorboard": opened("step 2"), "wandb": opened("open")}
    monkeypatch.setattr(trackers, "OPENED_BY", opened_by)
    folder = run(mount, "harmed", report_to=["tensorboard", "wandb"])
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    warnings = [m for m in caplog.messages if "disabled" in m]
    assert sorted(warnings) == [
        f"disabled {name} logging (OSError: [Errno 28] No space left on device); the run continues"
        for name in ("tensorboard", "wandb")
    ]  # fmt: skip
    assert [tracker.calls for tracker in made] == [
        ["open", "evaluation 0", "step 1", "step 2", "close"]
    ]


@pytest.mark.parametrize("harm", [SystemExit, KeyboardInterrupt, MemoryError])
def test_any_exception_at_close_is_only_logged(
    harm: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_it() -> None:
        raise harm("broken")

    Trackers([Shielded("wandb", lambda: Recording("close", raise_it))]).close()
    assert caplog.messages == [
        f"disabled wandb logging ({harm.__name__}: broken); the run continues"
    ]


def test_a_hanging_tracker_delays_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    ends = threading.Event()
    hanging = [Recording(at, ends.wait) for at in ("step 1", "close")]
    began = time.monotonic()
    tracked = Trackers([Shielded(name, lambda kept=kept: kept)  # type: ignore[misc]
                     for name, kept in zip(("first", "second"), hanging, strict=True)])  # fmt: skip
    tracked.log_step({"step": 1})
    tracked.close()
    assert time.monotonic() - began < 1
    behind = Trackers([Shielded("third", lambda: Recording("step 1", ends.wait))])
    for step in range(1, 9):
        behind.log_step({"step": step})
    assert time.monotonic() - began < 1
    assert caplog.messages == [
        "disabled first logging (not closed within 0.2 s); the run continues",
        "disabled second logging (not closed within 0.2 s); the run continues",
        "disabled third logging (3 calls behind); the run continues",
    ]
    ends.set()
    behind.close()


def test_a_missing_tracker_is_reported_with_all_problems(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder `wandb` on the path, as wandb itself leaves it, is not a package."""
    (tmp_path / "wandb").mkdir()
    loaded = [name for name in sys.modules if re.match(r"(wandb|tensorboard)(\.|$)", name)]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BadInput) as raised:
        run(mount, "refused", report_to=["tensorboard", "wandb"], metric="none.py:f")
    expected = [
        f"--report_to {name}: not installed (expected the package {name}). Hint: run "
        f"scripts/setup --extra {name}, or remove the tracker." for name in ("tensorboard", "wandb")
    ]  # fmt: skip
    of_metric = "--metric: no file 'none.py' (expected file.py:function). Hint: correct the path."
    assert str(raised.value).splitlines() == [*expected, of_metric, "(3 problems in all)"]
    assert not (mount.models / "refused").exists()


def test_the_columns_of_samples() -> None:
    clf = make_job("clf", model_init_name="m", data_name="d")
    assert task_for(clf, {}).sample({"input": "a", "target": True, "id": 1}, 0.75) == {
        "input": "a", "target": True, "score": 0.75,
    }  # fmt: skip
    assert task_for(clf, {}).sample({"input": "a"}, None) == {
        "input": "a", "target": None, "score": None,
    }  # fmt: skip
    seq2seq = make_job("seq2seq", model_init_name="m", data_name="d")
    many = [str(n) for n in range(20)]
    shown = task_for(seq2seq, {}).sample({"prompt": "a"}, many)
    assert list(shown.items())[:4] == [
        ("prompt", "a"), ("completion", None), ("prediction", "0"), ("prediction 2", "1"),
    ]  # fmt: skip
    assert len(shown) == 2 + SAMPLES
