"""Switch from plain `python3` to the project's .venv if this interpreter lacks packages.

Must run on any Python 3, since it runs before the right one is found.
"""

import importlib.util
import os
import sys

PACKAGES = ("torch", "transformers", "deepspeed", "huggingface_hub", "safetensors", "numpy", "tqdm")


def ensure_packages(script, module=None):
    """Return if the pinned packages are installed, else rerun `script` (or `module`) in .venv.

    A `module` is run as `python -m module`. .venv is in the script's folder; without it, an
    interpreter with other versions of the packages is used. An installed package has no lock next
    to it: pip has checked its requirements.
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
    line = "%s: lacks the project's packages (expected %s). Hint: run %s.\n"
    sys.stderr.write(line % (sys.executable, needs, setup))
    sys.exit(2)


def _has_pinned(lock):
    """Return whether all PACKAGES are installed in the versions that `lock` pins."""
    from importlib import metadata

    with open(lock) as file:
        pins = dict(line.strip().split("==") for line in file if "==" in line)
    try:
        # a local version such as 2.13.0+cpu is another build of the same release
        here = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    except metadata.PackageNotFoundError:
        return False
    return all(pins[name.replace("_", "-")] == here[name] for name in PACKAGES)
