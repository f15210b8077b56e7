"""Paths in the mount: find data and models, keep writes inside mount/models."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from workflow.config.parse import NO_MODEL
from workflow.config.request import JobRequest
from workflow.core.errors import Problem, nearest, shorten
from workflow.data.file_kinds import is_json_lines, kind_of
from workflow.data.split_names import LINES, OTHER_NAMES, TEXT_SUFFIX, eval_name, eval_names

CONTAINER_MOUNT = Path("/model_mount")
DATA_SUFFIXES = (".json", ".jsonl", TEXT_SUFFIX)
CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)", re.ASCII)


@dataclass(frozen=True)
class Mount:
    """The folder that holds data/ and models/."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.models / ".cache"

    @property
    def jobs(self) -> Path:
        """Jobs submitted to clusters: a folder for each run."""
        return self.models / ".jobs"


def find_mount(named: str | None) -> Mount:
    """The mount named, else $WORKFLOW_MOUNT, /model_mount, or mount/ next to the scripts.

    An installed package has no scripts next to it: ./mount is used.
    """
    named = named or os.environ.get("WORKFLOW_MOUNT")
    if named:
        return Mount(Path(named).expanduser())
    if CONTAINER_MOUNT.is_dir():
        return Mount(CONTAINER_MOUNT)
    of_project = Path(__file__).resolve().parents[2] / "mount"
    return Mount(of_project if of_project.is_dir() else Path.cwd() / "mount")


def find_data(mount: Mount, name: str) -> tuple[dict[str, Path], list[Problem]]:
    """The file of each split: mount/data/NAME.json, .jsonl or .txt, mount/data/NAME/, or a path.

    Returns:
        {"": file} for one JSON file with all splits, {LINES: file} for JSON Lines or text, else
        {"train": file, "eval": file} with those that exist.
    """
    as_path = Path(os.path.expanduser(name))  # noqa: PTH111 (leaves ~nobody as it is)
    in_mount = [mount.data / f"{name}{suffix}" for suffix in (*DATA_SUFFIXES, "")]
    for path in [*in_mount, as_path]:
        if os.path.isfile(path):  # noqa: PTH113 (False, not an error, for a name that is too long)
            in_lines = path.suffix == TEXT_SUFFIX or is_json_lines(path)
            return {LINES if in_lines else "": path}, []
        if os.path.isdir(path):  # noqa: PTH112
            return _split_files(path)
    beside = sorted(mount.data.iterdir()) if mount.data.is_dir() else []
    if others := [path for path in beside if path.name.startswith(f"{name}.")]:
        hint = _what_is(others[0], str(others[0]))
        hint = hint or f"write its path to use {others[0]}"
    else:
        known = [path.stem if path.suffix in DATA_SUFFIXES else path.name for path in beside
                 if path.suffix in DATA_SUFFIXES or path.is_dir()]  # fmt: skip
        hint = nearest(name, known, f"add {Path(name).name}.json to {mount.data}")
    tried = ", ".join(str(path) for path in [*in_mount, as_path])
    return {}, [Problem(f"--data_name {name}", "does not exist", f"one of {tried}", hint)]


def _what_is(path: Path, name: str) -> str | None:
    """A hint for a file that is not JSON, if its content shows what it is."""
    kind = kind_of(path)
    return kind and f"{name} is {kind[0]}: {kind[1]}"


def _split_files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    lines = {path.stem for path in folder.glob("*.jsonl") if path.is_file()}
    texts = {path.stem for path in folder.glob(f"*{TEXT_SUFFIX}") if path.is_file()}
    stems, suffix = (lines, ".jsonl") if lines else (texts, TEXT_SUFFIX)
    stem_of = {"train": "train", "eval": eval_name(stems)}
    files = {split: folder / f"{stem}{suffix}" for split, stem in stem_of.items() if stem in stems}
    where = str(folder)
    if "eval" not in files and len(both := eval_names(stems)) > 1:
        found = f"no eval.jsonl, but {' and '.join(f'{stem}.jsonl' for stem in both)}"
        hint = "rename one of them to eval.jsonl"
        return {}, [Problem(where, found, "one file of eval records", hint)]
    if files:
        return files, []
    found = "a folder without train.jsonl and eval.jsonl"
    return {}, [Problem(where, found, "both, with one record per line", _instead(folder))]


def _instead(folder: Path) -> str:
    """A hint for a folder without the JSON Lines files of the splits."""
    if any((folder / f"dataset_{part}.json").exists() for part in ("dict", "info")):
        return 'export each split with datasets: load_from_disk(…)["train"].to_json("train.jsonl")'
    splits = sorted(
        path for path in folder.iterdir()
        if path.is_file() and path.name.partition(".")[0] in ("train", "eval", *OTHER_NAMES)
    )  # fmt: skip
    if not splits:
        return "add the files"
    if all(is_json_lines(path) for path in splits):
        return f"rename the files: {splits[0].name} is JSON Lines"
    if hint := _what_is(splits[0], splits[0].name):
        return hint
    both = " and ".join(path.name for path in splits)
    return f'merge the lists of {both} into {folder.name}.json: {{"train": […], "eval": […]}}'


