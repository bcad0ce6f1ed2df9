"""Checks that the wheel works in an empty environment: `python -m tests.compat UV [lowest | wheel | suite] …`.

`lowest` installs it with the lowest versions that pyproject.toml allows, on Python 3.11, buys something, and runs the
tests closest to the dependencies: a purchase alone did not show that two bounds were too low. `wheel` buys something
with the locked versions, on Python 3.11 and 3.13. `suite` runs all tests on Python 3.13. A Python that is not installed
is skipped with a message. UV is the path of the program uv.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

from service.dev.servers import data_folder, free_port, scratch_folder
from tests.compat.purchase import buy

ROOT = Path(__file__).parents[2]
LOWEST_PYTHON, NEWEST_PYTHON = "3.11", "3.13"
STOP_SECONDS = 60
SETTINGS = ("DATABASE_URL", "REDIS_URL", "MIGRATE_DATABASE_URL", "STRIPE_", "ADMIN_TOKEN", "AUTH_", "PYTHONPATH")
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


class Environment:
    """A new virtual environment."""

    def __init__(self, uv: str, folder: Path, python: str) -> None:
        self.bin = folder / "bin"
        self._uv = uv
        self.uv("venv", "--quiet", "--no-python-downloads", "--python", python, folder)

    def install(self, *arguments: str | Path) -> None:
        self.uv("pip", "install", "--quiet", "--python", self.bin / "python", *arguments)

    def uv(self, *arguments: str | Path) -> None:
        subprocess.run([self._uv, *arguments], cwd=ROOT, env=ENVIRON, check=True)

    def test(self, *folders: str) -> None:
        """Run the tests in these folders, or all."""
        programs = f"{self.bin}{os.pathsep}{ENVIRON['PATH']}"
        command = [self.bin / "python", "-m", "pytest", "-q", *folders]
        subprocess.run(command, cwd=ROOT, env={**ENVIRON, "PATH": programs}, check=True)

    def output(self, command: str, *arguments: str | Path, folder: Path) -> str:
        """What a command prints."""
        return subprocess.check_output([self.bin / command, *arguments], cwd=folder, env=ENVIRON, text=True)


def find_python(version: str) -> str | None:
    """An interpreter of this version, on the path or in pyenv's folder."""
    in_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for python in (shutil.which(f"python{version}"), *map(str, in_pyenv)):
        # pyenv puts a shim on the path for versions that are not active, which fails.
        if python and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_lowest(uv: str, folder: Path) -> None:
    """The lowest versions that pyproject.toml allows for what the service imports."""
    if not (python := find_python(LOWEST_PYTHON)):
        print(f"lowest versions: skipped, Python {LOWEST_PYTHON} is not installed", flush=True)
        return
    environment = Environment(uv, folder / "venv", python)
    environment.install("--resolution", "lowest-direct", "--requirements", "pyproject.toml", "--extra", "embedded")
    try_wheel(environment, folder)
    # uv leaves the versions that are installed already.
    environment.install("--requirements", "pyproject.toml", "--extra", "dev")
    environment.test("tests/infra", "tests/http")
    print(f"lowest versions, Python {LOWEST_PYTHON}: ok", flush=True)


def try_locked(uv: str, folder: Path) -> None:
    """The locked versions, on each Python that is installed."""
    for version in (LOWEST_PYTHON, NEWEST_PYTHON):
        if not (python := find_python(version)):
            print(f"locked versions: skipped, Python {version} is not installed", flush=True)
            continue
        environment = Environment(uv, folder / version, python)
        environment.install("--require-hashes", "--requirements", "requirements-dev.txt")
        try_wheel(environment, folder)
        print(f"locked versions, Python {version}: ok", flush=True)


def try_wheel(environment: Environment, folder: Path) -> None:
    """Install the wheel, run its commands in an empty folder, and buy something."""
    wheels = folder / "wheels"
    environment.install("--no-deps", build_wheel(wheels))
    shutil.rmtree(wheels)
    project = folder / "project"
    project.mkdir()
    assert "usage: commerce-core" in environment.output("commerce-core", "--help", folder=project)
    assert "\nPREPARE cart__add_line AS\n" in environment.output("commerce-core", "review", folder=project)
    try:
        with running(environment, project) as api:
            token = environment.output("commerce-core", "token", "--sub", "ada", "--role", "catalogue", folder=project)
            buy(api, {"Authorization": f"Bearer {token.strip()}"})
        logs = {log.stem: log.read_text() for log in (data_folder(project) / "log").iterdir()}
        assert logs["migrate"].startswith("0001."), logs["migrate"]
        assert not [text for text in logs.values() if "Traceback" in text], logs
    finally:
        shutil.rmtree(data_folder(project))
    shutil.rmtree(project)


@contextmanager
def running(environment: Environment, project: Path) -> Iterator[str]:
    """`commerce-core run` in an empty folder: it starts PostgreSQL and Valkey, migrates and serves; the API's URL."""
    port = free_port()
    command = [environment.bin / "commerce-core", "run", "--port", str(port)]
    with subprocess.Popen(command, cwd=project, env=ENVIRON, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not any("Ctrl-C" in line for line in process.stdout):
                raise SystemExit(f"commerce-core run ended with exit status {process.wait()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(SIGTERM)
            process.wait(STOP_SECONDS)
    assert process.returncode == 0, process.returncode


def try_suite(uv: str, folder: Path) -> None:
    """The whole test suite on the newest Python."""
    if not (python := find_python(NEWEST_PYTHON)):
        print(f"test suite: skipped, Python {NEWEST_PYTHON} is not installed", flush=True)
        return
    environment = Environment(uv, folder / "venv", python)
    environment.install("--require-hashes", "--requirements", "requirements-dev.txt")
    environment.install("--no-deps", "--no-build-isolation", "--editable", ".")
    environment.test()
    print(f"test suite, Python {NEWEST_PYTHON}: ok", flush=True)


TRIALS: dict[str, Callable[[str, Path], None]] = {"lowest": try_lowest, "wheel": try_locked, "suite": try_suite}


def main() -> None:
    uv, *names = sys.argv[1:]
    for name in names or TRIALS:
        with scratch_folder() as folder:
            TRIALS[name](uv, folder)


if __name__ == "__main__":
    main()
