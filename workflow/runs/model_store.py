"""Download a hub's model into the mount, complete and verified, so that jobs need no network."""

import fnmatch
import glob
import os
import shutil
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
from huggingface_hub.utils.sha import git_hash

from workflow.core.checksums import CHECKSUM_FILE, digest, write_checksums
from workflow.core.console import log, progress_bar
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import finish_folder, locked
from workflow.models.folders import check_folder
from workflow.models.hub import (
    HUB_ERRORS,
    SETTINGS,
    WEIGHTS,
    first_line,
    load_config,
    load_tokenizer,
    shorten_names,
)
from workflow.models.loading import check_weight_files
from workflow.models.tokenizers.vocabulary import needed_ids
from workflow.runs.mount import Mount

ANSWER_SECONDS = 30
"""How long the hub may take to answer: nodes without a network often wait instead of failing."""
SPARED_BYTES = 10_000_000
"""Spare disk space for the library's metadata, and for what else is written meanwhile."""


Files = dict[str, RepoSibling]
"""The hub's description of each file, by its name."""


def prefetch(model: str, mount: Mount) -> Path:
    """Download a hub's model into mount/models/NAME, atomically, and return that folder.

    NAME is the last part of the hub's name, e.g. flan-t5-xl of google/flan-t5-xl. Does nothing if
    the model is complete already. Every file is verified against the hub, and its checksum stored
    for later jobs. Complete files of an interrupted download stay in the mount's cache, and are not
    downloaded again. Code that comes with a model is neither downloaded nor run.

    Raises:
        BadInput: if the model is not available, too large for the disk or not trainable, or its
            folder holds something else.
    """
    folder = mount.models / model.rpartition("/")[2]
    download = mount.cache / "downloads" / folder.name
    try:
        commit, settings, weights = _query_hub(model)
        files = settings | weights
        with locked(download.with_name(f"{download.name}.lock"), wait=False) as alone:
            if not alone:
                found, expected = "another process is downloading it", "one download at a time"
                raise BadInput([Problem(f"model {model}", found, expected, "wait for it to end")])
            if os.path.lexists(folder):
                _check_same(folder, model, files)
                log.info("%s exists already, and is complete", folder)
                return folder
            download.mkdir(exist_ok=True)
            _remove_leftovers(download, files)
            _check_space(download, model, files)
            _fetch(model, commit, settings, download)
            _check_settings(download)
            _fetch(model, commit, weights, download)
            check_weight_files(download)
            _finish(download, folder, files)
    except HUB_ERRORS as error:
        raise BadInput([_problem(error, model, folder)]) from error
    log.info("downloaded and verified %s; use it with --model_init_name %s", folder, folder.name)
    return folder


def _query_hub(model: str) -> tuple[str, Files, Files]:
    """The hub's current commit of a model, and the files of its settings and of its weights."""
    info = huggingface_hub.HfApi().model_info(
        model, revision="main", files_metadata=True, timeout=ANSWER_SECONDS
    )
    files = {
        file.rfilename: file
        for file in info.siblings or []
        if "/" not in file.rfilename and not file.rfilename.startswith(".")
    }
    found = (fnmatch.filter(files, pattern) for pattern in WEIGHTS)
    weights = next(filter(None, found), [])
    if not weights:
        none = f"no weights among its {len(files)} files"
        expected, hint = "*.safetensors or pytorch_model*.bin", "choose another model"
        raise BadInput([Problem(f"model {model}", none, expected, hint)])
    # An index maps tensors to files. Those of formats that are not downloaded would mislead.
    index = Path(weights[0]).suffix + ".index.json"
    settings = {
        name for pattern in SETTINGS for name in fnmatch.filter(files, pattern)
        if name != CHECKSUM_FILE and (".index." not in name or name.endswith(index))
    }  # fmt: skip
    return str(info.sha), {n: files[n] for n in sorted(settings)}, {n: files[n] for n in weights}


def _check_same(folder: Path, model: str, files: Files) -> None:
    """Raise BadInput if a folder is not the hub's model."""
    if others := _find_others(folder, files):
        found = f"exists, but not with the {shorten_names(others)} of {model}"
        hint = "use the folder as it is, or move it away and rerun the command"
        raise BadInput([Problem(str(folder), found, "that model, or no folder", hint)])


