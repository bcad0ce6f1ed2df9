"""Child processes that end with this process, and the ends of their logs."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import NamedTuple

STOP_SECONDS = 15

Command = Sequence[str | int | Path]


class CannotRun(Exception):
    """A program did not start, or failed; the text names it and ends with its last output."""


class Account(NamedTuple):
    """An unprivileged user and group, by id."""

    user: int
    group: int


def spawn(
    command: Command,
    log: Path,
    *,
    death: Signals = SIGKILL,
    account: Account | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, so that the terminal's Ctrl-C does not reach it; its output replaces `log`.

    On Linux the child gets the signal `death` when this process ends, even by kill -9. Elsewhere it continues;
    the next start on a server's folder stops it.
    """
    arguments: Command = [os.getpid(), death.value, *(account or (0, 0)), *command]
    with open(log, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        return subprocess.Popen(
            [sys.executable, "-ISc", LAUNCHER, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env=environ,
        )


# A program instead of `preexec_fn`, which is unsafe with threads. A change of user clears the death signal, so prctl
# comes after it. If the parent ended before that, the child's parent id differs.
LAUNCHER = """
import ctypes, os, sys
parent, death, user, group = map(int, sys.argv[1:5])
if user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death)
if os.getppid() == parent:
    os.execv(sys.argv[5], sys.argv[5:])
"""


def complete(
    command: Command, log: Path, *, account: Account | None = None, environ: Mapping[str, str] | None = None
) -> None:
    """Run a child and wait for it. Raises CannotRun when its exit status is not 0."""
    process = spawn(command, log, account=account, environ=environ)
    try:
        if status := process.wait():
            raise CannotRun(f"{' '.join(map(str, command))}: exit status {status}\n{tail(log)}")
    finally:
        stop(process)


def stop(*processes: subprocess.Popen[bytes], first: Signals = SIGTERM, last: Signals = SIGKILL) -> None:
    """Send `first` to all children, then `last` to those that still run after STOP_SECONDS, and finally SIGKILL."""
    for process in processes:
        process.send_signal(first)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        for signal, min_seconds in ((last, 0.1), (SIGKILL, 5)):
            try:
                process.wait(max(min_seconds, deadline - time.monotonic()))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal)
        process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; "" when the file is missing."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
