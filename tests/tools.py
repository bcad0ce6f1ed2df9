"""Programs that a test needs and a machine may lack."""

import shutil

import pytest

# What was looked for and not there.
MISSING: set[str] = set()


def needs(*names: str) -> tuple[str, ...]:
    """Where these programs are; skips the test, and remembers what to report, where one is missing."""
    found = {name: shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        MISSING.update(missing)
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    return tuple(str(path) for path in found.values())
