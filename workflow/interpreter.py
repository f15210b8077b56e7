"""Plain `python3` is enough: go on in the project's .venv where this interpreter lacks packages.

Written for any Python 3, since it runs before the right one is found.
"""

import importlib.util
import os
import sys

PACKAGES = ("torch", "transformers", "numpy", "tqdm")


def ensure_packages(script):
    """Return where the packages are at hand, else run `script` again with .venv beside it."""
    if sys.version_info >= (3, 11) and all(map(importlib.util.find_spec, PACKAGES)):
        return
    beside = os.path.dirname(os.path.abspath(script))
    python = os.path.join(beside, ".venv", "bin", "python")
    inside = os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(beside, ".venv"))
    if inside or not os.path.exists(python):
        setup = os.path.join(beside, "scripts", "setup")
        needs = "Python 3.11 or newer with the packages of pyproject.toml"
        sys.stderr.write("this needs %s; run %s once\n" % (needs, setup))
        sys.exit(2)
    os.execv(python, [python] + sys.argv)
