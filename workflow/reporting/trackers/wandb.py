"""Weights & Biases, online with a network and an API key, else offline for `wandb sync`."""

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
"""Upper limit of the metrics lost when a job is killed."""
_ONLINE = ("online", "run", "shared")


class WeightsAndBiases:
    """Logs metrics, config, and tables of samples.

    Rows have their own `step`, as wandb's must not decrease when a run resumes.
    """

    def __init__(self, start: Start):
        # By default wandb reports its own errors to its makers.
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
            _end_session()  # it still holds the run's ID
            self._run = _begin(start, mode, settings.project)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if mode in ("offline", "dryrun"):
            command = Path(sys.executable).with_name("wandb")
            because = f" ({' '.join(reason.split())})" if reason else ""
            log.info("logging to wandb offline%s; to upload, run %s sync %s",
                     because, command, self._folder)  # fmt: skip

    def log_step(self, line: Mapping[str, Any]) -> None:
        self._run.log({"step": line["step"], **numbers_of(line, "train")})

    def log_evaluation(
        self, step: int, metrics: Mapping[str, Any], samples: Sequence[Sample]
    ) -> None:
        row: dict[str, Any] = {"step": step, **numbers_of(metrics, "eval")}
        self._run.log(row)
        if samples:  # in their own row, as they can fail more easily
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
    """The mode to start in, and the reason if it is offline against the settings.

    Args:
        mode: from WANDB_MODE or wandb's settings, online by default.
        url: of the server.
    """
    if mode not in _ONLINE:
        return mode, None
    key = wbauth.authenticate_session(
        host=url, source=PROJECT, prompt=False, update_session=False
    )  # fmt: skip
    if key is None:
        return "offline", "no API key configured"
    if not os.environ.get("WANDB_MODE") and not is_reached(url):
        return "offline", f"{url} is unreachable"
    return mode, None


def is_reached(url: str) -> bool:
    """Whether the server of a URL, or the proxy, accepts a connection in time."""
    try:
        requests.head(url, timeout=REACH_SECONDS)
    except requests.RequestException as error:
        return isinstance(error, requests.ReadTimeout)  # slow, but reachable
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
        stop_fn=lambda: None,  # the stop button of the web page must not interrupt a run
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
    """Stage tables in a folder, as `wandb sync` may run without this home directory."""
    unset = "WANDB_DATA_DIR" not in os.environ
    os.environ.setdefault("WANDB_DATA_DIR", str(folder))
    try:
        yield
    finally:
        if unset:
            del os.environ["WANDB_DATA_DIR"]


def _id_of(folder: Path) -> str:
    """The run's wandb ID, created once in its folder and removed with it."""
    file = folder / ID_FILE
    if not file.exists():
        folder.mkdir(exist_ok=True)
        with whole_file(file) as partial:
            partial.write_text(secrets.token_hex(8))
    return file.read_text()


def _end_session() -> None:
    """End wandb's process now instead of at exit, unless the user has a run of their own."""
    if wandb.run is None:
        wandb.teardown()