def _find_others(folder: Path, files: Files) -> list[str]:
    """The names of files that are missing, or differ from the hub's."""
    others = []
    with progress_bar(sum(_sizes(files).values()), "checking", unit="B") as bar:
        for name, size in _sizes(files).items():
            if not _is_whole(folder / name, files[name]):
                others.append(name)
            bar.update(size)
    return others


def _is_whole(path: Path, file: RepoSibling) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.lfs:
        return digest(path) == file.lfs.sha256
    return git_hash(path.read_bytes()) == file.blob_id


def _sizes(files: Files) -> dict[str, int]:
    return {name: file.size or 0 for name, file in files.items()}


def _remove_leftovers(download: Path, files: Files) -> None:
    """Remove incomplete files of an earlier call, and those no longer part of the model."""
    for path in [path for path in download.rglob("*") if path.is_file()]:
        whole = path.name in files if path.parent == download else path.suffix != ".incomplete"
        if not whole:
            path.unlink()


def _check_space(download: Path, model: str, files: Files) -> None:
    """Raise BadInput if the disk has too little space; a quota shows only in writing."""
    here = {path.name: path.stat().st_size for path in download.iterdir() if path.is_file()}
    lacking = (size for name, size in _sizes(files).items() if here.get(name) != size)
    needed, free = sum(lacking) + SPARED_BYTES, shutil.disk_usage(download).free
    if needed > free:
        found, expected = f"{free / 1e6:,.0f} MB free", f"{needed / 1e6:,.0f} MB for {model}"
        hint = "free disk space, or use another mount"
        raise BadInput([Problem(str(download), found, expected, hint)])


def _fetch(model: str, commit: str, files: Files, download: Path) -> None:
    """Download missing files; raises BadInput if one differs from the hub's."""
    if sys.stderr.isatty():
        enable_progress_bars()  # transformers disables them when its log is quiet
    names = [glob.escape(name) for name in files]
    huggingface_hub.snapshot_download(
        model, revision=commit, local_dir=download, allow_patterns=names
    )
    problems = []
    for name in _find_others(download, files):
        found = f"{(download / name).stat().st_size:,} bytes that differ from the hub's"
        (download / name).unlink()
        expected = f"the hub's {files[name].size:,} bytes"
        hint = "rerun the command; only incomplete files are downloaded again"
        problems.append(Problem(f"{model}: {name}", found, expected, hint))
    if problems:
        raise BadInput(problems)


def _check_settings(download: Path) -> None:
    """Raise BadInput, and remove the download, if the settings are of no trainable model."""
    try:
        check_folder(download)
        load_config(download, needed_ids(load_tokenizer(download)))
    except BadInput:
        shutil.rmtree(download, ignore_errors=True)
        raise


def _finish(download: Path, folder: Path, files: Files) -> None:
    """Write the checksums, and rename the download to the model's folder."""
    shutil.rmtree(download / ".cache")  # the library's metadata
    write_checksums(download, {n: file.lfs.sha256 for n, file in files.items() if file.lfs})
    finish_folder(download, folder)


def _problem(error: Exception, model: str, folder: Path) -> Problem:
    """The problem for an error of the hub, the network or the disk."""
    where = f"model {model}"
    if isinstance(error, HFValidationError):
        where, found = f"model {shorten(model)}", "not a valid name on the hub"
        expected, hint = "a name like google/flan-t5-xl", "correct the name"
    elif isinstance(error, OfflineModeIsEnabled):
        found, expected = "HF_HUB_OFFLINE is set", "access to the hub"
        hint = "unset HF_HUB_OFFLINE, on a machine with a network, e.g. a login node"
    elif isinstance(error, GatedRepoError):
        found, expected = "a gated model", "an account with access"
        hint = "request access on the model's page, then log in with hf auth login"
    elif isinstance(error, RepositoryNotFoundError):
        found, expected = "does not exist, or is private", "a name like google/flan-t5-xl"
        hint = "correct the name, or log in with hf auth login"
    elif isinstance(error, OSError) and _is_of_the_disk(error):
        where, found = str(folder), f"could not be written: {error.strerror}"
        expected, hint = "disk space and write permission", "fix the cause, then rerun the command"
    else:
        found = f"the download failed: {first_line(error)}"
        expected = "a hub that can be reached, e.g. from a login node"
        hint = "rerun the command; complete files are not downloaded again"
    return Problem(where, found, expected, hint)


def _is_of_the_disk(error: OSError) -> bool:
    """Whether the system refused a file; errors of the hub's library have no errno."""
    return error.errno is not None and not isinstance(error, ConnectionError | TimeoutError)
