"""Plain `python3` is enough: go on in the project's .venv where this interpreter lacks packages.

Written for any Python 3, since it runs before the right one is found.
"""

import importlib.util
import os
import sys

PACKAGES = ("torch", "transformers", "deepspeed", "huggingface_hub", "safetensors", "numpy", "tqdm")


def ensure_packages(script, module=None):
    """Return where the packages are at hand, else run `script` again with .venv beside it.

    Where that is a `module` it is run as one: python -m module.

    An interpreter with other versions than the pinned ones gives way to .venv, and will do where
    there is no .venv. An installed package has no lock beside it: pip saw to its requirements.
    """
    beside = os.path.dirname(os.path.abspath(script))
    python = os.path.join(beside, ".venv", "bin", "python")
    inside = os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(beside, ".venv"))
    new_enough = sys.version_info >= (3, 11)
    lock = os.path.join(beside, "requirements.lock")
    if new_enough and (not os.path.exists(lock) or _has_pinned(lock)):
        return
    if os.path.exists(python) and not inside:
        again = sys.argv if module is None else ["-m", module] + sys.argv[1:]
        os.execv(python, [python] + again)
    if new_enough and all(map(importlib.util.find_spec, PACKAGES)):
        return
    needs = "Python 3.11 or newer with the packages of pyproject.toml"
    setup = os.path.join(beside, "scripts", "setup")
    sys.stderr.write("this needs %s; run %s once\n" % (needs, setup))
    sys.exit(2)


def _has_pinned(lock):
    """Whether each of PACKAGES is here in the version that `lock` pins."""
    from importlib import metadata

    with open(lock) as file:
        pins = dict(line.strip().split("==") for line in file if "==" in line)
    try:
        # a local version, as in 2.13.0+cpu, is another build of the same
        here = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    except metadata.PackageNotFoundError:
        return False
    return all(pins[name.replace("_", "-")] == here[name] for name in PACKAGES)
