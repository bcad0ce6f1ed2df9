"""`python -m tests.bench.profile [NAME …]`: the CPU time of a request in the API's process, by the code's owner.

CPU time is meaningful on a busy machine, too. The owners come from py-spy, where it is installed (`.venv/bin/pip
install py-spy`): a sample counts for the innermost Python frame outside the standard library. C code and system calls
count for their caller.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.dev.servers import scratch_folder
from tests.bench.benchmarks.stripe import write_events
from tests.bench.drivers import WARM_SECONDS, Load, wrk
from tests.bench.load import Tables
from tests.bench.stage import Child, Stage

SECONDS = 10
# Above the rate of any load here.
MAX_RATE = 4000
SPY = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")

# The owner of a frame, by a text in its path.
OWNERS = {
    "/asyncpg/": "asyncpg, its socket",
    "/redis/": "redis-py",
    "/arq/": "arq",
    "/stripe/": "Stripe's SDK",
    "/aiohttp/": "aiohttp",
    "/prometheus_client/": "prometheus_client",
    "/logging/": "logging",
    "service/infra/logs": "logging",
    "/fastapi/": "FastAPI",
    "/starlette/": "Starlette",
    "/uvicorn/": "uvicorn, its socket",
    "service/http/server/middleware": "our middleware",
    "service/": "our code",
}


def main() -> None:
    names = sys.argv[1:] or list(LOADS)
    with ExitStack() as stack:
        stage = Stage(stack, stack.enter_context(scratch_folder()), 1, SECONDS, 0)
        stage.open()
        url, tables = stage.database("profile", 1000)
        for name in names:
            opened, load = LOADS[name]
            with opened(stage, url) as server:
                load(stage, tables, server, WARM_SECONDS)
                before = cpu_seconds(server.process.pid)
                with sampled_stacks(server, stage.folder / "stacks") as stacks:
                    result = load(stage, tables, server, SECONDS)
                cost = (cpu_seconds(server.process.pid) - before) / result.requests
            shares = ", ".join(f"{owner} {share:.0f} %" for owner, share in shares_of_owners(stacks))
            print(f"{name:<12} {cost * 1e6:6.0f} µs of CPU a request; {shares or 'without py-spy'}", flush=True)


@contextmanager
def sampled_stacks(server: Child, stacks: Path) -> Iterator[Path]:
    """Sample the process's stacks while the block lasts."""
    stacks.unlink(missing_ok=True)
    if SPY is None:
        yield stacks
        return
    options = ["-p", str(server.process.pid), "-d", str(SECONDS), "-r", "100", "-f", "raw", "--nonblocking", "-o"]
    with subprocess.Popen(
        [SPY, "record", *options, stacks], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as spy:
        yield stacks
        spy.wait()


def shares_of_owners(stacks: Path) -> list[tuple[str, float]]:
    """The percentage of samples by owner, largest first."""
    samples: Counter[str] = Counter()
    for line in stacks.read_text().splitlines() if stacks.exists() else ():
        stack, _, count = line.rpartition(" ")
        samples[_owner(stack)] += int(count)
    return [(owner, 100 * count / samples.total()) for owner, count in samples.most_common()]


def _owner(stack: str) -> str:
    # py-spy names files relative to site-packages.
    for frame in reversed(stack.split(";")):
        path = f"/{frame.rpartition('(')[2]}"
        for text, owner in OWNERS.items():
            if text in path:
                return owner
    return "the loop"


def cpu_seconds(process_id: int) -> float:
    """The CPU time that all threads of a process have used."""
    tasks = Path(f"/proc/{process_id}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _reading(path: str, *arguments: object) -> Callable[[Stage, Tables, Child, float], Load]:
    script = "products" if arguments else "report"
    return lambda stage, tables, server, seconds: wrk(f"{server.url}{path}", seconds, *arguments, script=script)


def _carts(prefix: str, suffix: str = "") -> Callable[[Stage, Tables, Child, float], Load]:
    def load(stage: Stage, tables: Tables, server: Child, seconds: float) -> Load:
        first = tables.add_carts(int(MAX_RATE * seconds))
        return wrk(server.url, seconds, first, prefix, suffix, script="carts")

    return load


def _webhooks(stage: Stage, tables: Tables, server: Child, seconds: float) -> Load:
    count = int(MAX_RATE * seconds)
    write_events(stage.folder / "events", tables.add_orders(count), count)
    return wrk(server.url, seconds, stage.folder / "events", script="webhooks")


@contextmanager
def _with_stripe(stage: Stage, url: str) -> Iterator[Child]:
    with stage.shop(url, worker=False) as shop:
        yield shop.api


LOADS = {
    "bare": (lambda stage, url: stage.bare(), _reading("/")),
    "hello": (Stage.references, _reading("/hello")),
    "list": (Stage.api, _reading("/products")),
    "product": (Stage.api, _reading("", "/products/", 1000, 1)),
    "page": (Stage.api, _reading("/products?after_id=1")),
    "statement": (Stage.references, _carts("/reserve/")),
    "reserve": (Stage.reserving, _carts("/bench/reserve/")),
    "checkout": (_with_stripe, _carts("/carts/", "/checkout")),
    "webhook": (Stage.api, _webhooks),
}


if __name__ == "__main__":
    main()
