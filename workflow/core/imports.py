"""Faster imports of large packages."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = ("accelerate", "peft")
"""Packages that transformers imports where they are installed, which takes it two seconds."""


@contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection during imports, and exclude imported objects from it later.

    Torch and transformers create a million objects, none of them garbage. Collecting takes a sixth
    of the import time, and a tenth of a second for each later collection. What only adapters need
    seems not to be installed meanwhile.
    """
    collects, frozen = gc.isenabled(), gc.get_freeze_count()
    hidden: list[str] = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        if not frozen:  # do not freeze the objects of an earlier job
            gc.freeze()
        if collects:
            gc.enable()
