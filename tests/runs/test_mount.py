"""Finding data and models in the mount, and naming runs inside it."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from workflow import find_mount, make_job
from workflow.config.request import JobRequest
from workflow.runs import mount as mount_module
from workflow.runs.mount import (
    Mount,
    find_data,
    find_model,
    find_run_folder,
    run_name_of,
    step_in_name,
)


def job(**values: object) -> JobRequest:
    return make_job("seq2seq", **({"model_init_name": "m", "data_name": "d"} | values))


def test_the_mount_is_given_or_in_the_environment_or_the_container_or_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_module, "CONTAINER_MOUNT", tmp_path / "model_mount")
    monkeypatch.delenv("WORKFLOW_MOUNT", raising=False)
    assert find_mount(None).root == ROOT / "mount"
    (tmp_path / "model_mount").mkdir()
    assert find_mount(None).root == tmp_path / "model_mount"
    monkeypatch.setenv("WORKFLOW_MOUNT", str(tmp_path / "named"))
    assert find_mount(None).root == tmp_path / "named"
    assert find_mount("/asked").root == Path("/asked")


def test_without_a_mount_beside_the_package_it_is_the_working_directory_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_module, "CONTAINER_MOUNT", tmp_path / "model_mount")
    monkeypatch.setattr(mount_module, "__file__", str(tmp_path / "lib/workflow/runs/mount.py"))
    monkeypatch.delenv("WORKFLOW_MOUNT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_mount(None).root == tmp_path / "mount"


def test_data_is_a_file_or_a_folder_in_the_mount_or_a_path(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "mount")
    folder = mount.data / "x"
    folder.mkdir(parents=True)
    (folder / "eval.jsonl").write_text("")
    assert find_data(mount, "x") == ({"eval": folder / "eval.jsonl"}, [])
    (mount.data / "x.json").write_text("{}")
    assert find_data(mount, "x") == ({"": mount.data / "x.json"}, [])
    (tmp_path / "y.json").write_text("{}")
    assert find_data(mount, str(tmp_path / "y.json")) == ({"": tmp_path / "y.json"}, [])
    (mount.data / "linked.json").symlink_to(tmp_path / "y.json")
    assert find_data(mount, "linked") == ({"": mount.data / "linked.json"}, [])


def test_a_model_is_a_folder_of_the_mount_a_path_or_a_hub_name(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "mount")
    checkpoint = mount.models / "run" / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    assert find_model(mount, job(model_init_name="run/checkpoint-20")) == (checkpoint, [])
    by_path = job(model_init_name=None, model_init_path=str(checkpoint))
    assert find_model(mount, by_path) == (checkpoint, [])
    by_hub = job(model_init_name=None, model_pretrain_name="google/flan-t5-xl")
    assert find_model(mount, by_hub) == ("google/flan-t5-xl", [])
    _, (problem,) = find_model(mount, job(model_init_name="run/checkpoint-2"))
    assert problem.hint == "did you mean run/checkpoint-20?"
    assert (step_in_name(checkpoint), step_in_name("google/flan-t5-xl")) == (20, 0)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"data_name": "d", "seed": 3}, "m_d_3"),
        ({"model_init_name": "run/checkpoint-20", "no_train": True}, "run_checkpoint-20_d_eval"),
        (
            {"model_init_name": None, "model_pretrain_name": "google/flan-t5-xl"},
            "google_flan-t5-xl_d_0",
        ),
        ({"data_name": "/home/u/my.json"}, "m_home_u_my_0"),
        ({"model_init_name": None, "model_init_path": "../near"}, "m"),
    ],
)
def test_a_run_without_a_name_is_called_by_model_data_and_seed(
    tmp_path: Path, values: dict[str, object], name: str
) -> None:
    found = run_name_of(job(**values))
    folder, problems = find_run_folder(Mount(tmp_path / "mount"), found)
    assert problems == []
    assert folder.parent == tmp_path / "mount" / "models"
    if name != "m":
        assert found == name


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/tmp/x", ".", ".cache", "a/.hidden", "x" * 121, "é" * 61, "out/x"],
)
def test_a_run_name_cannot_leave_the_models_of_the_mount(tmp_path: Path, name: str) -> None:
    mount = Mount(tmp_path / "mount")
    mount.models.mkdir(parents=True)
    (mount.models / "out").symlink_to(tmp_path)
    _, problems = find_run_folder(mount, name)
    assert len(problems) == 1


@pytest.mark.parametrize("marker", ["config.json", "training_args.json"])
def test_a_run_is_not_put_into_a_model_or_another_run(tmp_path: Path, marker: str) -> None:
    mount = Mount(tmp_path / "mount")
    (mount.models / "a").mkdir(parents=True)
    (mount.models / "a" / marker).write_text("{}")
    _, (problem,) = find_run_folder(mount, "a/b/c")
    assert problem.found == f"inside {mount.models / 'a'}, which is a model or a run"


def test_a_run_named_as_a_model_gets_its_checkpoints_named(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "mount")
    for step in (3, 20, 100):
        (mount.models / "run" / f"checkpoint-{step}").mkdir(parents=True)
    (mount.models / "run" / "checkpoint-200-preds.json").touch()
    _, (problem,) = find_model(mount, job(model_init_name="run"))
    assert (problem.found, problem.hint) == ("a run, not a model", "use run/checkpoint-100")
    _, (problem,) = find_model(mount, job(model_init_name="run/checkpoint-200"))
    assert "preds.json" not in problem.hint
    (mount.models / "scored").mkdir()
    (mount.models / "scored" / "training_args.json").touch()
    _, (problem,) = find_model(mount, job(model_init_name="scored"))
    assert problem.hint == "use a run that has checkpoints"


def test_a_path_in_the_mount_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(tmp_path / "mount")
    (mount.models / "run" / "checkpoint-20").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    _, (problem,) = find_model(mount, job(model_init_name="mount/models/run/checkpoint-20"))
    assert problem.hint == "use run/checkpoint-20"


@pytest.mark.parametrize("name", ["~nobody-here/x", "x" * 300, "é" * 200])
def test_names_that_no_file_can_have_are_reported(tmp_path: Path, name: str) -> None:
    files, problems = find_data(Mount(tmp_path), name)
    assert (files, len(problems)) == ({}, 1)


@pytest.mark.parametrize("name", ["x", "a/b", "0216syn explain", "käse", "a.b"])
def test_other_run_names_are_free(tmp_path: Path, name: str) -> None:
    folder, problems = find_run_folder(Mount(tmp_path / "mount"), name)
    assert (folder, problems) == (tmp_path / "mount" / "models" / name, [])


def test_the_example_data_is_whole() -> None:
    data = json.loads((ROOT / "mount" / "data" / "data.json").read_text())
    prompts = {split: {record["prompt"] for record in data[split]} for split in data}
    assert {split: len(found) for split, found in prompts.items()} == {"train": 8000, "eval": 200}
    assert not prompts["train"] & prompts["eval"]
    for record in data["train"] + data["eval"]:
        number = int(record["prompt"].removeprefix("add one: ").replace(" ", ""))
        assert record["completion"] == " ".join(str(number + 1))
