"""Slow imports, a little less slow."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor later among what they made.

    Torch and transformers make a million objects, of which none is garbage. Looking through them
    again and again takes a sixth of the import's time, and a tenth of a second each time later on.
    """
    collects, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    try:
        yield
    finally:
        if not frozen:  # a second job's objects are not to be kept for good
            gc.freeze()
        if collects:
            gc.enable()
