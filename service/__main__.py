"""The command line: `commerce-core COMMAND` or `python -m service COMMAND`, each with `--help`."""

import argparse
import asyncio
import getpass
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import psycopg

from service.dev import demo
from service.dev.processes import CannotRun
from service.errors import ShopError
from service.infra.db import Pool
from service.infra.logs import actor, cause
from service.settings import DAY, Settings, UnsafeSettings, environment
from service.shop.principals import ROLES, SCOPES

if TYPE_CHECKING:
    from service.shop.erasure import Erasure

# How the user started it: the installed command, or the module in a checkout.
PROGRAM = "python -m service" if Path(sys.argv[0]).name == "__main__.py" else "commerce-core"


def _serve(options: argparse.Namespace) -> int:
    import uvicorn

    from service.http.server.connections import raise_file_limit

    settings = Settings.load()
    settings.refuse_unsafe()
    settings.refuse_open_staff(options.host)
    _refuse_unknown_language(settings)
    # uvicorn stops on SIGTERM, then raises it again. Exit with status 0 instead, after the clean-up below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The workers inherit it.
    raise_file_limit()
    with ExitStack() as stack:
        if options.workers > 1 and settings.metrics_port:
            # The processes share their metrics through this folder, and read its name when they import the metrics.
            # A single process needs no folder, which kill -9 would leave on the disk.
            folder = tempfile.TemporaryDirectory(prefix="commerce-metrics-")
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(folder)
        from service.http.server.protocol import UVICORN
        from service.infra import metrics
        from service.shop.access import MetricsReaders

        # Served by this process, the parent of all workers.
        stack.enter_context(metrics.serving(settings, MetricsReaders(settings)))
        try:
            uvicorn.run(
                "service.app:create_process_app",
                factory=True,
                host=options.host,
                port=options.port,
                workers=options.workers,
                loop="uvloop",
                **UVICORN,
                # Longer than clients and proxies keep idle connections, so that they close first: if we did, a request
                # could arrive meanwhile and be lost.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=10,
            )
        except SystemExit as ended:
            # 0 after SIGTERM. Otherwise uvicorn has logged why it cannot listen; its own status would be 1 or 3.
            return 2 if ended.code else 0
    return 0


def _worker(options: argparse.Namespace) -> int:
    import uvloop

    from service import worker

    settings = Settings.load()
    settings.refuse_unsafe()
    _refuse_unknown_language(settings)
    uvloop.run(worker.run(settings))
    return 0


def _refuse_unknown_language(settings: Settings) -> None:
    from service.shop.search import check_language

    async def check() -> None:
        async with aclosing(Pool(settings, "commerce-start")) as pool:
            await check_language(pool, settings.search_language)

    asyncio.run(check())


def _index(options: argparse.Namespace) -> int:
    from service.shop.search import index_stale

    def show(indexed: int) -> None:
        if indexed % 10_000 == 0:
            print(f"{indexed} products so far", file=sys.stderr)

    async def run() -> int:
        settings = Settings.load()
        async with aclosing(Pool(settings, "commerce-index")) as pool:
            return await index_stale(pool, settings.search_language, show)

    print(f"{asyncio.run(run())} products indexed")
    return 0


def _migrate(options: argparse.Namespace) -> int:
    from service.infra.migrations import migrate, undo

    settings = Settings.load()
    url = settings.migrate_database_url or settings.database_url
    if options.undo:
        print("\n".join(asyncio.run(undo(url))) or "nothing to undo")
    else:
        print("\n".join(asyncio.run(migrate(url))) or "nothing to apply")
    return 0


