"""`python -m tests.bench [NAME …]`: measure everything, or these benchmarks, on its own servers beside references.

Prints each figure as the median of its rounds, with range and ratio, and stores it in results.json with a picture.
Benchmarks that are not named keep their stored results. A slow figure is no error.
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
from tests.bench.benchmarks import BENCHMARKS, Benchmark
from tests.bench.drivers import wrk_command
from tests.bench.figures import document, measured, rows, table, verdict
from tests.bench.picture import picture
from tests.bench.stage import POSTGRES, Stage

FOLDER = Path(__file__).parent
DOCUMENT = machine.ROOT / "docs" / "performance.md"


def main() -> int:
    """Run the command. The exit status is 0 when everything was measured, whatever the figures."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks (default all): {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each benchmark (default 3)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of each measurement (default 4)")
    parser.add_argument("--orders", type=int, default=1_000_000, help="rows of the large tables (default a million)")
    parser.add_argument(
        "--results", type=Path, default=FOLDER, metavar="FOLDER", help="folder of results.json and .svg"
    )
    parser.add_argument("--document", action="store_true", help="only write the results into docs/performance.md")
    options = parser.parse_args()
    stored = options.results / "results.json"
    results: dict[str, Any] = orjson.loads(stored.read_bytes()) if stored.exists() else {"benchmarks": {}}
    if options.document:
        DOCUMENT.write_text(document(DOCUMENT.read_text(), results))
        return 0
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no {', '.join(unknown)}; the benchmarks are {', '.join(names)}")
    failed = []
    try:
        wrk_command()
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            stage = Stage(stack, folder, options.rounds, options.seconds, options.orders)
            stage.open()
            results["machine"] = {**machine.describe(), **_servers(stage)}
            for benchmark in BENCHMARKS:
                if options.names and benchmark.name not in options.names:
                    continue
                try:
                    measured_now = _measure(benchmark, stage)
                except Exception:
                    # The others can still be measured; this one keeps its stored result.
                    traceback.print_exc()
                    failed.append(benchmark.name)
                    continue
                by_name = results["benchmarks"] | {benchmark.name: measured_now}
                results["benchmarks"] = {name: by_name[name] for name in names if name in by_name}
                stored.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
                (options.results / "results.svg").write_text(picture(results))
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{table(results)}")
    if failed:
        print(f"Not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _measure(benchmark: Benchmark, stage: Stage) -> dict[str, Any]:
    """Run one benchmark and print it; its entry in results.json."""
    usage: dict[str, Any] = {}
    with machine.recorded_usage(usage):
        result = benchmark.measure(stage)
    print(
        f"\n{benchmark.name}: {benchmark.title} ({usage['wall_seconds']:.0f} s;"
        f" before it load {usage['load_before']} and {usage['idle_before']} % idle,"
        f" during it {usage['idle_during']} % idle)"
    )
    figures = rows(result.figures)
    width = max(len(row["name"]) for row in figures)
    for row in figures:
        print(f"  {row['name']:<{width}}  {measured(row)}")
        if "goal" in row:
            print(f"  {'':<{width}}  goal {row['goal']['words']}: {verdict(row)}")
    for name, detail in result.details.items():
        print(f"  {name}: {detail}")
    return {
        "title": benchmark.title,
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": stage.rounds,
        "seconds": stage.seconds,
        **usage,
        "figures": figures,
        **({"details": result.details} if result.details else {}),
    }


def _servers(stage: Stage) -> dict[str, Any]:
    """The versions of the servers, and PostgreSQL's settings."""
    with psycopg.connect(stage.database_url) as connection, redis.Redis.from_url(stage.redis_url) as client:
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", *POSTGRES)
        settings = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
        version = connection.execute("SHOW server_version").fetchone()
        return {
            "postgresql": version[0] if version else "",
            "valkey": client.info("server")["valkey_version"],
            "postgresql_settings": {name: row[0] for name, row in settings.items() if row},
        }


if __name__ == "__main__":
    sys.exit(main())
