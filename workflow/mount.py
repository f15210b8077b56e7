"""Where things lie in the mount: data and models found, writes kept inside mount/models."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from workflow.config import JobSpec
from workflow.errors import Problem, shorten

CONTAINER_MOUNT = Path("/model_mount")
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
        """What was submitted to clusters: a folder for each run."""
        return self.models / ".jobs"


def find_mount(asked: str | None) -> Mount:
    """The mount asked for, else $WORKFLOW_MOUNT, /model_mount, or mount/ beside the scripts."""
    named = asked or os.environ.get("WORKFLOW_MOUNT")
    if named:
        return Mount(Path(named).expanduser())
    if CONTAINER_MOUNT.is_dir():
        return Mount(CONTAINER_MOUNT)
    return Mount(Path(__file__).resolve().parent.parent / "mount")


def find_data(mount: Mount, name: str) -> tuple[dict[str, Path], list[Problem]]:
    """The file of each split: mount/data/NAME.json, else mount/data/NAME/, else NAME as a path.

    Returns:
        {"": file} for one JSON file with all splits, else {"train": file, "eval": file} with
        those that exist.
    """
    as_path = Path(os.path.expanduser(name))  # noqa: PTH111 (leaves ~nobody as it is)
    candidates = [mount.data / f"{name}.json", mount.data / name, as_path]
    for path in candidates:
        if os.path.isfile(path):  # noqa: PTH113 (False, not an error, for a name that is too long)
            return {"": path}, []
        if os.path.isdir(path):  # noqa: PTH112
            return _split_files(path)
    tried = ", ".join(str(path) for path in candidates)
    mend = nearest(name, _data_names(mount), f"put {Path(name).name}.json into {mount.data}")
    return {}, [Problem(f"--data_name {name}", "no such data", f"one of {tried}", mend)]


def _split_files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    files = {split: folder / f"{split}.jsonl" for split in ("train", "eval")}
    present = {split: path for split, path in files.items() if path.is_file()}
    if present:
        return present, []
    problem = Problem(
        str(folder),
        "a folder without train.jsonl and eval.jsonl",
        "one record a line in each of the two files",
        "add the files",
    )
    return {}, [problem]


def _data_names(mount: Mount) -> list[str]:
    if not mount.data.is_dir():
        return []
    return [
        path.stem if path.suffix == ".json" else path.name
        for path in sorted(mount.data.iterdir())
        if path.suffix == ".json" or path.is_dir()
    ]


def nearest(name: str, known: list[str], otherwise: str) -> str:
    """How to mend a name that there is not."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def find_model(mount: Mount, spec: JobSpec) -> tuple[Path | str, list[Problem]]:
    """The folder of the model, or its name on the hub where no such folder exists."""
    if spec.model_init_name is not None:
        folder = mount.models / spec.model_init_name
        where = f"--model_init_name {spec.model_init_name}"
        checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
        if checkpoints and not (folder / "config.json").exists():
            mend = f"write {spec.model_init_name}/{checkpoints[-1]}"
            return folder, [Problem(where, "a run, not a model", "one of its checkpoints", mend)]
        if folder.is_dir():
            return folder, []
        known = [p.name for p in mount.models.iterdir()] if mount.models.is_dir() else []
        if folder.parent != mount.models and folder.parent.is_dir():
            parent = Path(spec.model_init_name).parent
            known = [str(parent / path.name) for path in folder.parent.iterdir()]
        known = [name for name in known if not Path(name).name.startswith(".")]
        mend = nearest(spec.model_init_name, known, f"put the model's folder into {mount.models}")
        return folder, [Problem(where, "no such folder", str(folder), mend)]
    folder = Path(spec.model).expanduser()
    if folder.is_dir():
        return folder, []
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec.model) and not spec.model.startswith("."):
        return spec.model, []
    flag = "model_init_path" if spec.model_init_path is not None else "model_pretrain_name"
    problem = Problem(
        f"--{flag} {shorten(spec.model)}",
        "no such folder, and no name the hub could have",
        "a local folder or a name like google/flan-t5-xl",
        "correct the path",
    )
    return spec.model, [problem]


def run_name_of(spec: JobSpec) -> str:
    """The name of the job's run: MODEL_DATA_SEED where the user gave none, or MODEL_DATA_eval.

    The latter where the job only evaluates.
    """
    if spec.training_run_name:
        return spec.training_run_name
    last = "eval" if spec.no_train else str(spec.seed)
    data = spec.data_name.removesuffix(".json")
    return "_".join(_flat(part) for part in (spec.model, data, last))


def _flat(name: str) -> str:
    return name.strip("/").replace("/", "_").lstrip(".")


def evaluated_step(model: Path | str) -> int:
    """The step of a run's checkpoint, else 0."""
    match = CHECKPOINT_NAME.fullmatch(Path(model).name)
    return int(match.group(1)) if match else 0


def find_run_folder(mount: Mount, name: str) -> tuple[Path, list[Problem]]:
    """The folder of a run; a name that would lead out of mount/models is a problem."""
    folder = mount.models / name
    models, resolved = mount.models.resolve(), Path(os.path.realpath(folder))
    parts = Path(name).parts
    hidden = any(part.startswith(".") for part in parts)
    long = any(len(os.fsencode(part)) > 120 for part in parts)
    broken = not name.isprintable()  # as by a newline, which would end a line of a script
    outside = Path(name).is_absolute() or models not in resolved.parents
    if outside or hidden or long or broken:
        problem = Problem(
            f"--training_run_name {shorten(name)}",
            "a name that leaves mount/models, is hidden, cannot be printed or has over 120 bytes",
            f"a folder name inside {mount.models}",
            "choose another name",
        )
        return folder, [problem]
    for parent in resolved.parents[: len(parts) - 1]:
        if (parent / "config.json").exists() or (parent / "training_args.json").exists():
            found = f"a name inside {parent}, which is a model or a run"
            where = f"--training_run_name {shorten(name)}"
            return folder, [Problem(where, found, "a folder of its own", "choose another name")]
    return (resolved if folder.is_symlink() else folder), []
