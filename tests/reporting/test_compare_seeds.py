"""`compare --by_seed`: groups of runs that differ only in seed."""

import json
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pytest

from workflow.cli.main import main
from workflow.core.tables import as_lines
from workflow.reporting.compare.seeds import by_seed
from workflow.runs.mount import Mount

SPREAD = "mean ± standard deviation over seeds; * best mean"
LEGEND = [
    "difference to the first row above, of equal seeds, for other seeds and records, or as in over",
    "corrected: p by Holm for all metrics and all pairs of rows; better/worse: below 0.05",
]
FEW = "fewer than 3 seeds say little about the spread"


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def write(
    mount: Mount, name: str, *losses: float | None, eval_key: str = "e1", state: str = "done",
    task: str = "seq2seq", **job: Any,
) -> None:  # fmt: skip
    """A run with an evaluation every two steps: losses, and more metrics that follow from them."""
    found = {
        2 * index: (
            {"loss": loss, "exact_match": None if loss is None else loss / 2, "odd": 1.0}, None
        )
        for index, loss in enumerate(losses)
    }  # fmt: skip
    folder = made_runs.write_run(mount.models / name, {"task": task, **job}, found)
    status = json.loads((folder / "status.json").read_text())
    status |= {"state": state, "data": {"eval": eval_key}}
    (folder / "status.json").write_text(json.dumps(status))


def shown(mount: Mount, *words: str) -> list[str]:
    return as_lines(by_seed(mount, words))


def problem(mount: Mount, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words, "--by_seed", "--mount", str(mount.root)]) == 2
    return capsys.readouterr().err


def test_the_table(mount: Mount) -> None:
    """Whatever does not change results does not make a group; a derived default does."""
    for seed, loss in enumerate((1.0, 2.0, 4.5)):
        write(mount, f"s/a{seed}", 9.0, loss, seed=seed, learning_rate=1e-3, freeze=["encoder"])
    for seed, loss in enumerate((0.5, None)):
        write(mount, f"s/b{seed}", 9.0, loss, seed=seed, learning_rate=1e-4, freeze=[],
              micro_batch_tokens=100 + seed)  # fmt: skip
    write(mount, "s/b0_again", 9.0, 0.7, seed=0, learning_rate=1e-4, freeze=[])
    write(mount, "s/c0", 9.0, 0.1, seed=0, learning_rate=1e-4, freeze=[], state="failed")
    assert shown(mount, "s") == [
        "learning_rate  freeze       seeds               loss        exact_match",
        "0.0001         -                2  0.5000 (1 of 2) *    0.2500 (1 of 2)",
        '0.001          ["encoder"]      3    2.5000 ± 1.8028  1.2500 ± 0.9014 *',
        SPREAD,
        FEW,
        "excluded: s/c0 (failed), s/b0_again (the job and seed of s/b0)",
        "",
        "learning_rate  freeze       metric       over          difference  95% CI  p  corrected",
        '0.001          ["encoder"]  loss         1 seed alone     +0.5000          -          -',
        '0.001          ["encoder"]  exact_match  1 seed alone     +0.2500          -          -',
        *LEGEND,
    ]
    assert shown(mount, "s/a*", "s/a1") == [
        "seeds             loss      exact_match",
        "    3  2.5000 ± 1.8028  1.2500 ± 0.9014",
        SPREAD,
    ]


def test_the_evaluations(mount: Mount) -> None:
    for seed in range(3):
        write(mount, f"s/{seed}", 3.0 + seed, 1.0 + seed, 2.0 + seed, seed=seed)
    write(mount, "s/short", 7.0, seed=4, state="running")
    means = {which: shown(mount, f"s{which}")[1].split()[1] for which in ("", "@last", "@best")}
    assert means == {"": "3.0000", "@last": "3.0000", "@best": "2.0000"}
    assert shown(mount, "s@0")[1].split()[:2] == ["4", f"{np.mean([3, 4, 5, 7]):.4f}"]
    assert shown(mount, "s@2")[-1] == "excluded: s/short (running)"


@pytest.mark.parametrize("metric", ["loss", "exact_match"])
def test_means_and_order(mount: Mount, metric: str) -> None:
    draws = np.random.default_rng(0).uniform(0.1, 5, (7, 4))
    for cell, losses in enumerate(draws):
        for seed, loss in enumerate(losses):
            write(mount, f"s/{cell}-{seed}", loss, seed=seed, lora_r=cell + 1,
                  metric_for_best_model=metric)  # fmt: skip
    head, *rows = shown(mount, "s")[:8]
    assert head.split()[2] == metric
    order = np.argsort(draws.mean(axis=1))[:: 1 if metric == "loss" else -1]
    scaled = draws if metric == "loss" else draws / 2
    for row, cell in zip(rows, order, strict=True):
        values = scaled[cell]
        best = "*" if cell == order[0] else ""
        expected = f"{cell + 1} 4 {values.mean():.4f} ± {values.std(ddof=1):.4f} {best}".split()
        assert row.split()[: len(expected)] == expected


def test_losses_of_other_tokenizers_are_hidden(mount: Mount) -> None:
    """Held-out records depend on the seed, and so do their ids."""
    for seed in range(3):
        write(mount, f"s/a{seed}", 1.0 + seed, seed=seed, eval_key=f"k{seed}", model_init_name="a")
    assert shown(mount, "s")[0].split() == ["seeds", "loss", "exact_match"]
    write(mount, "s/b", 9.0, seed=0, eval_key="other", model_init_name="b")
    lines = shown(mount, "s")
    assert lines[0].split() == ["model_init_name", "seeds", "exact_match"]
    assert [line.split()[0] for line in lines[1:3]] == ["b", "a"]


def test_scores_and_own_metrics(mount: Mount) -> None:
    """The best of a metric of the user's own is unknown."""
    for seed in range(3):
        for rate in (1e-3, 1e-4):
            write(mount, f"s/{rate}-{seed}", 1.0, seed=seed, learning_rate=rate, task="clf",
                  metric="mine.py:odd")  # fmt: skip
    head, first, second = shown(mount, "s")[:3]
    assert head.split() == ["learning_rate", "seeds", "loss", "odd"]
    assert first.endswith("1.0000 ± 0.0000") and second.endswith("1.0000 ± 0.0000")


def test_problems(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    write(mount, "s/a", 1.0, state="running")
    write(mount, "t/a", 1.0)
    write(mount, "t/b", 1.0, task="clf")
    assert problem(mount, capsys, "s") == (
        "compare: none is done: s/a (running) (expected runs that are done). Hint: wait, or name "
        "them with @STEP.\n"
    )
    assert problem(mount, capsys, "u").startswith("run 'u': does not exist")
    assert problem(mount, capsys, "t").startswith("run t/b: task clf (expected seq2seq, as in t/a)")
    assert problem(mount, capsys, "t", "--json", "-") == (
        "--by_seed: set with --html or --json (expected a table in the terminal). Hint: remove one "
        "of them.\n"
    )
