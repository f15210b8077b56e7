"""README's calls of a server, word for word but for the port."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, T5_TINY, make_mount
from served import serving

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_the_calls_of_the_readme_are_answered(tmp_path: Path) -> None:
    mount = make_mount(tmp_path / "mount")
    (mount.models / "first").symlink_to(T5_TINY)
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"^curl .*$", text, re.MULTILINE)
    assert len(calls) == 3
    with serving(mount, "first", tokens=512) as running:
        predicted, completed, chatted = (
            json.loads(
                subprocess.run(
                    shlex.split(call.replace("http://127.0.0.1:8000", running.url)),
                    check=True, capture_output=True, timeout=60,
                ).stdout
            )
            for call in calls
        )  # fmt: skip
    assert list(predicted) == ["answer"]
    assert [choice["index"] for choice in completed["choices"]] == [0, 1]
    assert chatted["choices"][0]["message"]["role"] == "assistant"
