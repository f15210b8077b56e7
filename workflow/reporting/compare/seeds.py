"""Means and tests over seeds: runs that differ only in their seed form a group."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from statistics import mean, stdev

from workflow.config.job import JOB_FLAGS
from workflow.config.metric_kinds import RANKED
from workflow.core.errors import BadInput, Problem
from workflow.core.tables import Part, table
from workflow.metrics.names import LOWER_IS_BETTER, is_number
from workflow.reporting.compare.seed_tests import Group, differences
from workflow.reporting.compare.selectors import Named, choose, incomparable, no_such_run
from workflow.reporting.compare.terminal import as_cell, figure
from workflow.reporting.report.blocks import shown
from workflow.reporting.report.summary import asked_of, metric_names, own_metrics
from workflow.runs.mount import Mount
from workflow.runs.predictions import evaluations
from workflow.runs.status import read_spec, read_status, status_files

_FEW = 3
"""With fewer seeds a standard deviation says little."""
_APART = {"seed", *(name for name, flag in JOB_FLAGS.items() if flag.may_differ_on_resume)}
"""Fields that do not distinguish groups: the seed, names, and where the job is computed."""


def by_seed(mount: Mount, words: Sequence[str]) -> list[Part]:
    """The groups among runs that are done, by the mean of the main metric, and tests of them.

    Args:
        words: runs, folders of runs, or patterns like 'NAME/*', all also with @STEP, @best, @last.
    """
    named, excluded = _find(mount, words)
    none = f"none is done: {', '.join(excluded)}"
    nothing = Problem("compare", none, "runs that are done", "wait, or name them with @STEP")
    if problems := incomparable(named) if named else [nothing]:
        raise BadInput(problems)
    found: dict[str, dict[int, Named]] = {}
    for one in named:
        job = {name: value for name, value in one.spec.items() if name not in _APART}
        runs = found.setdefault(json.dumps(job, sort_keys=True), {})
        first = runs.setdefault(int(one.spec.get("seed", 0)), one)
        excluded += [f"{one.run} (the job and seed of {first.run})"] * (first is not one)
    metrics = _metrics(named)
    groups = sorted(found.values(), key=lambda one: _rank(one, metrics[0]) if metrics else 0)
    jobs = [next(iter(group.values())).spec for group in groups]
    names = dict.fromkeys(name for job in jobs for name in job if name not in _APART)
    fields = [name for name in names if any(job.get(name) != jobs[0].get(name) for job in jobs)]
    labels = [fields, *([_shown(job.get(name)) for name in fields] for job in jobs)]
    rows = [[*fields, "seeds", *metrics]]
    for label, group in zip(labels[1:], groups, strict=True):
        rows.append([*label, str(len(group)), *(_cell(group, name, groups) for name in metrics)])
    lines = ["mean ± standard deviation over seeds; * best mean"]
    if any(len(group) < _FEW for group in groups):
        lines.append(f"fewer than {_FEW} seeds say little about the spread")
    lines += [f"excluded: {', '.join(excluded)}"] * bool(excluded)
    tests = differences(groups, metrics, labels)
    return [table(rows, left=len(fields)), *lines, *[""] * bool(tests), *tests]


def _find(mount: Mount, words: Sequence[str]) -> tuple[list[Named], list[str]]:
    """The evaluations that the words mean, and the runs without one."""
    known = status_files(mount.models)
    named: dict[str, Named] = {}
    excluded: dict[str, None] = {}
    for word in words:
        run, _, which = (word, "", "") if word in known else word.partition("@")
        patterns = run, f"{run.rstrip('/')}/*"
        names = [name for name in known if any(fnmatchcase(name, p) for p in patterns)]
        if not names:
            raise BadInput([no_such_run(mount, run)])
        for name in sorted(names):
            folder = mount.models / name
            spec, state = read_spec(folder), str(read_status(folder).get("state"))
            chosen = choose(evaluations(folder), which, str(spec.get("metric_for_best_model")))
            if chosen and (state == "done" or which.isdecimal()):
                named[name] = Named(name, name, folder, spec, chosen[0])
            else:
                excluded[f"{name} ({'no such evaluation' if state == 'done' else state})"] = None
    return list(named.values()), list(excluded)


def _metrics(named: Sequence[Named]) -> list[str]:
    """The shown metrics, metric_for_best_model first, then the user's own.

    Metrics per token are hidden if runs of one seed have different token ids.
    """
    outputs, evals = named[0].outputs, [one.evaluation for one in named]
    data = [read_status(one.folder).get("data") or {} for one in named]
    ids = {(one.spec.get("seed"), keys.get("eval")) for one, keys in zip(named, data, strict=True)}
    hidden = outputs.of_tokens if len(ids) > len({seed for seed, _ in ids}) else ()
    there = {*metric_names(outputs.task, evals)} - {*hidden}
    spec = named[0].spec
    main, shown_first = str(spec.get("metric_for_best_model")), outputs.task.shown_metrics
    names = [main, *shown_first, *asked_of(spec), *own_metrics(spec, evals)]
    return [name for name in dict.fromkeys(names) if name in there]


def _values(group: Group, metric: str) -> list[float]:
    found = (one.evaluation.metrics.get(metric) for one in group.values())
    return [float(value) for value in found if is_number(value)]  # type: ignore[arg-type]


def _rank(group: Group, metric: str) -> float:
    """Sorts groups: the best mean first, groups without a value last."""
    values = _values(group, metric) or [float("inf" if metric in LOWER_IS_BETTER else "-inf")]
    return mean(values) if metric in LOWER_IS_BETTER else -mean(values)


def _cell(group: Group, metric: str, groups: Sequence[Group]) -> str:
    if not (values := _values(group, metric)):
        return "-"
    text = figure(mean(values)) + (f" ± {figure(stdev(values))}" if len(values) > 1 else "")
    if len(values) < len(group):
        text += f" ({len(values)} of {len(group)})"
    best = _rank(group, metric) <= min(_rank(other, metric) for other in groups)
    return f"{text} *" if best and metric in RANKED and len(groups) > 1 else text


def _shown(value: object) -> str:
    return "-" if value in (None, [], "") else as_cell(shown(value))
