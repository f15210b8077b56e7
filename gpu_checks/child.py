"""One check in its own process: `python3 -m gpu_checks.child MODULE:FUNCTION SETTINGS`."""

import importlib
import json
import sys
import traceback

from gpu_checks.place import OUTCOME, Failed, Place, Skip
from workflow.core.files import write_json


def main() -> None:
    """Run the check, and write how it ended."""
    module, _, name = sys.argv[1].partition(":")
    place = Place.of(json.loads(sys.argv[2]))
    try:
        said = getattr(importlib.import_module(module), name)(place)
        outcome = "ok"
    except Skip as reason:
        outcome, said = "skip", str(reason)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        outcome, said = "FAIL", kind + lines[-1]
    write_json(place.folder / OUTCOME, {"outcome": outcome, "said": said})


if __name__ == "__main__":
    main()
