"""What a command names of runs: RUN, RUN@STEP, RUN@best, RUN@last."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.core.errors import BadInput, Problem, shorten
from workflow.reporting.report.summary import best_of
from workflow.runs.mount import Mount, find_run_folder, nearest
from workflow.runs.predictions import Evaluation, evaluations
from workflow.runs.status import is_run_folder, read_spec, status_files

STEPS_SHOWN = 20
RUNS_SHOWN = 5


@dataclass(frozen=True)
class Named:
    """An evaluation of a run.

    Attributes:
        label: what it is called beside the others: the run's name, with the step where one was
            named or the run occurs twice.
        run: the run's name, as its folder is called.
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
    runs, labels = Counter(one.run for one in found), Counter(one.label for one in found)
    return [_with_step(one) if runs[one.run] > 1 or labels[one.label] > 1 else one for one in found]


def _with_step(named: Named) -> Named:
    return dataclasses.replace(named, label=f"{named.run}@{named.step}")


def _find(mount: Mount, word: str, alone: bool, problems: list[Problem]) -> list[Named]:
    """What a word names: one evaluation, or two where it stands `alone` and names no step."""
    run, _, which = word.rpartition("@")
    if _is_run(mount, word) or not run:
        run, which = word, ""
    if not _is_run(mount, run):
        problems.append(_no_such_run(mount, run))
        return []
    run = str(Path(run))  # ./RUN/ is RUN
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
        problems.append(Problem(_printable(word), "one evaluation", "two to compare", mend))
        return []
    else:
        chosen = _choose(of_run, which, str(spec.get("metric_for_best_model", "loss")))
    if not chosen:
        problems.append(_no_such_step(word, run, which, of_run))
    named = [Named(run, run, folder, spec, one) for one in chosen]
    return [_with_step(one) for one in named] if which else named


def _is_run(mount: Mount, name: str) -> bool:
    try:
        folder, problems = find_run_folder(mount, name)
        return not problems and is_run_folder(folder)
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _no_such_run(mount: Mount, name: str) -> Problem:
    where = f"run {shorten(name)}"
    with suppress(OSError, ValueError):  # a name that no folder can have
        _, problems = find_run_folder(mount, name)
        if name and problems:
            return dataclasses.replace(problems[0], where=where)
    known = [run for run in sorted(status_files(mount.models)) if run.isprintable()]
    some = ", ".join(known[:RUNS_SHOWN])
    mend = nearest(name, known, f"choose among {some}" if known else "train one")
    return Problem(where, "no run of this name", f"a run in {mount.models}", mend)


def _printable(word: str) -> str:
    return word if word.isprintable() else shorten(word)


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
    expected = f"best, last or one of {steps}"
    return Problem(_printable(word), found, expected, "name one of these behind the @")


def _counted(of_run: Sequence[Evaluation]) -> str:
    return f"one evaluation, of step {of_run[0].step}" if of_run else "no evaluation"


def _do_not_go_together(found: Sequence[Named]) -> list[Problem]:
    """What keeps evaluations from being compared, as far as jobs tell."""
    base, problems, seen = found[0], [], set()
    for one in found:
        evaluation = one.folder.resolve(), one.step  # one folder may be linked to another
        if evaluation in seen:
            name, what = f"{one.run}@{one.step}", "the same evaluation twice"
            problems.append(Problem(name, what, "different ones", "leave one of them out"))
        seen.add(evaluation)
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
