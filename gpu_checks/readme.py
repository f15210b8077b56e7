"""The README's commands, on t5-tiny and with fewer steps."""

import os
import re
import shutil
import sys
from pathlib import Path

from benchmarks import ROOT, T5_TINY
from gpu_checks.place import Place

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
"""A fenced block: its language, its file, its text."""
ROUNDS = re.compile(r"((?:steps[ =]|checkpoint-|@|\"max_steps\": )\d+)00\b")
"""Steps, which are divided by 100 where commands are run."""


def readme(place: Place) -> str:
    """Run all commands that need no network and no cluster, with the files that the pages show."""
    shutil.copytree(T5_TINY, place.folder / "mount" / "models" / "flan-t5-small")
    (place.folder / "mount" / "data").mkdir()
    for name in ("seq2seq.py", "clf.py", "workflow"):
        (place.folder / name).symlink_to(ROOT / name)
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for _, file, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if file:
                (place.folder / file).write_text(ROUNDS.sub(r"\1", text), encoding="utf-8")
    python = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        "WORKFLOW_MOUNT": str(place.folder / "mount"),
    }
    ran = 0
    for language, _, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines() if language == "bash" else ():
            words = ["bash", "-c", ROUNDS.sub(r"\1", line)]
            place.call(words, folder=place.folder, environment=environment)
            ran += 1
    place.note(commands=ran)
    return f"{ran} commands"
