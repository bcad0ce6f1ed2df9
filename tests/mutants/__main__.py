"""`python -m tests.mutants [NAME …]`: remove each guard of money and stock once; a test has to fail each time.

Names select the mutants that begin with them. The mutants are copies of the tree. Two run at the same time, each with
its own PostgreSQL and Valkey, as every run recreates the template database and empties Redis. The exit status is 1 when
a mutant survives, when a text to replace is not in its file exactly once, or when a mutant is invalid: if the server or
Python refuses it, its failure says nothing about the tests.
"""

import asyncio
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory

from service.dev.servers import postgres, scratch_folder, valkey
from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("service", "sql", "migrations", "tests", "pyproject.toml")
PARALLEL_RUNS = 2
MUTANT_SECONDS = 60
ALL_SECONDS = 600

# pytest's exit status when all tests passed, and when one failed; any other run is invalid.
PASSED, FAILED = 0, 1
# In pytest's summary: the failed test without its message.
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one run."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Run:
    """The exit status of pytest, None where it ran out of time, its output and its duration."""

    status: int | None
    output: str
    seconds: float

    @property
    def failure(self) -> str:
        """The test that failed first."""
        match = FAILURE.search(self.output)
        return match[1] if match else "a test that the output does not name"


def copy(tree: Path, folder: Path) -> Path:
    """Copy what the tests need of a tree into a folder, with the compiled files, which saves a second a run."""
    for name in COPIED:
        if (tree / name).is_dir():
            shutil.copytree(tree / name, folder / name)
        else:
            shutil.copy(tree / name, folder / name)
    return folder


def environment(tree: Path) -> dict[str, str]:
    """An environment in which `service` is imported from this tree."""
    return {**os.environ, "PYTHONPATH": str(tree)}


async def run(tree: Path, servers: Servers, tests: Sequence[str], seconds: float) -> Run:
    """Run these tests in a tree until one fails."""
    urls = {"TEST_DATABASE_URL": servers.database_url, "TEST_REDIS_URL": servers.redis_url}
    command = (sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=short", "-p", "no:cacheprovider")
    start = time.monotonic()
    # The output goes to a file: a child of pytest may keep a pipe open after pytest has ended.
    with (tree / "output").open("w+b") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            *tests,
            cwd=tree,
            env=environment(tree) | urls,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        status = None
        try:
            async with asyncio.timeout(seconds):
                status = await process.wait()
        except TimeoutError:
            pass
        finally:
            # Its whole process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            await process.wait()
        output.seek(0)
        return Run(status, output.read().decode(errors="replace"), time.monotonic() - start)


def acceptance(mutant: Mutant) -> tuple[str, ...]:
    """The test that the server accepts a mutated statement with its header's parameters; it runs first."""
    if not mutant.file.startswith("sql/"):
        return ()
    name = mutant.file.removeprefix("sql/").removesuffix(".sql")
    return (f"tests/sql/test_statements.py::test_parameters_and_columns_are_as_the_header_and_the_row_say[{name}]",)


def judge(mutant: Mutant, result: Run) -> tuple[bool, str]:
    """Whether a mutant was caught, and by which test."""
    if result.status is None:
        return True, "caught by time-out"
    if result.status == PASSED:
        return False, "SURVIVED"
    if result.status != FAILED or "ERROR at setup of" in result.output or result.failure in acceptance(mutant):
        return False, f"INVALID: {result.failure}\n{result.output}"
    return True, f"caught by {result.failure}"


async def run_mutant(mutant: Mutant, tree: Path, servers: Servers) -> bool:
    """Run one mutant and print the result; whether it was caught."""
    with TemporaryDirectory() as folder:
        mutated = copy(tree, Path(folder))
        path = mutated / mutant.file
        path.write_text(path.read_text().replace(mutant.find, mutant.replacement))
        result = await run(mutated, servers, (*acceptance(mutant), *mutant.tests), MUTANT_SECONDS)
    caught, verdict = judge(mutant, result)
    print(f"{mutant.name}: {verdict} ({result.seconds:.1f} s)", flush=True)
    return caught


async def run_all(mutants: Sequence[Mutant], tree: Path, all_servers: Sequence[Servers]) -> bool:
    """Whether all tests pass without a mutant, and every mutant is caught."""
    counts = {mutant: (tree / mutant.file).read_text().count(mutant.find) for mutant in mutants}
    if unfit := [mutant for mutant, count in counts.items() if count != 1]:
        for mutant in unfit:
            print(f"{mutant.name}: its text is {counts[mutant]} times in {mutant.file}, not once")
        return False
    command = (sys.executable, "-c", "import service; print(service.__file__)")
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", env=environment(tree), stdout=asyncio.subprocess.PIPE
    )
    # An editable install must not take precedence over the copy.
    imported = (await process.communicate())[0].decode().strip()
    if not Path(imported).is_relative_to(tree):
        print(f"The tests would run {imported}, which is not the copy.")
        return False

    tests = sorted({test for mutant in mutants for test in (*acceptance(mutant), *mutant.tests)})
    shares = [(servers, share) for number, servers in enumerate(all_servers) if (share := tests[number::PARALLEL_RUNS])]
    for result in await asyncio.gather(*(run(tree, servers, share, ALL_SECONDS) for servers, share in shares)):
        if result.status != PASSED:
            print(f"Without a mutant, {result.failure} fails:\n{result.output}")
            return False
        print(f"without a mutant: {result.output.strip().splitlines()[-1]}", flush=True)

    remaining = iter(mutants)

    async def work(servers: Servers) -> list[bool]:
        return [await run_mutant(mutant, tree, servers) for mutant in remaining]

    caught = [each for results in await asyncio.gather(*map(work, all_servers)) for each in results]
    print(f"{len(caught)} mutants, {sum(caught)} caught, {len(caught) - sum(caught)} not")
    return all(caught)


def main(names: Sequence[str]) -> int:
    """Run the named mutants, or all; the exit status."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name.startswith(tuple(names))]
    if not chosen:
        print("There is no mutant of that name:", *(mutant.name for mutant in MUTANTS), sep="\n  ")
        return 1

    def start_servers(stack: ExitStack) -> Iterator[Servers]:
        for number in range(PARALLEL_RUNS):
            folder = stack.enter_context(scratch_folder())
            options = {"max_connections": "300"}
            yield Servers(
                stack.enter_context(postgres(folder / f"postgres{number}", durable=False, options=options)),
                stack.enter_context(valkey(folder / f"valkey{number}", durable=False)),
            )

    start = time.monotonic()
    with ExitStack() as stack:
        tree = copy(ROOT, Path(stack.enter_context(TemporaryDirectory())))
        all_caught = asyncio.run(run_all(chosen, tree, list(start_servers(stack))))
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if all_caught else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
