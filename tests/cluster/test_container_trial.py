"""What scripts/test_containers does on this machine before it builds an image."""

import os
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ROOT


@pytest.fixture
def trial() -> ModuleType:
    """scripts/test_containers as a module."""
    loader = SourceFileLoader("trial", str(ROOT / "scripts" / "test_containers"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_images_are_only_tried_as_root(trial: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert trial.main() == (
        "scripts/test_containers: not root (expected root). Hint: it mounts file systems."
    )


def test_the_tried_checkout_is_readable_for_its_owner_only(
    trial: ModuleType, tmp_path: Path
) -> None:
    trial.copy_checkout(tmp_path)
    modes = {
        path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    }
    assert {modes[Path(name)] for name in ("workflow", "containers/install")} == {0o700}
    assert {modes[Path(name)] for name in ("clf.py", "workflow/__init__.py")} == {0o600}


def test_pip_s_configuration_and_its_files_are_shared(
    trial: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's values come first in pip's list and win."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    shown = [
        f":env:.find-links='{wheels}'", "global.find-links='/elsewhere'",
        r"global.extra-index-url='\nhttps://one\nhttps://two/simple'", "global.cert='/missing.crt'",
    ]  # fmt: skip
    monkeypatch.setattr(trial, "call", lambda *words: "\n".join(shown) + "\n")
    flags = trial.share_configuration(SimpleNamespace(folder=tmp_path))
    assert flags == [
        f"--volume={wheels}:/mnt{wheels}:ro", f"--volume={tmp_path}/pip.conf:/etc/pip.conf:ro",
    ]  # fmt: skip
    assert (tmp_path / "pip.conf").read_text().splitlines() == [
        "[global]",
        f"find-links = /mnt{wheels}",
        "extra-index-url = https://one https://two/simple",
        "cert = /missing.crt",
    ]
