"""The command line of the stand-in: `python -m service.dev.stripe_standin`."""

import argparse
import gc
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from .standin import StripeStandin


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "python -m service.dev.stripe_standin",
    webhook_secret: str | None = None,
    webhook_events: Sequence[str] = ("*",),
) -> None:
    """Serve until SIGTERM or SIGINT. Call it in the main thread of a process of its own, since it takes the signals.

    `webhook_secret` defaults to STRIPE_WEBHOOK_SECRET. `webhook_events` apply where `--events` names none.
    """
    options = _parser(program).parse_args(arguments)
    standin = StripeStandin(
        webhook_url=options.webhook_url,
        webhook_secret=webhook_secret or os.environ.get("STRIPE_WEBHOOK_SECRET") or "whsec_standin",
        webhook_events=options.events or webhook_events,
        public_url=options.public_url,
        database=options.data,
        hosts=options.host_name,
    )
    # All objects stay in memory, and a full collection walks them: rare ones keep latency even.
    gc.set_threshold(700, 10, 1000)
    # uvicorn stops on these signals and raises them again; ignored here, they let this function return.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        standin.app,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        # Longer than clients keep idle connections: a connection closed while a request arrives costs a retry.
        timeout_keep_alive=75,
        # A call that a fault keeps hanging must not block the shutdown.
        timeout_graceful_shutdown=2,
    )


def _port(text: str) -> int:
    if re.fullmatch("[0-9]{1,5}", text) and 1 <= int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError("must be a whole number from 1 to 65535")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Run the Stripe stand-in, which moves no money.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=12111, help="port to listen on (default 12111)")
    parser.add_argument("--webhook-url", help="where its events go (default: nowhere)")
    parser.add_argument("--events", nargs="+", help="event types to send, or patterns of them")
    parser.add_argument("--public-url", help="its address for browsers (default: the address of each call)")
    parser.add_argument(
        "--host-name", action="append", default=[], help="a name that calls may use besides localhost and addresses"
    )
    parser.add_argument("--data", type=Path, help="SQLite file for its state (default: memory)")
    return parser


if __name__ == "__main__":
    main()
