"""The command line: `python -m service COMMAND`, each with `--help`, all with the same settings."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import psycopg

from service.errors import ShopError
from service.infra.db import open_pool
from service.settings import Settings, UnsafeSettings, environment


def _serve(options: argparse.Namespace) -> int:
    import uvicorn

    settings = Settings.load()
    settings.refuse_unsafe()
    # uvicorn raises the signal that stopped it again once all is finished: that is a success, and cleans up here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        if options.workers > 1 and settings.metrics_port:
            # Before the first import of the metrics: it is how the processes put their numbers together. A kill -9
            # would leave it behind, and so one process alone has none.
            folder = tempfile.TemporaryDirectory(prefix="commerce-metrics-")
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(folder)
        from service.http.server.protocol import UVICORN
        from service.infra import metrics

        # By this process, which is the parent of several.
        stack.enter_context(metrics.serving(settings))
        uvicorn.run(
            "service.app:create_process_app",
            factory=True,
            host=options.host,
            port=options.port,
            workers=options.workers,
            loop="uvloop",
            **UVICORN,
            # Longer than clients and proxies keep idle connections, so that they close them, not we.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
        )
    return 0


def _worker(options: argparse.Namespace) -> int:
    import uvloop

    from service import worker

    uvloop.run(worker.run(Settings.load()))
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from service.infra.migrations import migrate, undo

    settings = Settings.load()
    url = settings.migrate_database_url or settings.database_url
    if options.undo:
        print("\n".join(asyncio.run(undo(url))) or "nothing to take back")
    else:
        print("\n".join(asyncio.run(migrate(url))) or "nothing to apply")
    return 0


def _seed(options: argparse.Namespace) -> int:
    from service.dev.seed import seed

    async def load() -> int:
        async with open_pool(Settings.load(), "commerce-seed") as pool:
            return await seed(pool, options.products)

    print(f"{asyncio.run(load())} products loaded")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from service.shop.audit import Violation, audit

    async def look() -> dict[str, list[Violation]]:
        # It reads the tables whole, which nobody waits for.
        async with open_pool(Settings.load(), "commerce-audit", statement_seconds=300, read_only=True) as pool:
            return await audit(pool)

    found = asyncio.run(look())
    for rule, violations in found.items():
        print(f"{rule}: {len(violations) or 'ok'}")
        for violation in violations:
            print(f"  {violation.subject}: {violation.detail}")
    return 1 if any(found.values()) else 0


def _review(options: argparse.Namespace) -> int:
    from service.infra.review import review

    for statement in review(options.since):
        print(statement)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from service.infra.resources import open_resources
    from service.infra.stripe import StripeUnknown
    from service.shop import payment_session, webhooks

    async def replay() -> str:
        async with open_resources(Settings.load(), "commerce-replay") as resources:
            return await webhooks.replay_event(resources, options.event_id)

    try:
        print(asyncio.run(replay()))
    except StripeUnknown as error:
        raise payment_session.payment_unavailable(error) from error
    return 0


def _run(options: argparse.Namespace) -> int:
    from service.dev.run import run

    return run(options.host, options.port)


def _standin(options: argparse.Namespace) -> int:
    from service.dev.stripe_standin import serve
    from service.shop.webhooks import EVENT_TYPES

    serve(
        options.host,
        options.port,
        webhook_url=options.webhook_url,
        webhook_secret=environment().get("STRIPE_WEBHOOK_SECRET", "whsec_standin"),
        webhook_events=options.events or EVENT_TYPES,
        public_url=options.public_url,
        database=options.data,
    )
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("is at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description="Commerce core.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: object, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(does=does)
        return found

    serve = command("serve", _serve, "Serve the API.")
    serve.add_argument("--workers", type=_positive, default=1, help="processes that share the port (default 1)")
    run = command("run", _run, "Run everything, with what the settings do not name embedded.")
    for listening in (serve, run):
        listening.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        listening.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    command("worker", _worker, "Run the jobs and the repairers.")
    migrate = command("migrate", _migrate, "Bring the database's schema up to date.")
    migrate.add_argument("--undo", action="store_true", help="take the newest migration back instead, with its data")
    seed = command("seed", _seed, "Load demo products into an empty catalogue.")
    seed.add_argument("--products", type=_positive, default=300, metavar="N", help="how many (default 300)")
    command("audit", _audit, "Check what must always hold; exit status 1 when something does not.")
    review = command("review", _review, "Print every SQL statement as psql PREPARE.")
    review.add_argument("--since", metavar="REV", help="only those that changed since this git revision")
    replay = command("replay", _replay, "Apply a Stripe event again, fetched from Stripe when it never came.")
    replay.add_argument("event_id", metavar="EVENT_ID")
    standin = command("standin", _standin, "Run the Stripe stand-in, which moves no money.")
    standin.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    standin.add_argument("--port", type=int, default=12111, help="port to listen on (default 12111)")
    standin.add_argument("--webhook-url", default=None, help="where its events go")
    standin.add_argument("--events", nargs="+", help="which of them (default: those that the service looks at)")
    standin.add_argument("--public-url", default=None, help="how browsers reach it (default: as it was called)")
    standin.add_argument("--data", type=Path, default=None, help="SQLite file that keeps its state")
    return parser


def _line(error: BaseException) -> str:
    """What went wrong in a line, with its cause."""
    line = str(error).partition("\n")[0]
    return f"{line} ({type(error.__cause__).__name__}: {_line(error.__cause__)})" if error.__cause__ else line


def main() -> int:
    """Run the command that the arguments name; its exit status."""
    options = _parser().parse_args()
    # A command says in its last line why it failed. `serve` and `worker` set up their own logs.
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        status: int = options.does(options)
    except UnsafeSettings as error:
        print(f"Refusing to start: {error}", file=sys.stderr)
        return 2
    except (ShopError, asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError) as error:
        # Not 1, by which an audit says that something is wrong in the tables.
        print(_line(error), file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