def _seed(options: argparse.Namespace) -> int:
    from service.dev.seed import seed

    def show(loaded: int) -> None:
        if loaded % 50_000 == 0:
            print(f"{loaded} products so far", file=sys.stderr)

    async def load() -> int:
        settings = Settings.load()
        async with aclosing(Pool(settings, "commerce-seed")) as pool:
            return await seed(pool, options.products, settings, show)

    print(f"{asyncio.run(load())} products loaded")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from service.infra.claims import LEASE_SECONDS, claimed
    from service.infra.stripe import Stripe
    from service.shop import audit

    async def check() -> audit.Report:
        settings = Settings.load()
        if options.full:
            settings.refuse_unsafe_calls()
        # Read-only too: a standby can be audited, as commerce_readonly.
        async with aclosing(Pool(settings, "commerce-audit", read_only=True)) as pool:
            if options.read_only:
                return audit.Report(await audit.audit(pool))
            async with claimed(pool, "audit", wait_seconds=2 * LEASE_SECONDS) as is_ours:
                if not is_ours:
                    raise ShopError("busy", "Another process is auditing.")
                if not options.full:
                    return await audit.check_changes(pool)
                stripe = Stripe(settings)
                try:
                    return await audit.check_all(pool, stripe)
                finally:
                    await stripe.close()

    report = asyncio.run(check())
    for rule, violations in report.violations.items():
        print(f"{rule}: {report.failures.get(rule) or len(violations) or 'ok'}")
        for violation in violations:
            print(f"  {violation.subject}: {violation.detail}")
    # A violation comes first: who reads it has to act.
    return 1 if any(report.violations.values()) else 2 if report.failures else 0


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error for the steps of a command, or none if that is no terminal: step, done, total."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("")
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)


def _import(options: argparse.Namespace) -> int:
    from service.infra.resources import open_resources
    from service.shop.imports import MOST_PROBLEMS, Outcome, import_products
    from service.shop.product_csv import InvalidHeader, Problem

    problems: list[Problem] = []

    async def run() -> Outcome:
        name = options.file.name.encode(errors="replace").decode()
        with options.file.open("rb") as file, _progress() as show:
            async with open_resources(settings, "commerce-import") as resources:
                return await import_products(
                    resources, file, name, dry_run=options.dry_run, problems=problems, show=show
                )

    settings = Settings.load()
    _refuse_unknown_language(settings)
    try:
        outcome = asyncio.run(run())
    except InvalidHeader as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on after the last batch.", file=sys.stderr)
        return 130
    finally:
        # Those of a run that was stopped too.
        for problem in problems[:MOST_PROBLEMS]:
            print(problem, file=sys.stderr)
        if len(problems) > MOST_PROBLEMS:
            print(f"The first {MOST_PROBLEMS} problems are shown.", file=sys.stderr)
    if outcome.refused:
        print("Nothing was imported.", file=sys.stderr)
        return 1
    if options.dry_run:
        print("no line is refused; nothing was imported")
        return 0
    if outcome.resumed_after:
        print(f"went on after line {outcome.resumed_after}, where an earlier run of this file was stopped")
    print(
        f"{outcome.lines} lines: {outcome.added} products added, {outcome.changed} changed,"
        f" {outcome.moved} stocks moved, {outcome.skipped} lines skipped"
    )
    return 1 if outcome.skipped else 0


def _export(options: argparse.Namespace) -> int:
    from service.shop.exports import Export, export_products

    if options.file.is_file():
        print(f"{options.file} exists already.", file=sys.stderr)
        return 2
    # Beside its place, so that a run that was killed leaves no file that looks whole.
    is_new = not options.file.exists()
    target = options.file.with_name(f"{options.file.name}.part") if is_new else options.file

    async def run() -> Export:
        with target.open("w", encoding="utf-8", newline="") as file:
            async with aclosing(Pool(Settings.load(), "commerce-export", read_only=True)) as pool:
                return await export_products(pool, file)

    try:
        export = asyncio.run(run())
        if is_new:
            target.rename(options.file)
    finally:
        if is_new:
            target.unlink(missing_ok=True)
    print(f"{export.written} products written", file=sys.stderr)
    if export.without_sku:
        print(f"{export.without_sku} products have no sku and were left out", file=sys.stderr)
    return 0


def _erase(options: argparse.Namespace) -> int:
    from service.shop.erasure import Pending, erase

    async def run() -> "Erasure":
        settings = Settings.load()
        async with aclosing(Pool(settings, "commerce-erase", statement_seconds=60)) as pool:
            return await erase(pool, options.subject, dry_run=options.dry_run)

    try:
        erasure = asyncio.run(run())
    except Pending as pending:
        print(f"Order {pending} awaits its payment: cancel it, or wait until its hold has ended.", file=sys.stderr)
        return 2
    if not erasure.order_ids and not any(erasure.rows.values()):
        print("Nothing found: there is no such order.", file=sys.stderr)
        return 1
    print("would erase" if options.dry_run else "erased")
    for order_id in erasure.order_ids:
        print(f"  order {order_id}")
    for what, count in erasure.rows.items():
        print(f"  {what}: {count}")
    return 0


