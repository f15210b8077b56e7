"""The words of --kubernetes NAME=VALUE."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

from workflow.config.field_types import FieldType, integer, mapping, memory, text
from workflow.core.errors import Problem, shorten


def read_settings(given: Mapping[str, object]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings turned into what SETTINGS says they are, and what is wrong with them."""
    settings: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        if name not in SETTINGS:
            problems.append(_unknown(name))
            continue
        kind, _ = SETTINGS[name]
        try:
            settings[name] = kind.convert(value)
        except (ValueError, RecursionError, OverflowError):
            mend = f"write it as --kubernetes {name}={kind.metavar}"
            where = f"--kubernetes {name}"
            problems.append(Problem(where, shorten(value), kind.expected, mend))
    return settings, [*problems, *_problems_of_place(given)]


def _unknown(name: str) -> Problem:
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(SETTINGS)}"
    return Problem(f"--kubernetes {name}", "an unknown setting", "a known one", mend)


def _problems_of_place(given: Mapping[str, object]) -> list[Problem]:
    """Where the mount lies has to be said, once."""
    places = [name for name in ("pvc", "host_path") if name in given]
    if len(places) != 1:
        found = " and ".join(places) or "neither pvc nor host_path"
        mend = "write --kubernetes pvc=CLAIM, or host_path=FOLDER where every node has it"
        return [Problem("--kubernetes", found, "one place of the mount", mend)]
    if "pvc_path" in given and places == ["host_path"]:
        mend = "leave it out, and write the whole path as host_path"
        return [Problem("--kubernetes pvc_path", "it without pvc", "a claim it is in", mend)]
    return []


def _folder() -> FieldType:
    def convert(value: object) -> str:
        path: str = text().convert(value)
        if not path.startswith("/"):
            raise ValueError
        return path

    return FieldType("a folder, beginning with /", convert, "FOLDER")


def _named_texts() -> FieldType:
    def convert(value: object) -> dict[str, str]:
        found: dict[str, str] = mapping().convert(value)
        if not all(isinstance(content, str) for content in found.values()):
            raise ValueError
        return found

    return FieldType("a JSON object of texts", convert, """'{"NAME": "TEXT"}'""")


def _objects() -> FieldType:
    def convert(value: object) -> list[dict[str, Any]]:
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError
        return found

    return FieldType("a JSON list of objects", convert, "'[{…}]'")


def _name(of: str) -> FieldType:
    return dataclasses.replace(text(), metavar=of)


SETTINGS: dict[str, tuple[FieldType, str]] = {
    "pvc": (_name("CLAIM"), "the claim of the volume that is the mount"),
    "pvc_path": (_name("PATH"), "the mount's place in that volume"),
    "host_path": (_folder(), "the mount as a folder that every node has"),
    "namespace": (_name("NAME"), "where the job is made, if not in the context's own"),
    "queue": (_name("NAME"), "Kueue's queue, which lets the job start"),
    "priority_class": (_name("NAME"), "of the pods"),
    "service_account": (_name("NAME"), "of the pods"),
    "image_pull_secret": (_name("NAME"), "the Secret to fetch the image with"),
    "secret": (_name("NAME"), "the Secret that holds the --envs that are names alone"),
    "project": (_folder(), "the scripts' folder in the image [/opt/workflow]"),
    "gpu_resource": (_name("NAME"), "what GPUs are called [nvidia.com/gpu]"),
    "shm": (memory(), "the most that /dev/shm takes of the memory [16Gi]"),
    "run_as_user": (integer(0), "number of the user and the group that own the mount"),
    "node_selector": (_named_texts(), "labels of the nodes to run on"),
    "tolerations": (_objects(), "of the nodes' taints"),
    "labels": (_named_texts(), "more labels, of all that is made"),
    "annotations": (_named_texts(), "more annotations, of all that is made"),
}
"""Each setting's kind, and what it is."""
