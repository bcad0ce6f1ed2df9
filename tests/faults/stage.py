"""The service and its servers as separate processes, which can be killed, frozen and restarted by name."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import TypeVar

import aiohttp

from service.dev import servers
from service.dev.processes import spawn, stop
from service.dev.servers import free_port, scratch_folder
from service.infra.migrations import migrate
from service.infra.resources import Resources, open_resources
from service.settings import Settings
from tests.conftest import WEBHOOK_SECRET
from tests.faults.pair import Pair
from tests.faults.processes import family

T = TypeVar("T")

SERVERS = ("postgres", "valkey")
# Short times, so that every repair happens within a scenario; no limits for the many clients at one address.
SETTINGS = {
    "STRIPE_API_KEY": "sk_test_faults",
    "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
    "STRIPE_TIMEOUT_SECONDS": "1",
    "HOLD_SECONDS": "30",
    "SWEEP_SECONDS": "1",
    "RECONCILE_SECONDS": "5",
    "RATE_LIMIT_PER_MINUTE": "0",
    "MAX_PENDING_PER_CLIENT": "0",
    # A flood adds to the same lines again and again.
    "MAX_PER_ORDER": "9999",
    "LOG_LEVEL": "WARNING",
}


class Stage:
    """PostgreSQL (durable), Valkey, the Stripe stand-in, API and worker, each on a fixed port.

    With `replicated`, PostgreSQL is `pair`: a primary and its standby, both named in the service's URL.
    """

    def __init__(self, folder: Path, *, replicated: bool = False) -> None:
        self.folder, self._replicated = folder, replicated
        self.ports = {name: free_port() for name in (*SERVERS, "valkey2", "standin", "api", "api2", "metrics")}
        self.api = f"http://127.0.0.1:{self.ports['api']}"
        self.standin = f"http://127.0.0.1:{self.ports['standin']}"
        self.settings = SETTINGS | {"STRIPE_API_BASE": self.standin}
        self._running: dict[str, ExitStack] = {}
        self.pids: dict[str, int] = {}
        self._killed: dict[str, list[int]] = {}
        self._starts = self._errors_read = 0
        # Linux ends a child with the thread that forked it, so one thread forks all and lives as long as they do.
        self._thread = ThreadPoolExecutor(1)

    async def start(self) -> None:
        """Start everything, on an empty database."""
        for name in SERVERS:
            await self.in_thread(self._start, name)
        await migrate(self.database_url)
        if self._replicated:
            await self.in_thread(self.pair.copy)
        for name in ("standin", "api", "worker"):
            await self.in_thread(self._start, name)
        async with aiohttp.ClientSession() as client:
            deadline = time.monotonic() + 60
            while not await self._ready(client):
                assert time.monotonic() < deadline, f"the service does not start: see {self.folder}"
                await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Stop everything, the service first."""
        for name in reversed(list(self._running)):
            # The servers of a pair are never frozen.
            if name in self.pids:
                self.thaw(name)
            await self.in_thread(self._running.pop(name).close)
        self._thread.shutdown()

    def signal(self, name: str, number: Signals) -> None:
        """Send a signal to a process, not to its children."""
        self._killed[name] = family(self.pids[name])
        with suppress(ProcessLookupError):
            os.kill(self.pids[name], number)

    async def revive(self, name: str) -> None:
        """Start a killed process again, as a supervisor would."""
        await self.in_thread(self._revive, name)

    async def start_another(self, name: str) -> None:
        """Start one more process, `api2`, `worker2` or `valkey2`, which runs until `stop` or the end."""
        await self.in_thread(self._start, name)

    async def stop(self, name: str) -> None:
        """Stop a process that `start_another` started."""
        await self.in_thread(self._running.pop(name).close)

    async def restart(self, name: str, **settings: str) -> None:
        """Kill a process and start it again, with some settings changed."""
        self.settings |= settings
        self.signal(name, SIGKILL)
        await self.revive(name)

    def freeze(self, name: str) -> None:
        """Stop a process and its children with SIGSTOP."""
        for pid in family(self.pids[name]):
            os.kill(pid, SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        for pid in family(self.pids[name]):
            with suppress(ProcessLookupError):
                os.kill(pid, SIGCONT)

    def new_errors(self) -> list[str]:
        """The errors that API and worker have logged since the last call."""
        lines = [
            line
            for log in sorted(self.folder.glob("*.log"))
            if not log.name.startswith("standin")
            for line in log.read_text().splitlines()
            if '"level":"ERROR"' in line
        ]
        new, self._errors_read = lines[self._errors_read :], len(lines)
        return new

    @asynccontextmanager
    async def resources(self) -> AsyncIterator[Resources]:
        """The resources of a service process, connected to PostgreSQL without a proxy."""
        settings = Settings.load(self.settings | {"DATABASE_URL": self.database_url})
        async with open_resources(settings, "commerce-faults") as resources:
            yield resources

    async def _ready(self, client: aiohttp.ClientSession) -> bool:
        try:
            async with client.get(f"{self.api}/health/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what starts processes, or waits for them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _start(self, name: str) -> None:
        stack = self._running[name] = ExitStack()
        if name == "postgres" and self._replicated:
            self.pair = Pair(self.folder / "pair")
            stack.callback(self.pair.end)
            self.database_url = self.settings["DATABASE_URL"] = self.pair.hosts()
            return
        if name in (*SERVERS, "valkey2"):
            folder, port = self.folder / name, self.ports[name]
            if name == "postgres":
                self.database_url = stack.enter_context(servers.postgres(folder, port=port))
                self.settings.setdefault("DATABASE_URL", self.database_url)
            else:
                url = stack.enter_context(servers.valkey(folder, port=port, durable=False))
                self.settings.setdefault("REDIS_URL", url)
            self.pids[name] = int((folder / "pid").read_text())
            return
        self._starts += 1
        events = ("--webhook-url", f"{self.api}/webhooks/stripe", "--data", self.folder / "stripe.sqlite3")
        command = {
            "standin": ("standin", "--port", self.ports["standin"], *events),
            "api": ("serve", "--port", self.ports["api"]),
            "api2": ("serve", "--port", self.ports["api2"]),
            "worker": ("worker",),
            "worker2": ("worker",),
        }[name]
        environ = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        process: subprocess.Popen[bytes] = spawn(
            [sys.executable, "-m", "service", *command],
            self.folder / f"{name}.{self._starts:04}.log",
            folder=self.folder,
            # Only for the API: the worker would open the same port.
            environ=environ | self.settings | ({"METRICS_PORT": str(self.ports["metrics"])} if name == "api" else {}),
        )
        self.pids[name] = process.pid
        stack.callback(stop, process)

    def _revive(self, name: str) -> None:
        self._running.pop(name).close()
        # PostgreSQL does not start while children of the killed one run.
        while any(Path(f"/proc/{pid}").exists() for pid in self._killed[name]):
            time.sleep(0.01)
        self._start(name)


@asynccontextmanager
async def staged(*, replicated: bool = False) -> AsyncIterator[Stage]:
    """A started stage, until the block ends."""
    # Each client has a connection, which is a file at both ends.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with scratch_folder() as folder:
        stage = Stage(folder, replicated=replicated)
        try:
            await stage.start()
            yield stage
        finally:
            await stage.end()
