"""`python3 -m workflow import`: files with other layouts to a data file."""

import argparse
import hashlib
import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from workflow.core.console import log, start_log
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.files import whole_file, write_json
from workflow.data.importing.layouts import Plan, Unfit, find, make_plan
from workflow.data.importing.read import SPLITS, Raw, read
from workflow.data.schema import DuplicateKeys, Record
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
    if problems := problems + _wrong_name(mount, name, command.overwrite):
        raise BadInput(problems)
    job = _Import(command)
    for path, split in files.items():
        try:
            for raw in read(path):
                job.add(path, raw, raw.split or split or "train")
        except BadInput as error:
            problems += error.problems
    if problems := problems or job.problems():
        raise BadInput(problems)
    path, beside = mount.data / f"{name}.json", mount.data / f"{name}.dropped.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {split: part for split, part in job.splits.items() if part})
    beside.unlink(missing_ok=True)  # of an earlier import
    if job.dropped:
        with whole_file(beside) as partial:
            partial.write_text("".join(job.dropped))
    job.report(path, beside)


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


class _Import:
    """The records of an import, by split, and lines about those that are dropped."""

    def __init__(self, command: argparse.Namespace):
        self._command = command
        self._plan: Plan | None = None
        self._reasons: Counter[str] = Counter()
        self._skipped = 0
        self.splits: dict[str, list[Record]] = {"train": []}
        self.dropped: list[str] = []

    def add(self, path: Path, raw: Raw, split: str) -> None:
        """Convert a record, or note why it is dropped."""
        try:
            if raw.reason or not isinstance(raw.value, dict):
                raise Unfit(raw.reason or "not an object")
            if isinstance(raw.value, DuplicateKeys):
                raise Unfit("duplicate keys")
            if not all(_is(raw.value, *pair) for pair in self._command.where):
                self._skipped += 1
                return
            if self._plan is None:
                flags = dict(self._command.map), self._command.template
                self._plan = make_plan(raw.value, path, *flags)
            record = self._plan.convert(raw.value)
        except Unfit as error:
            self._reasons[str(error)] += 1
            about = {"file": str(path), "place": raw.place, "reason": str(error)}
            line = json.dumps(about | {"record": raw.value}, default=lambda value: value.text)
            self.dropped.append(line + "\n")
            return
        if self._command.split is not None and split == "train":
            seeded = json.dumps([self._command.seed, record], sort_keys=True).encode()
            drawn = int.from_bytes(hashlib.blake2b(seeded, digest_size=8).digest()) / 2**64
            split = "held out" if drawn < self._command.split else split
        self.splits.setdefault(split, []).append(record)

    def problems(self) -> list[Problem]:
        """What is wrong with the records as a whole; the split for evaluations becomes "eval"."""
        splits, share = self.splits, self._command.split
        names = eval_names(splits)
        if not any(splits.values()):
            found, hint = f"no record to import: {self._counts()}", "correct the flags or the files"
            return [Problem("import", found, "at least one record", hint)]
        if len(names) > 1 or (names and share is not None):
            found = f"{' and '.join(names)}, " + ("with --split" if share else "both for eval")
            return [Problem("splits", found, "one for eval", "remove one of them, or rename it")]
        if share is not None and not ("held out" in splits and splits["train"]):
            found = f"no record in {'train' if 'held out' in splits else 'eval'}"
            return [Problem("--split", found, "records in both", "set another share or seed")]
        for name in names or splits.keys() & {"held out"}:
            splits["eval"] = splits.pop(name)
            log.info("eval: %s", name)
        return []

    def _counts(self) -> str:
        counts = [f"{count:,} × {reason}" for reason, count in self._reasons.most_common()]
        return ", ".join(
            counts + [f"{self._skipped:,} × excluded by --where"] * bool(self._command.where)
        )

    def report(self, path: Path, beside: Path) -> None:
        """Log what was written, and what was not."""
        counts = " and ".join(f"{len(part):,} {name}" for name, part in self.splits.items() if part)
        log.info("wrote %s records to %s", counts, path)
        if self.dropped or self._skipped:
            listed = f"; the dropped records are listed in {beside}" if self.dropped else ""
            log.warning("dropped %s%s", self._counts(), listed)
        if "eval" not in self.splits:
            hint = "--split 0.1 here, or --eval_fraction 0.1 in the job, holds some out"
            log.info("no eval records; %s", hint)


def _is(record: Record, field: str, wanted: str) -> bool:
    with suppress(Unfit):
        value = find(record, field)
        return wanted == (value if isinstance(value, str) else json.dumps(value, default=str))
    return False
