"""The settings of --kubernetes NAME=VALUE."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from workflow.config.field_types import integer, memory
from workflow.core.errors import Problem, shorten

_JSON = BeforeValidator(lambda value: from_json(value) if isinstance(value, str) else value)

# The title is the value's placeholder in hints, the description what an error expects.
Name = Annotated[str, Field(pattern=r"\S", title="NAME", description="a non-empty string")]
Folder = Annotated[str, Field(pattern="^/", title="FOLDER", description="an absolute path")]
Size = Annotated[
    float,
    BeforeValidator(memory().convert),
    Field(title="SIZE", description="an amount of memory, e.g. 80GB"),
]
Number = Annotated[
    int | None,
    BeforeValidator(integer(0).convert),
    Field(title="N", description="an integer of at least 0"),
]
Texts = Annotated[
    dict[str, str],
    _JSON,
    Field(title="""'{"NAME": "TEXT"}'""", description="a JSON object of strings"),
]
Objects = Annotated[
    list[dict[str, Any]], _JSON, Field(title="'[{…}]'", description="a JSON list of objects")
]


class Settings(BaseModel):
    """Settings of a Kubernetes Job; empty ones keep the cluster's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pvc: Annotated[Name, Field(title="CLAIM")] = ""  # of the volume with the mount
    pvc_path: Annotated[Name, Field(title="PATH")] = ""  # the mount's path in that volume
    host_path: Folder = ""  # the mount as a folder on every node
    namespace: Name = ""  # [the context's]
    queue: Name = ""  # of Kueue, which admits the job
    priority_class: Name = ""
    service_account: Name = ""
    image_pull_secret: Name = ""
    secret: Name = ""  # holds the values of --envs without one
    project: Folder = "/opt/workflow"  # of the scripts in the image
    gpu_resource: Name = "nvidia.com/gpu"
    shm: Size = 16 * 1024**3  # of /dev/shm: NCCL needs more than a container's default of 64 MiB
    run_as_user: Number = None  # user and group that own the mount
    node_selector: Texts = {}
    tolerations: Objects = []
    labels: Texts = {}  # added to all objects
    annotations: Texts = {}


def read_settings(given: Mapping[str, Any]) -> tuple[Settings, list[Problem]]:
    """Return the valid settings, and the problems of the others."""
    try:
        return Settings(**given), _problems_of_place(given)
    except ValidationError as error:
        wrong = dict.fromkeys(str(found["loc"][0]) for found in error.errors())
        right = {name: value for name, value in given.items() if name not in wrong}
        problems = [_problem(name, given[name]) for name in wrong]
        return Settings(**right), [*problems, *_problems_of_place(given)]


def _problem(name: str, value: object) -> Problem:
    known, where = Settings.model_fields, f"--kubernetes {name}"
    if name in known:
        hint = f"write {where}={known[name].title}"
        return Problem(where, shorten(value), str(known[name].description), hint)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return Problem(where, "unknown setting", "a setting of --kubernetes", hint)


def _problems_of_place(given: Mapping[str, object]) -> list[Problem]:
    """Require exactly one location of the mount."""
    places = [name for name in ("pvc", "host_path") if name in given]
    if len(places) != 1:
        found = " and ".join(places) or "neither pvc nor host_path"
        hint = "set --kubernetes pvc=CLAIM, or host_path=FOLDER if every node has that folder"
        return [Problem("--kubernetes", found, "one location of the mount", hint)]
    if "pvc_path" in given and places == ["host_path"]:
        hint = "remove it, and set host_path to the full path"
        return [Problem("--kubernetes pvc_path", "set without pvc", "pvc=CLAIM", hint)]
    return []
