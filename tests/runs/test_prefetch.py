"""A hub's model is downloaded complete and verified, or not at all, and the reason is reported."""

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, make_t5, write_hub_folder
from hub_server import NAME, SECOND, Hub, close, serve
from huggingface_hub import constants

from workflow.config.parse import make_job
from workflow.core.checksums import CHECKSUM_FILE, find_damage
from workflow.core.errors import BadInput
from workflow.models.hub import fetch_weights, load_config, load_tokenizer
from workflow.models.loading import load_model
from workflow.runs.model_store import prefetch
from workflow.runs.mount import Mount, find_model

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])  # and no other


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """A mount without models."""
    return Mount(tmp_path / "mount")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A reachable hub with a model in safetensors."""
    made = Hub(write_hub_folder(make_t5(), tmp_path / "hub", "safetensors"))
    server = serve(made, monkeypatch, tmp_path / "cache")
    yield made
    close(server)


def refused(mount: Mount, model: str = NAME) -> list[str]:
    """The problems of a model that is refused; none of its files are among the models."""
    with pytest.raises(BadInput) as raised:
        prefetch(model, mount)
    assert not mount.models.exists() or {p.name for p in mount.models.iterdir()} <= {".cache"}
    return list(map(str, raised.value.problems))


def kept(mount: Mount) -> set[str]:
    """The files of a model that are kept for the next attempt."""
    download = mount.cache / "downloads" / "flan-t5-xl"
    return {path.name for path in download.iterdir() if path.is_file()}


@pytest.mark.parametrize("layout", ["safetensors", "sharded-safetensors", "bin", "sharded-bin"])
def test_a_model_comes_whole_without_what_jobs_do_not_read(
    hub: Hub, mount: Mount, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(hub.folder)
    write_hub_folder(make_t5(), hub.folder, layout)
    wanted = set(hub.files())
    others = ["README.md", ".gitattributes", "flax_model.msgpack", "onnx/config.json", ".x.json"]
    others += ["tf_model.h5.index.json", "modeling_own.py", "resume/a.safetensors", CHECKSUM_FILE]
    if layout.endswith("safetensors"):
        others += ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    for name in others:
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_text("of no use")

    folder = prefetch(NAME, mount)
    assert folder == mount.models / "flan-t5-xl"
    assert set(hub.fetched()) == wanted
    assert {path.name for path in folder.rglob("*")} == wanted | {CHECKSUM_FILE}
    for name in wanted:
        assert not (folder / name).is_symlink()
        assert (folder / name).read_bytes() == (hub.folder / name).read_bytes()
    assert [path.name for path in (mount.cache / "downloads").iterdir()] == ["flan-t5-xl.lock"]

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    job = make_job("seq2seq", model_init_name="flan-t5-xl", data_name="none")
    assert find_model(mount, job) == (folder, [])
    load_config(folder, len(load_tokenizer(folder)))
    assert fetch_weights(folder) == folder
    assert torch.equal(load_model(folder).lm_head.weight, make_t5().lm_head.weight)


@pytest.mark.parametrize("original", [GPT_TINY, BERT_TINY], ids=lambda folder: folder.name)
def test_models_with_one_stack_come_whole(hub: Hub, mount: Mount, original: Path) -> None:
    shutil.rmtree(hub.folder)
    shutil.copytree(original, hub.folder)
    folder = prefetch(NAME, mount)
    assert {path.name for path in folder.iterdir()} == {*hub.files(), CHECKSUM_FILE}
    load_config(folder, len(load_tokenizer(folder)))
    tensors = load_model(folder).state_dict()
    for name, tensor in load_model(original).state_dict().items():
        assert torch.equal(tensors[name], tensor), name


def test_later_jobs_see_what_is_changed_in_any_file(hub: Hub, mount: Mount) -> None:
    folder = prefetch(NAME, mount)
    assert find_damage(folder) == []
    assert set(json.loads((folder / CHECKSUM_FILE).read_text())) == set(hub.files())
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    changed = {Path(problem.where).name for problem in find_damage(folder)}
    assert changed == set(hub.files())


def test_a_second_time_nothing_is_done(
    hub: Hub, mount: Mount, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("workflow"), "propagate", True)
    caplog.set_level(logging.INFO, "workflow")
    folder = prefetch(NAME, mount)
    before = {path: path.stat() for path in (folder, *folder.iterdir())}
    hub.asked.clear()
    hub.commit = SECOND  # which has the same files
    assert prefetch(NAME, mount) == folder
    assert hub.fetched() == []
    assert {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }
    assert list(dict.fromkeys(caplog.messages)) == [  # a handler of another test may double them
        f"downloaded and verified {folder}; use it with --model_init_name flan-t5-xl",
        f"{folder} exists already, and is complete",
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_is_refused_and_only_that_file_is_downloaded_again(
    hub: Hub, mount: Mount, name: str
) -> None:
    hub.flipped = name
    size = (hub.folder / name).stat().st_size
    assert refused(mount) == [
        f"{NAME}: {name}: {size:,} bytes that differ from the hub's (expected the hub's {size:,} "
        "bytes). Hint: rerun the command; only incomplete files are downloaded again."
    ]
    assert name not in kept(mount)
    fetched = set(hub.fetched())
    hub.flipped = None
    hub.asked.clear()
    prefetch(NAME, mount)
    assert set(hub.fetched()) == set(hub.files()) - fetched | {name}


def test_complete_files_of_an_interrupted_download_are_kept(hub: Hub, mount: Mount) -> None:
    shutil.rmtree(hub.folder)
    write_hub_folder(make_t5(), hub.folder, "sharded-safetensors")
    hub.broken = "model-00002-of-00003.safetensors"
    (told,) = refused(mount)
    assert told.startswith(f"model {NAME}: the download failed: Server error '500 ")
    assert told.endswith(
        " (expected a hub that can be reached, e.g. from a login node). "
        "Hint: rerun the command; complete files are not downloaded again."
    )
    whole = kept(mount)
    assert "config.json" in whole
    assert hub.broken not in whole
    notes = mount.cache / "downloads" / "flan-t5-xl" / ".cache" / "huggingface" / "download"
    (notes / "killed.incomplete").write_text("half")
    hub.broken = hub.refused = None
    hub.asked.clear()
    folder = prefetch(NAME, mount)
    assert set(hub.fetched()) == set(hub.files()) - whole
    assert find_damage(folder) == []


def test_files_that_the_model_has_no_more_do_not_stay(hub: Hub, mount: Mount) -> None:
    hub.flipped = "model.safetensors"
    (hub.folder / "vocab.txt").write_text("old")
    refused(mount)
    assert "vocab.txt" in kept(mount)
    (hub.folder / "vocab.txt").unlink()
    hub.flipped, hub.commit = None, SECOND
    assert {path.name for path in prefetch(NAME, mount).iterdir()} == {*hub.files(), CHECKSUM_FILE}


@pytest.mark.parametrize("change", ["another byte", "a file less", "no folder"])
def test_something_else_in_its_place_is_left_alone(hub: Hub, mount: Mount, change: str) -> None:
    folder = mount.models / "flan-t5-xl"
    names = "config.json"
    if change == "no folder":
        mount.models.mkdir(parents=True)
        folder.write_text("a file")
        settings = sorted(set(hub.files()) - {"model.safetensors"})
        names = f"{', '.join(settings[:3])} and {len(settings) - 2} more"
    elif change == "a file less":
        (prefetch(NAME, mount) / "config.json").unlink()
    else:
        config = prefetch(NAME, mount) / "config.json"
        config.write_bytes(config.read_bytes()[:-1] + b" ")
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    hub.asked.clear()
    with pytest.raises(BadInput) as raised:
        prefetch(NAME, mount)
    assert str(raised.value) == (
        f"{folder}: exists, but not with the {names} of {NAME} (expected that model, or no "
        "folder). Hint: use the folder as it is, or move it away and rerun the command."
    )
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before
    assert hub.fetched() == []


def test_a_model_of_another_kind_is_refused_before_its_weights_come(hub: Hub, mount: Mount) -> None:
    (hub.folder / "config.json").write_text('{"model_type": "vit"}')
    (told,) = refused(mount)
    assert "the model type vit (expected a language model, e.g. t5, llama or bert)" in told
    assert "model.safetensors" not in hub.fetched()
    assert [path.name for path in (mount.cache / "downloads").iterdir()] == ["flan-t5-xl.lock"]


def test_a_model_that_brings_code_does_not_run_it(hub: Hub, mount: Mount) -> None:
    code = {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model"}
    (hub.folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (hub.folder / "own.py").write_text("raise SystemExit('run')")
    (told,) = refused(mount)
    assert "own.py" not in hub.fetched()
    assert told.endswith(
        "(expected a readable config.json). Hint: check the folder or download the model again."
    )


def test_a_model_without_weights_that_can_be_read_is_refused(hub: Hub, mount: Mount) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "flax_model.msgpack")
    assert refused(mount) == [
        f"model {NAME}: no weights among its {len(hub.files())} files "
        "(expected *.safetensors or pytorch_model*.bin). Hint: choose another model."
    ]


@pytest.mark.parametrize(
    ("status", "word", "told"),
    [
        (
            404, "RepoNotFound",
            "does not exist, or is private (expected a name like google/flan-t5-xl). "
            "Hint: correct the name, or log in with hf auth login.",
        ),
        (
            403, "GatedRepo",
            "a gated model (expected an account with access). "
            "Hint: request access on the model's page, then log in with hf auth login.",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("listed", [True, False])
def test_a_model_that_is_not_available_is_reported(
    hub: Hub, mount: Mount, status: int, word: str, told: str, listed: bool
) -> None:
    """Of a gated model the files can be listed."""
    if listed:
        hub.refused_files = (status, word)
    else:
        hub.refused = (status, word)
    assert refused(mount) == [f"model {NAME}: {told}"]


def test_offline_nothing_is_asked(hub: Hub, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(mount) == [
        f"model {NAME}: HF_HUB_OFFLINE is set (expected access to the hub). "
        "Hint: unset HF_HUB_OFFLINE, on a machine with a network, e.g. a login node."
    ]
    assert hub.asked == []


def test_a_missing_network_is_reported(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(serve(Hub(tmp_path), monkeypatch, tmp_path / "cache"))
    assert refused(mount) == [
        f"model {NAME}: the download failed: [Errno 111] Connection refused "
        "(expected a hub that can be reached, e.g. from a login node). "
        "Hint: rerun the command; complete files are not downloaded again."
    ]


def test_a_disk_that_is_too_small_is_reported_before_any_download(
    hub: Hub, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=7_100_000))
    needed = sum(path.stat().st_size for path in hub.files().values()) + 10_000_000
    assert refused(mount) == [
        f"{mount.cache}/downloads/flan-t5-xl: 7 MB free "
        f"(expected {needed / 1e6:.0f} MB for {NAME}). Hint: free disk space, or use another mount."
    ]
    assert hub.fetched() == []


def test_a_mount_that_cannot_be_written_is_reported(hub: Hub, mount: Mount) -> None:
    mount.root.write_text("no folder")
    assert refused(mount) == [
        f"{mount.models}/flan-t5-xl: could not be written: Not a directory "
        "(expected disk space and write permission). Hint: fix the cause, then rerun the command."
    ]


def test_an_exceeded_quota_is_reported(
    hub: Hub, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert refused(mount) == [
        f"{mount.models}/flan-t5-xl: could not be written: Disk quota exceeded "
        "(expected disk space and write permission). Hint: fix the cause, then rerun the command."
    ]


def test_two_processes_do_not_fetch_one_model(hub: Hub, mount: Mount) -> None:
    downloads = mount.cache / "downloads"
    downloads.mkdir(parents=True)
    with open(downloads / "flan-t5-xl.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused(mount) == [
            f"model {NAME}: another process is downloading it (expected one download at a time). "
            "Hint: wait for it to end."
        ]
    prefetch(NAME, mount)


@pytest.mark.parametrize(
    "name", ["", "..", "a/..", "../x", "/etc", "a/b/c", "a/.hidden", ".", "a/", "a b", "x\n", "~/m"]
)
def test_a_name_does_not_lead_out_of_the_models(mount: Mount, name: str) -> None:
    (told,) = refused(mount, name)
    assert told.endswith(
        "not a valid name on the hub (expected a name like google/flan-t5-xl). "
        "Hint: correct the name."
    )
    assert not mount.root.exists()
