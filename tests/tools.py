"""Programs and packages that a test needs and that may be missing on a machine."""

import os
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest

# Those that were missing; the summary of the run names them.
MISSING: set[str] = set()


def require_programs(*names: str) -> tuple[str, ...]:
    """The paths of these programs; skips the test where one is missing."""
    others = os.pathsep.join([os.path.dirname(sys.executable), "/usr/sbin", "/usr/local/sbin"])
    paths = {name: shutil.which(name) or shutil.which(name, path=others) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        MISSING.update(missing)
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    return tuple(str(path) for path in paths.values())


def require_package(name: str) -> ModuleType:
    """The package, by the name that imports it; skips the test where it is missing."""
    if find_spec(name) is None:
        MISSING.add(name)
        pytest.skip(f"not on this machine: {name}")
    return import_module(name)


def require_node_package(name: str) -> str:
    """The folder of a package of npm, which NODE_MODULES has; skips the test where it is missing."""
    folder = os.path.join(os.environ.get("NODE_MODULES", ""), name)
    if not os.environ.get("NODE_MODULES") or not os.path.isdir(folder):
        MISSING.add(name)
        pytest.skip(f"not on this machine: {name}")
    return folder