def _key(options: argparse.Namespace) -> int:
    from service.shop import access

    settings = Settings.load()
    # Of the owner: the roles of the service cannot add or revoke keys.
    settings = settings.model_copy(update={"database_url": settings.migrate_database_url or settings.database_url})
    cause.set("command key")
    actor.set("command:key")

    async def run() -> str:
        async with aclosing(Pool(settings, "commerce-key")) as pool:
            if options.action == "add":
                return await access.add_key(
                    pool, name=options.name, scopes=options.scopes, days=options.days, created_by=getpass.getuser()
                )
            if options.action == "revoke":
                await access.revoke_key(pool, options.name)
                return f"revoked: every process refuses {options.name} within a minute"
            return "\n".join(map(access.line, await access.list_keys(pool))) or "no keys"

    print(asyncio.run(run()))
    if options.action == "add":
        print("This is shown only now: it is not stored.", file=sys.stderr)
    return 0


def _review(options: argparse.Namespace) -> int:
    from service.infra.review import review

    for statement in review(options.since):
        print(statement)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from service.infra.resources import open_resources
    from service.infra.stripe import StripeUnknown
    from service.shop import payment_session, webhooks

    settings = Settings.load()
    settings.refuse_unsafe_calls()

    async def replay() -> str:
        async with open_resources(settings, "commerce-replay") as resources:
            return await webhooks.replay_event(resources, options.event_id)

    try:
        print(asyncio.run(replay()))
    except StripeUnknown as error:
        raise payment_session.payment_unavailable(error) from error
    return 0


def _stripe_check(options: argparse.Namespace) -> int:
    from service.infra.stripe import Stripe
    from service.shop import stripe_check

    settings = Settings.load()
    settings.refuse_unsafe_calls()

    async def check() -> stripe_check.Report:
        stripe = Stripe(settings)
        try:
            return await stripe_check.check(stripe, settings)
        finally:
            await stripe.close()

    report = asyncio.run(check())
    print("\n".join(stripe_check.lines(report)))
    return 1 if report.missing else 2 if report.unknown else 0


def _run(options: argparse.Namespace) -> int:
    from service.dev.run import run

    return run(options.host, options.port)


def _standin(options: argparse.Namespace) -> int:
    from service.dev.stripe_standin.__main__ import main
    from service.shop.webhooks import EVENT_TYPES

    main(
        options.arguments,
        program=f"{PROGRAM} standin",
        webhook_secret=environment().get("STRIPE_WEBHOOK_SECRET"),
        webhook_events=EVENT_TYPES,
    )
    return 0


def _issuer(options: argparse.Namespace) -> int:
    from service.dev.issuer.server import serve
    from service.dev.issuer.tokens import refuse_live_key
    from service.dev.servers import data_folder

    refuse_live_key(environment())
    serve(data_folder(Path.cwd()))
    return 0


def _token(options: argparse.Namespace) -> int:
    from service.dev.issuer.tokens import User, refuse_live_key, stored_issuer
    from service.dev.servers import data_folder

    refuse_live_key(environment())
    user = User(options.sub, tuple(options.role), options.email)
    print(stored_issuer(data_folder(Path.cwd())).access_token(user, "command-line", options.seconds))
    return 0


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    """A type of option: a whole number within these bounds."""

    def parse(text: str) -> int:
        # Not int(), which also takes underscores, spaces and the digits of other scripts.
        if re.fullmatch("[0-9]{1,9}", text) and lowest <= int(text) <= highest:
            return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} to {highest}")

    return parse


def _subject(text: str) -> str | int | UUID:
    """An e-mail address, an order's number or an order's id."""
    try:
        if "@" in text.encode().decode():
            return text
        return int(text) if text.isascii() and text.isdigit() and int(text) < 2**63 else UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be an order's id or number, or an e-mail address") from None


def _scopes(text: str) -> list[str]:
    """Scopes with commas between."""
    scopes = sorted({scope.strip() for scope in text.split(",")})
    if not set(scopes) <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"must be a list of these: {','.join(SCOPES)}")
    return scopes


