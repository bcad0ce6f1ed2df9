"""Whether the tests would notice: each guard of money and stock is taken away once, and some test has to fail.

`python -m tests.mutants [NAME …]` tries the mutants whose names begin with one of these, else all. Everything happens
in copies of the tree; two mutants run at a time, each lane with a PostgreSQL and a Valkey of its own, as every run
makes the template database anew and empties Redis. The exit status is 1 when a mutant survived, when a text to find
is not there exactly once, or when a mutant is none: one that the server or Python refuses says nothing of the tests.
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
PARTS = ("service", "sql", "migrations", "tests", "pyproject.toml")
LANES = 2
MUTANT_SECONDS = 60
ALL_SECONDS = 600

# What pytest answers when a test failed, and when all passed; anything else is a run that was none.
PASSED, FAILED = 0, 1
# Of its summary: the test that failed, without what it said.
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Lane:
    """The servers of one run at a time."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Run:
    """What pytest answered, None where it was stopped for its time, and what it said."""

    status: int | None
    output: str
    seconds: float

    @property
    def failure(self) -> str:
        """The test that failed first."""
        found = FAILURE.search(self.output)
        return found[1] if found else "no test that it names"


def copy(tree: Path, folder: Path) -> Path:
    """Copy what the tests need of a tree into a folder; what is compiled too, which saves each run a second."""
    for name in PARTS:
        if (tree / name).is_dir():
            shutil.copytree(tree / name, folder / name)
        else:
            shutil.copy(tree / name, folder / name)
    return folder


def environment(tree: Path) -> dict[str, str]:
    """An environment in which `service` is this tree's."""
    return {**os.environ, "PYTHONPATH": str(tree)}


async def run(tree: Path, lane: Lane, tests: Sequence[str], seconds: float) -> Run:
    """Run these tests in a tree, to the first that fails."""
    servers = {"TEST_DATABASE_URL": lane.database_url, "TEST_REDIS_URL": lane.redis_url}
    command = (sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=short", "-p", "no:cacheprovider")
    start = time.monotonic()
    # Its output goes to a file: what it starts itself may hold a pipe open for longer than it lives.
    with (tree / "output").open("w+b") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            *tests,
            cwd=tree,
            env=environment(tree) | servers,
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
            # With all that it started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            await process.wait()
        output.seek(0)
        return Run(status, output.read().decode(errors="replace"), time.monotonic() - start)


def acceptance(mutant: Mutant) -> tuple[str, ...]:
    """The test that the server accepts a mutated statement as its header has it; it comes first."""
    if not mutant.file.startswith("sql/"):
        return ()
    name = mutant.file.removeprefix("sql/").removesuffix(".sql")
    return (f"tests/sql/test_statements.py::test_parameters_and_columns_are_as_the_header_and_the_row_say[{name}]",)


def judge(mutant: Mutant, result: Run) -> tuple[bool, str]:
    """Whether a mutant was caught, and by what."""
    if result.status is None:
        return True, "caught by time-out"
    if result.status == PASSED:
        return False, "SURVIVED"
    if result.status != FAILED or "ERROR at setup of" in result.output or result.failure in acceptance(mutant):
        return False, f"NO MUTANT: {result.failure}\n{result.output}"
    return True, f"caught by {result.failure}"


async def attempt(mutant: Mutant, tree: Path, lane: Lane) -> bool:
    """Run one mutant and say what became of it; whether it was caught."""
    with TemporaryDirectory() as folder:
        mutated = copy(tree, Path(folder))
        path = mutated / mutant.file
        path.write_text(path.read_text().replace(mutant.find, mutant.replacement))
        result = await run(mutated, lane, (*acceptance(mutant), *mutant.tests), MUTANT_SECONDS)
    caught, how = judge(mutant, result)
    print(f"{mutant.name}: {how} ({result.seconds:.1f} s)", flush=True)
    return caught


async def try_all(mutants: Sequence[Mutant], tree: Path, lanes: Sequence[Lane]) -> bool:
    """Whether all tests pass without a mutant, and every mutant is caught."""
    found = {mutant: (tree / mutant.file).read_text().count(mutant.find) for mutant in mutants}
    if lost := [mutant for mutant, count in found.items() if count != 1]:
        for mutant in lost:
            print(f"{mutant.name}: its text is {found[mutant]} times in {mutant.file}, not once")
        return False
    command = (sys.executable, "-c", "import service; print(service.__file__)")
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", env=environment(tree), stdout=asyncio.subprocess.PIPE
    )
    # An editable install must not win.
    home = (await process.communicate())[0].decode().strip()
    if not Path(home).is_relative_to(tree):
        print(f"The tests would run {home}, which is not the copy.")
        return False

    tests = sorted({test for mutant in mutants for test in (*acceptance(mutant), *mutant.tests)})
    shares = [(lane, share) for number, lane in enumerate(lanes) if (share := tests[number::LANES])]
    for result in await asyncio.gather(*(run(tree, lane, share, ALL_SECONDS) for lane, share in shares)):
        if result.status != PASSED:
            print(f"Without any mutant there fails {result.failure}:\n{result.output}")
            return False
        print(f"without a mutant: {result.output.strip().splitlines()[-1]}", flush=True)

    left = iter(mutants)

    async def work(lane: Lane) -> list[bool]:
        return [await attempt(mutant, tree, lane) for mutant in left]

    caught = [each for lane in await asyncio.gather(*map(work, lanes)) for each in lane]
    print(f"{len(caught)} mutants, {sum(caught)} caught, {len(caught) - sum(caught)} not")
    return all(caught)


def main(names: Sequence[str]) -> int:
    """The exit status of trying the mutants that are named, or all."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name.startswith(tuple(names))]
    if not chosen:
        print("There is no mutant of that name:", *(mutant.name for mutant in MUTANTS), sep="\n  ")
        return 1

    def servers(stack: ExitStack) -> Iterator[Lane]:
        for number in range(LANES):
            folder = stack.enter_context(scratch_folder())
            options = {"max_connections": "300"}
            yield Lane(
                stack.enter_context(postgres(folder / f"postgres{number}", durable=False, options=options)),
                stack.enter_context(valkey(folder / f"valkey{number}", durable=False)),
            )

    start = time.monotonic()
    with ExitStack() as stack:
        tree = copy(ROOT, Path(stack.enter_context(TemporaryDirectory())))
        good = asyncio.run(try_all(chosen, tree, list(servers(stack))))
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
