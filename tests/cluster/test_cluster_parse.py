"""Cluster flags and the "cluster" object of a job file, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflow.cluster.parse import read_words
from workflow.cluster.resources import Cluster
from workflow.cluster.slurm.script import problems_of_words
from workflow.config.field_types import duration, pairs, words
from workflow.config.parse import as_arguments, parse_command_line
from workflow.core.errors import BadInput

JOB = ["--", "seq2seq.py", "--model_init_name", "t5-tiny", "--data_name", "data"]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90m", 5400), ("12h", 43200), ("2d", 172800), ("45s", 45), ("30", 1800), (30, 1800),
        ("10:30", 630), ("1:00:00", 3600), ("1-0", 86400), ("1-12:30", 131400),
        ("2-01:02:03", 176523),
    ],
)  # fmt: skip
def test_lengths_of_time(written: object, seconds: int) -> None:
    assert duration().convert(written) == seconds


@pytest.mark.parametrize("written", ["", "0", "-1", "1w", "1:2:3:4", "1.5h", True, None, "١h"])
def test_no_lengths_of_time(written: object) -> None:
    with pytest.raises(ValueError):
        duration().convert(written)


def test_pairs_are_words_or_an_object() -> None:
    kind = pairs("", "")
    assert kind.convert(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    assert kind.convert(['{"a": {"b": 1}}']) == {"a": {"b": 1}}
    assert pairs("", "", may_lack_value=True).convert(["A", "B="]) == {"A": None, "B": ""}
    for wrong in (["a"], [], "a=1", ["=1"], {"": 1}, {"a": None}, [1]):
        with pytest.raises(ValueError):
            kind.convert(wrong)


def test_words_are_any_number_of_texts() -> None:
    assert words("", "").convert("/a") == ("/a",)
    assert words("", "").convert(["/a", "/b:/c"]) == ("/a", "/b:/c")
    for wrong in ([], [""], [1], 1, None):
        with pytest.raises(ValueError):
            words("", "").convert(wrong)


def test_flags_over_the_part_of_a_job_file(tmp_path: Path) -> None:
    part = {"num_nodes": 2, "gpus_per_node": 4, "time": "12h", "slurm": {"partition": "a", "x": 1}}
    job = {"task": "clf", "model_init_name": "t5-tiny", "data": "data", "max_steps": 7}
    (tmp_path / "job.json").write_text(json.dumps(job | {"cluster": part}))
    flags = ["--config", str(tmp_path / "job.json"), "--num_nodes", "3", "--slurm", "partition=b"]
    asked = read_words("slurm", flags)
    assert asked.problems == []
    assert asked.cluster == Cluster(
        num_nodes=3, gpus_per_node=4, time=43200, slurm={"partition": "b", "x": 1}, envs={}
    )
    assert (asked.command.task, asked.spec.max_steps) == ("clf", 7)
    again = read_words("slurm", ["--num_nodes", "3", "--slurm", "partition=b", "--", "clf.py",
                                 "--config", str(tmp_path / "job.json")])  # fmt: skip
    assert (again.cluster, again.spec) == (asked.cluster, asked.spec)


def test_scripts_leave_the_part_alone(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        json.dumps({"model_init_name": "t5-tiny", "data": "data", "cluster": {"num_nodes": 2}})
    )
    _, _, problems = parse_command_line("seq2seq", "", ["--config", str(tmp_path / "job.json")])
    assert problems == []


def problem_lines(kind: str, flags: list[str], job: list[str] = JOB) -> list[str]:
    return [str(problem) for problem in read_words(kind, [*flags, *job]).problems]


def test_all_wrong_flags_are_reported_at_once(tmp_path: Path) -> None:
    part = {"num_node": 2, "time": "soon"}
    (tmp_path / "job.json").write_text(json.dumps({"cluster": part}))
    where = f"--config {tmp_path}/job.json"
    assert problem_lines(
        "slurm", ["--gpus", "4", "--memory", "lots", "--config", f"{tmp_path}/job.json"]
    ) == [
        "--gpus: unknown flag (expected a documented flag). Hint: did you mean --gpu?",
        "--memory: 'lots' (expected an amount of memory, e.g. 80GB). Hint: write --memory SIZE.",
        f"{where}: cluster: num_node: unknown flag (expected a documented flag). Hint: did you "
        "mean num_nodes?",
        f"{where}: cluster: time: 'soon' (expected a duration, e.g. 12h, 90m or 1-00:00:00). "
        "Hint: correct the value.",
    ]


@pytest.mark.parametrize(
    ("flags", "job", "line"),
    [
        ([], [], "submit: no job (expected -- seq2seq.py|clf.py [flags]). Hint: add -- seq2seq.py "
         "or -- clf.py with its flags after the cluster flags."),
        ([], ["--", "train.py"], "submit: 'train.py' (expected -- seq2seq.py|clf.py [flags]). "
         "Hint: add -- seq2seq.py or -- clf.py with its flags after the cluster flags."),
        (["--command", "python3 clf.py"], JOB, "submit: --command and a job after -- "
         "(expected one of the two). Hint: remove one."),
    ],
)  # fmt: skip
def test_no_job(flags: list[str], job: list[str], line: str) -> None:
    assert problem_lines("slurm", flags, job)[0] == line


def lines_of(cluster: Cluster) -> list[str]:
    return [str(problem) for problem in problems_of_words(cluster)]


def test_secrets_are_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert lines_of(Cluster(envs={"HF_TOKEN": None, "KEYBOARD": "de"})) == []
    found = lines_of(Cluster(envs={"HF_TOKEN": "hush", "WANDB_API_KEY": None, "2X": "y"}))
    assert found == [
        "--envs 'HF_TOKEN': a value for a likely secret (expected the name alone). "
        "Hint: export it in this shell, and write --envs HF_TOKEN.",
        "--envs 'WANDB_API_KEY': not set in this shell (expected an exported variable). "
        "Hint: export WANDB_API_KEY, or write WANDB_API_KEY=VALUE if it is not a secret.",
        "--envs '2X': not a variable name (expected letters, digits and _, not starting with a "
        "digit). Hint: correct the name.",
    ]


def test_secrets_in_shell_lines() -> None:
    lines = (
        "export A=1 WANDB_APIKEY=x",
        "B=2; HF_TOKEN=y cmd",
        "export TOKENIZERS_PARALLELISM=false",
    )
    assert lines_of(Cluster(setup=lines)) == [
        f"--setup: {name}=: a value for a likely secret (expected the name alone). "
        f"Hint: write --envs {name} instead."
        for name in ("WANDB_APIKEY", "HF_TOKEN")
    ]


def test_flags_with_several_values_may_be_repeated() -> None:
    flags = ["--slurm", "partition=a", "--slurm", "exclusive", "--envs", "A=1", "--envs", "B=2"]
    asked = read_words("slurm", [*flags, *JOB])
    assert asked.problems == []
    assert asked.cluster.slurm == {"partition": "a", "exclusive": None}
    assert asked.cluster.envs == {"A": "1", "B": "2"}


def test_a_plan_and_a_dry_run_after_the_dashes() -> None:
    asked = read_words("slurm", [*JOB, "--dry_run", "--plan_gpus", "4"])
    assert asked.prints_only
    assert [str(problem) for problem in asked.problems] == [
        "--plan_gpus: not supported with submit (expected cluster flags). Hint: set --num_nodes, "
        "--gpus_per_node, --gpu_memory and --memory before the --."
    ]


def test_unsupported_flags() -> None:
    asked = Cluster(high_priority=True, login=True, gpu_type="a100", mounts=("data",))
    assert lines_of(asked) == [
        "--mounts 'data': a relative path (expected SOURCE or SOURCE:TARGET, both starting with "
        "/). Hint: write absolute paths.",
        "--mounts: set without --container (expected a container). Hint: add --container IMAGE, or "
        "remove it; without a container all folders are visible.",
        "--high-priority: not supported by `submit slurm` (expected no value). Hint: remove it, "
        "and set --slurm partition=NAME or --slurm qos=NAME.",
        "--login: not supported by `submit slurm` (expected no value). Hint: remove it; "
        "`python3 -m workflow logs -f RUN` follows the job.",
        "--gpu_type: 'a100' without --gpus_per_node (expected GPUs). Hint: add --gpus_per_node N.",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--target_min", "1", "--target_max", "5", "--label_words", "bad", "good"],
        ["--template", "Is it so? {input} 'really' $HOME", "--bf16", "false", "--no_train"],
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cycles": 2}'],
        ["--eval_on_start", "false", "--save_seconds", "1.5", "--learning_rate", "3e-05"],
    ],
)  # fmt: skip
def test_a_job_as_flags(flags: list[str]) -> None:
    spec, _, problems = parse_command_line(
        "clf", "", ["--model_init_name", "m", "--data", "d", *flags]
    )
    assert problems == []
    again, _, problems = parse_command_line("clf", "", as_arguments(spec))
    assert (again, problems) == (spec, [])


def test_stop_strings_as_flags() -> None:
    flags = ["--model_init_name=m", "--data_name=d", '--stop=["a b", "-c"]']
    spec, _, _ = parse_command_line("seq2seq", "", flags)
    assert as_arguments(spec) == tuple(flags)


def test_an_unknown_cluster() -> None:
    from workflow.cluster.submit import main

    with pytest.raises(BadInput) as caught:
        main(["pbs"])
    assert str(caught.value) == (
        "submit: 'pbs' (expected one of slurm, kubernetes, local). Hint: write it after submit."
    )


def test_defaults_request_one_node_and_nothing_else() -> None:
    asked: dict[str, Any] = {k: v for k, v in vars(Cluster()).items() if v}
    assert asked == {"num_nodes": 1, "max_restarts": 20}