def find_model(mount: Mount, request: JobRequest) -> tuple[Path | str, list[Problem]]:
    """The folder of the model, or its name on the hub if it is not a folder.

    A missing model flag (`NO_MODEL`) has been reported already.
    """
    if request.model == NO_MODEL:
        return NO_MODEL, []
    if request.model_init_name is not None:
        return find_in_mount(mount, request.model_init_name)
    folder = Path(request.model).expanduser()
    if folder.is_dir():
        return folder, []
    if is_hub_name(request.model):
        return request.model, []
    flag = "model_init_path" if request.model_init_path is not None else "model_pretrain_name"
    problem = Problem(
        f"--{flag} {shorten(request.model)}",
        "neither a folder nor a valid name on the hub",
        "a local folder or a name like google/flan-t5-xl",
        "correct the path",
    )
    return request.model, [problem]


def is_hub_name(name: str) -> bool:
    """Whether a name could be one of a model on the hub."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not name.startswith(".")


def find_in_mount(mount: Mount, name: str) -> tuple[Path, list[Problem]]:
    """The folder of a model in the mount, and what is wrong with it."""
    folder, where = mount.models / name, f"--model_init_name {name}"
    steps = sorted(step_in_name(path) for path in folder.glob("checkpoint-*") if path.is_dir())
    is_run = bool(steps) or (folder / "training_args.json").exists()
    if is_run and not (folder / "config.json").exists():
        hint = f"use {name}/checkpoint-{steps[-1]}" if steps else "use a run that has checkpoints"
        return folder, [Problem(where, "a run, not a model", "one of its checkpoints", hint)]
    if folder.is_dir():
        return folder, []
    inside = Path(os.path.relpath(name, mount.models))
    if Path(name).is_dir() and ".." not in inside.parts:
        return folder, [
            Problem(where, "does not exist", f"a name in {mount.models}", f"use {inside}")
        ]
    around = folder.parent if folder.parent.is_dir() else mount.models
    beside = [path for path in around.iterdir() if path.is_dir()] if around.is_dir() else []
    known = [os.path.relpath(path, mount.models) for path in beside if path.name[:1] != "."]
    download = "download it with `python3 -m workflow prefetch ORGANIZATION/MODEL`"
    hint = nearest(name, known, f"copy the model's folder to {mount.models}, or {download}")
    return folder, [Problem(where, "does not exist", f"the folder {folder}", hint)]


def run_name_of(request: JobRequest) -> str:
    """The name of the job's run: by default MODEL_DATA_SEED, or MODEL_DATA_eval with --no_train."""
    last = "eval" if request.no_train else str(request.seed)
    data = request.data_name.removesuffix(".json")
    usual = "_".join(_flat(part) for part in (request.model, data, last))
    return (request.training_run_name or usual) + "_smoke" * request.smoke


def _flat(name: str) -> str:
    return name.strip("/").replace("/", "_").lstrip(".")


def step_in_name(model: Path | str) -> int:
    """The step of a run's checkpoint, else 0."""
    match = CHECKPOINT_NAME.fullmatch(Path(model).name)
    return int(match.group(1)) if match else 0


def newest_checkpoint(mount: Mount, name: str) -> str:
    """The name of a run's newest checkpoint; any other name as it is."""
    folders = (mount.models / name).glob("checkpoint-*/config.json")
    adapters = (mount.models / name).glob("checkpoint-*/adapter_config.json")
    steps = [step_in_name(path.parent) for path in (*folders, *adapters)]
    return f"{name}/checkpoint-{max(steps)}" if steps else name


def find_run_folder(mount: Mount, name: str) -> tuple[Path, list[Problem]]:
    """The folder of a run; a name that leads out of mount/models is a problem."""
    folder = mount.models / name
    models, resolved = mount.models.resolve(), Path(os.path.realpath(folder))
    parts = Path(name).parts
    hidden = any(part.startswith(".") for part in parts)
    long = any(len(os.fsencode(part)) > 120 for part in parts)
    broken = not name.isprintable()  # e.g. a newline, which would end a line of a script
    outside = Path(name).is_absolute() or models not in resolved.parents
    if outside or hidden or long or broken:
        problem = Problem(
            f"--training_run_name {shorten(name)}",
            "outside of mount/models, hidden, not printable or longer than 120 bytes",
            f"a folder name inside {mount.models}",
            "choose another name",
        )
        return folder, [problem]
    for parent in resolved.parents[: len(parts) - 1]:
        if (parent / "config.json").exists() or (parent / "training_args.json").exists():
            found = f"inside {parent}, which is a model or a run"
            where = f"--training_run_name {shorten(name)}"
            return folder, [Problem(where, found, "a separate folder", "choose another name")]
    return (resolved if folder.is_symlink() else folder), []
