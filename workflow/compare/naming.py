"""What a command names of runs: RUN, RUN@STEP, RUN@best, RUN@last."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.answers import Evaluation, evaluations
from workflow.errors import BadInput, Problem, shorten
from workflow.mount import Mount, nearest
from workflow.report.verdict import best_of
from workflow.status import is_run_folder, read_spec, status_files

STEPS_SHOWN = 20


@dataclass(frozen=True)
class Named:
    """An evaluation of a run.

    Attributes:
        label: what it is called beside the others: the run's name, with the step where needed.
        run: the run's name.
        spec: the job, as training_args.json holds it.
    """

    label: str
    run: str
    folder: Path
    spec: dict[str, Any]
    evaluation: Evaluation

    @property
    def step(self) -> int:
        return self.evaluation.step

    @property
    def target_range(self) -> tuple[float, float]:
        return float(self.spec.get("target_min", 0)), float(self.spec.get("target_max", 1))


def find_named(mount: Mount, words: Sequence[str]) -> list[Named]:
    """The evaluations that are named; of one run alone its first and its last.

    Raises:
        BadInput: with all problems of all words.
    """
    problems: list[Problem] = []
    found = [one for word in words for one in _find(mount, word, len(words) == 1, problems)]
    problems = problems or _do_not_go_together(found)
    if problems:
        raise BadInput(problems)
    counts = Counter(one.run for one in found)
    return [
        dataclasses.replace(one, label=f"{one.run}@{one.step}") if counts[one.run] > 1 else one
        for one in found
    ]


def _find(mount: Mount, word: str, alone: bool, problems: list[Problem]) -> list[Named]:
    """What a word names: one evaluation, or two where it stands `alone` and names no step."""
    run, _, which = word.rpartition("@")
    if _is_run(mount, word) or not run:
        run, which = word, ""
    run = run.rstrip("/")
    if not _is_run(mount, run):
        mend = nearest(
            run, sorted(status_files(mount.models)), "python3 -m workflow list tells all"
        )
        expected = f"a run in {mount.models}"
        problems.append(Problem(f"run {shorten(run)}", "no run of this name", expected, mend))
        return []
    folder = mount.models / run
    spec, of_run = read_spec(folder), evaluations(folder)
    if alone and not which:
        if len(of_run) < 2:
            found, expected = _counted(of_run), "two to compare"
            problems.append(Problem(f"run {run}", found, expected, "name another run too"))
            return []
        chosen = [of_run[0], of_run[-1]]
    elif alone:
        mend = f"name another, or {run} alone: its first against its last"
        problems.append(Problem(word, "one evaluation", "two to compare", mend))
        return []
    else:
        chosen = _choose(of_run, which, str(spec.get("metric_for_best_model", "loss")))
    if not chosen:
        problems.append(_no_such_step(word, run, which, of_run))
    return [Named(run, run, folder, spec, one) for one in chosen]


def _is_run(mount: Mount, name: str) -> bool:
    try:
        return bool(name) and is_run_folder(mount.models / name)
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _choose(of_run: Sequence[Evaluation], which: str, metric: str) -> list[Evaluation]:
    """The evaluation that is asked for; none where there is no such one."""
    if which in ("", "last"):
        return list(of_run[-1:])
    if which == "best":
        best = best_of(metric, of_run)
        return [best] if best else []
    return [one for one in of_run if str(one.step) == which]


def _no_such_step(word: str, run: str, which: str, of_run: Sequence[Evaluation]) -> Problem:
    if not of_run:
        return Problem(f"run {run}", "no evaluation", "one at least", "wait for its first")
    steps = ", ".join(str(one.step) for one in of_run[:STEPS_SHOWN])
    steps += f" … {of_run[-1].step}" if len(of_run) > STEPS_SHOWN else ""
    found = f"no evaluation of step {shorten(which)}"
    if which == "best":
        found = "no evaluation with a value of its metric_for_best_model"
    return Problem(word, found, f"best, last or one of {steps}", "name one of these behind the @")


def _counted(of_run: Sequence[Evaluation]) -> str:
    return f"one evaluation, of step {of_run[0].step}" if of_run else "no evaluation"


def _do_not_go_together(found: Sequence[Named]) -> list[Problem]:
    """What keeps evaluations from being compared, as far as jobs tell."""
    base, problems, seen = found[0], [], set()
    for one in found:
        name = f"{one.run}@{one.step}"
        if name in seen:
            what = "the same evaluation twice"
            problems.append(Problem(name, what, "different ones", "leave one of them out"))
        seen.add(name)
        tasks = str(one.spec.get("task")), str(base.spec.get("task"))
        if tasks[0] != tasks[1]:
            expected = f"{tasks[1]}, as of {base.run}"
            mend = "compare runs of one task"
            problems.append(Problem(f"run {one.run}", f"a run of {tasks[0]}", expected, mend))
        elif one.target_range != base.target_range:
            was, expected = (
                "targets from {:g} to {:g}".format(*n.target_range) for n in (one, base)
            )
            mend = "compare runs of the same --target_min and --target_max"
            problems.append(Problem(f"run {one.run}", was, f"{expected}, as of {base.run}", mend))
    return problems
