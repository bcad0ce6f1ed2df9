"""What machine this is, and how busy it is."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.dev.processes import CannotRun

ROOT = Path(__file__).parents[2]
LIBRARIES = ("asyncpg", "fastapi", "httptools", "orjson", "redis", "starlette", "stripe", "uvicorn", "uvloop")


def describe() -> dict[str, Any]:
    """Cores, processor, memory and versions."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "memory_gb": round(int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """The commit that is measured, with a `+` where files differ from it."""
    with suppress(OSError, subprocess.CalledProcessError):
        head = subprocess.check_output(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, text=True).strip()
        changed = subprocess.check_output(["git", "status", "--porcelain", "-uno"], cwd=ROOT, text=True)
        return f"{head}+" if changed else head
    return "unknown"


@contextmanager
def recorded_usage(usage: dict[str, Any]) -> Iterator[None]:
    """Record how busy the machine is in the second before the block, and during the block, which itself is included."""
    usage["load_before"] = round(os.getloadavg()[0], 2)
    before = _ticks()
    time.sleep(1)
    start = _ticks()
    usage["idle_before"] = _idle(before, start)
    start_time = time.monotonic()
    try:
        yield
    finally:
        usage["idle_during"] = _idle(start, _ticks())
        usage["load_after"] = round(os.getloadavg()[0], 2)
        usage["wall_seconds"] = round(time.monotonic() - start_time, 1)


def resident_mb(process_id: int) -> float:
    """A process's resident memory, in MB of a million bytes."""
    resident = _field(f"/proc/{process_id}/status", "VmRSS")
    if resident is None:
        raise CannotRun("A process's memory is read from /proc, which this system does not have.")
    return int(resident.split()[0]) * 1024 / 1e6


def _field(path: str, name: str) -> str | None:
    """The value of the first line `name: value` of a file; None where there is none."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def _ticks() -> tuple[int, int]:
    """The idle time of the CPUs, and their total time."""
    with suppress(OSError):
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)
    return 0, 0


def _idle(earlier: tuple[int, int], later: tuple[int, int]) -> float:
    """The percentage of CPU time between two readings that was idle."""
    whole = later[1] - earlier[1]
    return round(100 * (later[0] - earlier[0]) / whole, 1) if whole else 0.0
