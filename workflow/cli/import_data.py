"""`python3 -m workflow import`: files with other layouts to a data file."""

import argparse
import hashlib
import json
import re
import shutil
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from workflow.core.console import log, start_log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import whole_file
from workflow.data.importing.layouts import Plan, Unfit, make_plan, text_at
from workflow.data.importing.read import SPLITS, Raw, read
from workflow.data.records import DuplicateKeys, Record
from workflow.data.split_names import eval_names
from workflow.runs.mount import Mount


def import_data(mount: Mount, command: argparse.Namespace) -> None:
    """Write the records of files to mount/data/NAME.json, and those that do not fit beside it.

    Raises:
        BadInput: with all problems; nothing is written.
    """
    start_log()
    name = str(Path(command.name)).removesuffix(".json")
    files, problems = _find_files(command.files)
    given = Counter([*command.files, *(f"--map {key}" for key, _ in command.map)])
    for twice in (word for word, count in given.items() if count > 1):
        problems.append(Problem(twice, "given twice", "each once", "remove one of them"))
    if problems := problems + _wrong_name(mount, name, command.overwrite):
        raise BadInput(problems)
    path, beside = mount.data / f"{name}.json", mount.data / f"{name}.dropped.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _Import(command, path.parent) as job:
        for file, split in files.items():
            try:
                for raw in read(file):
                    job.add(file, raw, raw.split or split or "train")
            except BadInput as error:
                problems += error.problems
        if problems := problems or job.problems():
            raise BadInput(problems)
        job.write(path, beside)


def _find_files(names: list[str]) -> tuple[dict[Path, str], list[Problem]]:
    """The files to read, each with the split in its name, and what is wrong with them."""
    files: dict[Path, str] = {}
    problems: list[Problem] = []
    for path in map(Path, names):
        inside = sorted(path.rglob("*.arrow"))
        if not path.is_file() and not inside:
            found = "a folder without .arrow files" if path.is_dir() else "does not exist"
            problems.append(Problem(str(path), found, "a data file", "correct the path"))
        for file in inside or [path]:
            words = re.split(r"[\W_]+", str(file.relative_to(path.parent)).lower())
            splits = {word for word in words if word in SPLITS}
            files[file] = splits.pop() if len(splits) == 1 else ""
    if any(files.values()) and not all(files.values()):
        without = " and ".join(file.name for file, split in files.items() if not split)
        hint = "rename them, for example to train.csv and eval.csv"
        problems.append(Problem(without, "no split in the name", "one, as in the others", hint))
    return files, problems


def _wrong_name(mount: Mount, name: str, overwrite: bool) -> list[Problem]:
    path = mount.data / f"{name}.json"
    hidden = any(part.startswith(".") for part in (name, *Path(name).parts))
    if hidden or not name.isprintable() or mount.data.resolve() not in path.resolve().parents:
        found, hint = "outside of mount/data, hidden or not printable", "choose another name"
        return [Problem(f"NAME {shorten(name)}", found, f"a name in {mount.data}", hint)]
    for other in (path, path.with_suffix(".jsonl"), path.with_suffix("")):
        if other.exists() and not (overwrite and other == path):
            hint = "choose another name" + ", or add --overwrite" * (other == path)
            return [Problem(f"NAME {name}", f"{other} exists", "a new name", hint)]
    return []


