"""Weights & Biases, where there is a network and a key; else offline, for `wandb sync`."""

import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import wandb
from wandb.sdk.lib import wbauth

from workflow.core.console import log
from workflow.core.files import whole_file
from workflow.reporting.trackers.base import Sample, Start, numbers_of

FOLDER = "wandb"
ID_FILE = "run_id"
PROJECT = "workflow"
REACH_SECONDS = 3.0
INIT_SECONDS = 10.0
FINISH_SECONDS = 10.0
FLUSH_SECONDS = 1.0
"""What is lost at most where a job is killed, and not done again after its checkpoint."""
_ONLINE = ("online", "run", "shared")


class WeightsAndBiases:
    """A run's numbers, its job as config, and tables of samples.

    Rows count by a `step` of their own, for wandb's must not go back where a run goes on.
    """

    def __init__(self, start: Start):
        # By default wandb tells its makers of its own errors, whether there is a network or not.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        settings = wandb.setup().settings
        mode, reason = choose_mode(settings.mode, settings.base_url)
        self._folder = start.folder / FOLDER
        try:
            self._run = _begin(start, mode, settings.project)
        except Exception as error:
            if mode not in _ONLINE:
                raise
            mode, reason = "offline", f"{type(error).__name__}: {error}"
            _end_session()  # which still holds the run's id
            self._run = _begin(start, mode, settings.project)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if mode in ("offline", "dryrun"):
            command = Path(sys.executable).with_name("wandb")
            because = f" ({' '.join(reason.split())})" if reason else ""
            log.info("wandb is offline%s; where there is a network, %s sync %s",
                     because, command, self._folder)  # fmt: skip

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._run.log({"step": line["step"], **numbers_of(line, "train")})

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        row: dict[str, Any] = {"step": step, **numbers_of(metrics, "eval")}
        self._run.log(row)
        if samples:  # in a row of their own, for more can go wrong with them
            columns = list(samples[0])
            cells = [[sample[name] for name in columns] for sample in samples]
            table = wandb.Table([*columns], cells, allow_mixed_types=True)
            with _staging_in(self._folder):
                self._run.log({"step": step, "eval/samples": table})

    def close(self) -> None:
        try:
            self._run.finish()
        finally:
            _end_session()


def choose_mode(mode: str, url: str) -> tuple[str, str | None]:
    """The mode to begin in, and why it is offline where the user asked for no such thing.

    Args:
        mode: what WANDB_MODE, or wandb's settings, say; online if they say nothing.
        url: of the server.
    """
    if mode not in _ONLINE:
        return mode, None
    key = wbauth.authenticate_session(
        host=url, source=PROJECT, prompt=False, update_session=False
    )  # fmt: skip
    if key is None:
        return "offline", "no API key is configured"
    if not os.environ.get("WANDB_MODE") and not is_reached(url):
        return "offline", f"{url} cannot be reached"
    return mode, None


def is_reached(url: str) -> bool:
    """Whether the server of a URL, or the proxy on the way to it, takes a connection in time."""
    try:
        requests.head(url, timeout=REACH_SECONDS)
    except requests.RequestException as error:
        return isinstance(error, requests.ReadTimeout)  # one that is slow is there
    return True


def _begin(start: Start, mode: str, project: str | None) -> "wandb.Run":
    quiet = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        finish_timeout=FINISH_SECONDS,
        init_timeout=INIT_SECONDS,
        label_disable=True,
        login_timeout=INIT_SECONDS,
        reinit="create_new",
        save_code=False,
        stop_fn=lambda: None,  # a button on a web page must not interrupt a run
        symlink=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        x_service_wait=INIT_SECONDS,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
    )
    return wandb.init(
        project=project or PROJECT,
        name=os.environ.get("WANDB_NAME") or start.folder.name,
        id=_id_of(start.folder / FOLDER),
        dir=start.folder,
        config=dict(start.config),
        mode=mode,  # type: ignore[arg-type]
        resume="allow",
        settings=quiet,
    )


@contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Let tables wait in a folder until they are sent: who sends them may not have this home."""
    unset = "WANDB_DATA_DIR" not in os.environ
    os.environ.setdefault("WANDB_DATA_DIR", str(folder))
    try:
        yield
    finally:
        if unset:
            del os.environ["WANDB_DATA_DIR"]


def _id_of(folder: Path) -> str:
    """The run's id there: made once, and gone with the run's folder."""
    file = folder / ID_FILE
    if not file.exists():
        folder.mkdir(exist_ok=True)
        with whole_file(file) as partial:
            partial.write_text(secrets.token_hex(8))
    return file.read_text()


def _end_session() -> None:
    """End wandb's own process now, and not as this one ends; but for a run of the user's own."""
    if wandb.run is None:
        wandb.teardown()