def _key_name(text: str) -> str:
    """The name of a key, as histories show it."""
    if re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", text):
        return text
    raise argparse.ArgumentTypeError("must be 1 to 64 small letters, digits, dots, dashes or underscores")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Commerce core.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, add_help: bool = True
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text, add_help=add_help)
        parser.set_defaults(run=run)
        return parser

    serve = command("serve", _serve, "Serve the API.")
    serve.add_argument("--workers", type=_number(1, 256), default=1, help="processes that share the port (default 1)")
    run = command("run", _run, "Run everything; servers that the settings do not name are embedded.")
    for listening in (serve, run):
        listening.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        listening.add_argument("--port", type=_number(1, 65_535), default=8080, help="port to listen on (default 8080)")
    command("worker", _worker, "Run the jobs and the periodic tasks.")
    migrate = command("migrate", _migrate, "Bring the database's schema up to date.")
    migrate.add_argument("--undo", action="store_true", help="undo the newest migration instead, and lose its data")
    command("index", _index, "Index products that the search lacks, for example after a change of SEARCH_LANGUAGE.")
    seed = command("seed", _seed, "Load demo products into an empty catalogue.")
    seed.add_argument("--products", type=_number(1, demo.MOST), default=300, metavar="N", help="how many (default 300)")
    audit = command("audit", _audit, "Check the rules of money and stock; exit status 1 when one is violated.")
    audit.add_argument(
        "--full", action="store_true", help="check everything, also with Stripe, not only what has changed; takes long"
    )
    audit.add_argument(
        "--read-only", action="store_true", help="check everything, also on a standby, and store nothing"
    )
    import_ = command("import", _import, "Add and change products by a CSV file; exit status 1 when a line is refused.")
    import_.add_argument("file", type=Path, metavar="FILE.csv", help="UTF-8; its first line names the columns")
    import_.add_argument("--dry-run", action="store_true", help="only check the file")
    export = command("export", _export, "Write all products with a sku to a CSV file that `import` takes.")
    export.add_argument("file", type=Path, metavar="FILE.csv", help="a new file")
    erase = command("erase", _erase, "Erase the personal data of an order, or of all orders of an e-mail address.")
    erase.add_argument("subject", type=_subject, metavar="ORDER|EMAIL", help="an order's id or number, or an address")
    erase.add_argument("--dry-run", action="store_true", help="only show what would be erased")
    key = command("key", _key, "Add, list or revoke the service keys of other systems.")
    actions = key.add_subparsers(required=True, dest="action", metavar="add|list|revoke")
    add = actions.add_parser("add", help="add a key, and print it once")
    add.add_argument("--name", type=_key_name, required=True, help="which system uses it; histories show it")
    add.add_argument("--scopes", type=_scopes, required=True, help="what it may do, with commas between")
    add.add_argument("--days", type=_number(1, 3650), default=365, help="how long it is valid (default 365)")
    actions.add_parser("list", help="list all keys, without the keys themselves")
    revoke = actions.add_parser("revoke", help="revoke a key, within a minute")
    revoke.add_argument("name", type=_key_name)
    review = command("review", _review, "Print every SQL statement as psql PREPARE.")
    review.add_argument("--since", metavar="REV", help="only statements that changed since this git revision")
    replay = command("replay", _replay, "Apply a Stripe event again; fetch it from Stripe when it is not stored.")
    replay.add_argument("event_id", metavar="EVENT_ID")
    command(
        "stripe-check", _stripe_check, "Prove what the Stripe key may do; exit status 1 when a permission is missing."
    )
    token = command("token", _token, "Print an access token of the development issuer, which `run` has started here.")
    token.add_argument("--sub", required=True, help="whose token, such as anna")
    token.add_argument("--role", action="append", default=[], choices=ROLES, help="may repeat; without, a customer")
    token.add_argument("--email", default="", help="their address, which counts as verified (default: none)")
    token.add_argument("--seconds", type=_number(1, DAY), default=3600, help="how long it is valid (default 3600)")
    command("issuer", _issuer, "Run the development issuer, whose demo users need no password; `run` starts it.")
    # The stand-in is a program of its own and parses its own options.
    command("standin", _standin, "Run the Stripe stand-in, which moves no money.", add_help=False)
    return parser


def _line(error: BaseException) -> str:
    """The error and its causes in one line."""
    line = str(error).partition("\n")[0]
    return f"{line} ({type(error.__cause__).__name__}: {_line(error.__cause__)})" if error.__cause__ else line


def main() -> int:
    """Run the command that the arguments name, and return the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args()
    if rest and options.run is not _standin:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.arguments = rest
    # A command prints only its errors. `serve` and `worker` configure their own logs.
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        status: int = options.run(options)
    except UnsafeSettings as error:
        print(f"Refusing to start: {error}", file=sys.stderr)
        return 2
    except (ShopError, asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, CannotRun, OSError) as error:
        # Not 1, which means that an audit found a violation.
        print(_line(error), file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