class _Import(ExitStack):
    """The records of an import, by split, in temporary files, and those that are dropped."""

    def __init__(self, command: argparse.Namespace, folder: Path):
        super().__init__()
        self._command, self._folder = command, folder
        self._plan: Plan | None = None
        self._parts: dict[str, IO[str]] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, path: Path, raw: Raw, split: str) -> None:
        """Convert a record, or note why it is dropped."""
        try:
            if (
                raw.reason
                or not isinstance(raw.value, dict)
                or isinstance(raw.value, DuplicateKeys)
            ):
                is_object = isinstance(raw.value, dict)
                raise Unfit(raw.reason or ("duplicate keys" if is_object else "not an object"))
            if not all(_is(raw.value, *pair) for pair in self._command.where):
                self._reasons["excluded by --where"] += 1
                return
            if self._plan is None:
                flags = dict(self._command.map), self._command.template
                self._plan = make_plan(raw.value, path, *flags)
            record = self._plan.convert(raw.value)
        except Unfit as error:
            self._reasons[re.sub(r"(?<=[.[])\d+(?=[.\]])", "…", str(error))] += 1
            about = {"file": str(path), "place": raw.place, "reason": str(error)}
            line = json.dumps(about | {"record": raw.value}, default=lambda value: value.text)
            self._put("dropped", line + "\n")
            return
        if self._command.split is not None and split == "train":
            seeded = json.dumps([self._command.seed, record], sort_keys=True).encode()
            drawn = int.from_bytes(hashlib.blake2b(seeded, digest_size=8).digest()) / 2**64
            split = "held out" if drawn < self._command.split else split
        text = json.dumps(record, ensure_ascii=False)
        self._put(split, "," * (self._counts[split] > 0) + f"\n{text}")

    def _put(self, part: str, text: str) -> None:
        if part not in self._parts:
            file = TemporaryFile("w+", encoding="utf-8", dir=self._folder)  # noqa: SIM115
            self._parts[part] = self.enter_context(file)
        self._parts[part].write(text)
        self._counts[part] += 1

    def _copy(self, part: str, file: IO[str]) -> None:
        self._parts[part].seek(0)
        shutil.copyfileobj(self._parts[part], file)

    def _splits(self) -> dict[str, str]:
        """The names of the splits to write, and of their parts."""
        parts = [part for part in self._parts if part != "dropped"]
        evals = eval_names(parts) or [part for part in parts if part == "held out"]
        return {"eval" if part in evals else part: part for part in parts}

    def problems(self) -> list[Problem]:
        """What is wrong with the records as a whole."""
        names, share = eval_names(self._parts), self._command.split
        if not self._splits():
            found, hint = (
                f"no record to import: {self._dropped()}",
                "correct the flags or the files",
            )
            return [Problem("import", found, "at least one record", hint)]
        if len(names) > 1 or (names and share):
            found = f"{' and '.join(names)}, " + ("with --split" if share else "both for eval")
            return [Problem("splits", found, "one for eval", "remove one of them, or rename it")]
        if share and (missing := {"train", "eval"} - self._splits().keys()):
            found = f"no record in {missing.pop()}"
            return [Problem("--split", found, "records in both", "set another share or seed")]
        return []

    def _dropped(self) -> str:
        return ", ".join(f"{count:,} × {why}" for why, count in self._reasons.most_common())

    def write(self, path: Path, beside: Path) -> None:
        """Write the data file and the list of what was dropped, and log the counts."""
        splits = self._splits()
        with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
            for number, (name, part) in enumerate(splits.items()):
                file.write(f'{",{"[number == 0]}\n"{name}": [')
                self._copy(part, file)
                file.write("\n]")
            file.write("\n}\n")
        beside.unlink(missing_ok=True)  # of an earlier import
        if "dropped" in self._parts:
            with whole_file(beside) as partial, open(partial, "w", encoding="utf-8") as file:
                self._copy("dropped", file)
        counts = [
            f"{self._counts[part]:,} {name}" + f" ({part})" * (name != part)
            for name, part in splits.items()
        ]
        log.info("wrote records to %s: %s", path, ", ".join(counts))
        if self._reasons:
            listed = f"; the dropped records are listed in {beside}" * ("dropped" in self._parts)
            log.warning("dropped %s%s", self._dropped(), listed)
        if "eval" not in splits:
            hint = "--split 0.1 here, or --eval_fraction 0.1 in the job, holds some out"
            log.info("no eval records; %s", hint)


def _is(record: Record, field: str, wanted: str) -> bool:
    with suppress(Unfit):
        return text_at(record, field) == wanted
    return False
