"""`python -m tests.bench [NAME …]`: everything measured on servers of its own, beside what it is compared with.

Prints each figure as the median of its rounds, with range and ratio, and keeps it in results.json beside a picture;
parts that are not named keep the results they have. Nothing is refused for being slow.
"""

import argparse
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import psycopg
import redis

from service.dev.processes import CannotRun
from service.dev.servers import scratch_folder
from tests.bench import machine
from tests.bench.drivers import wrk_command
from tests.bench.figures import document, measured, rows, table, verdict
from tests.bench.parts import PARTS, Part
from tests.bench.picture import picture
from tests.bench.stage import POSTGRES, Stage

FOLDER = Path(__file__).parent
DOCUMENT = machine.ROOT / "docs" / "performance.md"


def main() -> int:
    """The exit status: 0 when everything asked for was measured, whatever it came to."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    names = [part.name for part in PARTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parts to measure (default all): {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3, the least)")
    parser.add_argument("--seconds", type=float, default=4, help="how long each time (default 4)")
    parser.add_argument("--orders", type=int, default=1_000_000, help="rows of the large tables (default a million)")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="where results.json and .svg go")
    parser.add_argument("--document", action="store_true", help="only write the results into docs/performance.md")
    options = parser.parse_args()
    kept = options.results / "results.json"
    results: dict[str, Any] = orjson.loads(kept.read_bytes()) if kept.exists() else {"parts": {}}
    if options.document:
        DOCUMENT.write_text(document(DOCUMENT.read_text(), results))
        return 0
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    failed = []
    try:
        wrk_command()
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            stage = Stage(stack, folder, options.rounds, options.seconds, options.orders)
            stage.open()
            results["machine"] = {**machine.describe(), **_servers(stage)}
            for part in PARTS:
                if options.names and part.name not in options.names:
                    continue
                try:
                    results["parts"][part.name] = _measure(part, stage)
                except Exception:
                    # The others can still be measured; this one keeps what it had.
                    traceback.print_exc()
                    failed.append(part.name)
                    continue
                results["parts"] = {name: results["parts"][name] for name in names if name in results["parts"]}
                kept.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
                (options.results / "results.svg").write_text(picture(results))
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{table(results)}")
    if failed:
        print(f"Not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _measure(part: Part, stage: Stage) -> dict[str, Any]:
    """One part, printed as it is kept."""
    busy: dict[str, Any] = {}
    with machine.watched(busy):
        found = part.measure(stage)
    print(
        f"\n{part.name}: {part.title} ({busy['wall_seconds']:.0f} s; before it load {busy['load_before']} and "
        f"{busy['idle_before']} % idle, during it {busy['idle_during']} % idle)"
    )
    figures = rows(found.figures)
    width = max(len(row["name"]) for row in figures)
    for row in figures:
        print(f"  {row['name']:<{width}}  {measured(row)}")
        if "goal" in row:
            print(f"  {'':<{width}}  goal {row['goal']['words']}: {verdict(row)}")
    for name, detail in found.details.items():
        print(f"  {name}: {detail}")
    return {
        "title": part.title,
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": stage.rounds,
        "seconds": stage.seconds,
        **busy,
        "figures": figures,
        **({"details": found.details} if found.details else {}),
    }


def _servers(stage: Stage) -> dict[str, Any]:
    """What the servers are, and how PostgreSQL is set."""
    with psycopg.connect(stage.database_url) as connection, redis.Redis.from_url(stage.redis_url) as client:
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", *POSTGRES)
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
        version = connection.execute("SHOW server_version").fetchone()
        return {
            "postgresql": version[0] if version else "",
            "valkey": client.info("server")["valkey_version"],
            "postgresql_settings": {name: row[0] for name, row in shown.items() if row},
        }


if __name__ == "__main__":
    sys.exit(main())
