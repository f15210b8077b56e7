"""Find the evaluations that a command names: RUN, RUN@STEP, RUN@best, RUN@last."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.config.task_specs import task_of
from workflow.core.errors import BadInput, Problem, nearest, shorten
from workflow.reporting.outputs import Outputs, outputs_of, target_range
from workflow.reporting.report.summary import best_of
from workflow.runs.mount import Mount, find_run_folder, step_in_name
from workflow.runs.predictions import PastEvaluation, evaluations
from workflow.runs.status import is_run_folder, read_spec, status_files

STEPS_SHOWN = 20
RUNS_SHOWN = 5


@dataclass(frozen=True)
class Named:
    """An evaluation of a run.

    Attributes:
        label: the run's name, with the step if it was named or the run occurs twice.
        run: the run's name, its folder in mount/models.
        spec: the content of training_args.json.
    """

    label: str
    run: str
    folder: Path
    spec: dict[str, Any]
    evaluation: PastEvaluation

    @property
    def step(self) -> int:
        return self.evaluation.step

    @property
    def outputs(self) -> Outputs:
        return outputs_of(self.spec)


def find_named(mount: Mount, words: Sequence[str]) -> list[Named]:
    """The named evaluations; for a single run, its first and its last.

    Raises:
        BadInput: all problems of all names.
    """
    named: list[Named] = []
    problems: list[Problem] = []
    for word in words:
        try:
            named += _find(mount, word, len(words) == 1)
        except BadInput as error:
            problems += error.problems
    problems = problems or incomparable(named)
    if problems:
        raise BadInput(problems)
    runs, labels = Counter(one.run for one in named), Counter(one.label for one in named)
    return [_with_step(one) if runs[one.run] > 1 or labels[one.label] > 1 else one for one in named]


def _with_step(named: Named) -> Named:
    return dataclasses.replace(named, label=f"{named.run}@{named.step}")


def _find(mount: Mount, word: str, alone: bool) -> list[Named]:
    """The named evaluation; the first and last of a run that is named `alone` without a step.

    Raises:
        BadInput: a single problem.
    """
    run, _, which = word.rpartition("@")
    if _is_run(mount, word) or not run:
        run, which = word, ""
    if not _is_run(mount, run):
        raise BadInput([no_such_run(mount, run)])
    run = str(Path(run))  # ./RUN/ is RUN
    folder = mount.models / run
    spec, evals = read_spec(folder), evaluations(folder)
    if alone and which:
        hint = f"name a second, or {run} without a step to compare its first and last"
        raise BadInput([Problem(_printable(word), "one evaluation", "two to compare", hint)])
    if alone and len(evals) < 2:
        found = f"one evaluation, at step {evals[0].step}" if evals else "no evaluations"
        raise BadInput([Problem(f"run {run}", found, "two to compare", "name a second run")])
    chosen = choose(evals, which, str(spec.get("metric_for_best_model", "loss")))
    if not chosen:
        raise BadInput([_no_such_step(word, run, which, evals)])
    named = [Named(run, run, folder, spec, one) for one in ([evals[0]] if alone else []) + chosen]
    return [_with_step(one) for one in named] if which else named


def _is_run(mount: Mount, name: str) -> bool:
    try:
        folder, problems = find_run_folder(mount, name)
        return not problems and is_run_folder(folder)
    except (OSError, ValueError):  # a name that no folder can have
        return False


def no_such_run(mount: Mount, name: str) -> Problem:
    where = f"run {shorten(name)}"
    with suppress(OSError, ValueError):  # a name that no folder can have
        _, problems = find_run_folder(mount, name)
        if name and problems:
            folder = Path(name)
            step = step_in_name(folder)
            hint = f"use {folder.parent}@{step}" if step else problems[0].hint
            return dataclasses.replace(problems[0], where=where, hint=hint)
    known = [run for run in sorted(status_files(mount.models)) if run.isprintable()]
    some = ", ".join(known[:RUNS_SHOWN])
    hint = nearest(name, known, f"use one of {some}" if known else "train one")
    return Problem(where, "does not exist", f"a run in {mount.models}", hint)


def _printable(word: str) -> str:
    return word if word.isprintable() else shorten(word)


def choose(of_run: Sequence[PastEvaluation], which: str, metric: str) -> list[PastEvaluation]:
    """The evaluation that `which` selects, or an empty list."""
    if which in ("", "last"):
        return list(of_run[-1:])
    if which == "best":
        best = best_of(metric, of_run)
        return [best] if best else []
    return [one for one in of_run if str(one.step) == which]


def _no_such_step(word: str, run: str, which: str, of_run: Sequence[PastEvaluation]) -> Problem:
    if not of_run:
        return Problem(f"run {run}", "no evaluations", "at least one", "wait for its first")
    steps = ", ".join(str(one.step) for one in of_run[:STEPS_SHOWN])
    steps += f" … {of_run[-1].step}" if len(of_run) > STEPS_SHOWN else ""
    found = f"no evaluation at step {shorten(which)}"
    if which == "best":
        found = "no evaluation has its metric_for_best_model"
    expected = f"best, last or one of {steps}"
    return Problem(_printable(word), found, expected, "name one of these after the @")


def incomparable(named: Sequence[Named]) -> list[Problem]:
    """Duplicate evaluations, and those of another task, target range or classes than the base."""
    base, problems, seen = named[0], [], set()
    for other in named:
        place = other.folder.resolve(), other.step  # a folder may be a link to another
        if place in seen:
            name, what = f"{other.run}@{other.step}", "the same evaluation twice"
            problems.append(Problem(name, what, "different evaluations", "remove one of them"))
        seen.add(place)
        tasks = [task_of(evaluation.spec) for evaluation in (other, base)]
        ranges = [target_range(evaluation.spec) for evaluation in (other, base)]
        classes = [", ".join(evaluation.spec.get("classes") or ()) for evaluation in (other, base)]
        if tasks[0].name != tasks[1].name:
            found, expected = f"task {tasks[0].name}", tasks[1].name
            hint = "compare runs of one task"
        elif classes[0] != classes[1]:
            found, expected = (
                f"classes {shorten(names)}" if names else "scores" for names in classes
            )
            hint = "compare runs with the same classes in the same order"
        elif ranges[0] != ranges[1]:
            found, expected = ("targets {:g} to {:g}".format(*ends) for ends in ranges)
            hint = "compare runs with the same --target_min and --target_max"
        else:
            continue
        problems.append(Problem(f"run {other.run}", found, f"{expected}, as in {base.run}", hint))
    return problems
