"""The settings of --kubernetes NAME=VALUE."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from workflow.config.field_types import integer, memory
from workflow.core.errors import Problem, shorten

_JSON = BeforeValidator(lambda value: from_json(value) if isinstance(value, str) else value)

# Each with how it is written, and what it has to be.
Name = Annotated[str, Field(pattern=r"\S", title="NAME", description="a text that is not empty")]
Folder = Annotated[
    str, Field(pattern="^/", title="FOLDER", description="a folder, beginning with /")
]
Size = Annotated[
    float,
    BeforeValidator(memory().convert),
    Field(title="SIZE", description="an amount of memory, as 80GB"),
]
Number = Annotated[
    int | None,
    BeforeValidator(integer(0).convert),
    Field(title="N", description="a whole number of at least 0"),
]
Texts = Annotated[
    dict[str, str],
    _JSON,
    Field(title="""'{"NAME": "TEXT"}'""", description="a JSON object of texts"),
]
Objects = Annotated[
    list[dict[str, Any]], _JSON, Field(title="'[{…}]'", description="a JSON list of objects")
]


class Settings(BaseModel):
    """How a job is made on Kubernetes; what is empty is the cluster's own choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pvc: Annotated[Name, Field(title="CLAIM")] = ""  # of the volume that is the mount
    pvc_path: Annotated[Name, Field(title="PATH")] = ""  # the mount's place in that volume
    host_path: Folder = ""  # the mount as a folder that every node has
    namespace: Name = ""  # where the job is made, if not in the context's own
    queue: Name = ""  # Kueue's, which lets the job start
    priority_class: Name = ""
    service_account: Name = ""
    image_pull_secret: Name = ""
    secret: Name = ""  # holds the --envs that are names alone
    project: Folder = "/opt/workflow"  # the scripts' in the image
    gpu_resource: Name = "nvidia.com/gpu"
    shm: Size = 16 * 1024**3  # of /dev/shm: the 64 MiB of a container are soon full of NCCL's
    run_as_user: Number = None  # of the user and the group that own the mount
    node_selector: Texts = {}
    tolerations: Objects = []
    labels: Texts = {}  # more of them, of all that is made
    annotations: Texts = {}


def read_settings(given: Mapping[str, Any]) -> tuple[Settings, list[Problem]]:
    """The settings but for those that are none, and what is wrong with them."""
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
        hint = f"write it as {where}={known[name].title}"
        return Problem(where, shorten(value), str(known[name].description), hint)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return Problem(where, "an unknown setting", "a known one", hint)


def _problems_of_place(given: Mapping[str, object]) -> list[Problem]:
    """Where the mount lies has to be said, once."""
    places = [name for name in ("pvc", "host_path") if name in given]
    if len(places) != 1:
        found = " and ".join(places) or "neither pvc nor host_path"
        hint = "write --kubernetes pvc=CLAIM, or host_path=FOLDER where every node has it"
        return [Problem("--kubernetes", found, "one place of the mount", hint)]
    if "pvc_path" in given and places == ["host_path"]:
        hint = "leave it out, and write the whole path as host_path"
        return [Problem("--kubernetes pvc_path", "it without pvc", "a claim it is in", hint)]
    return []
