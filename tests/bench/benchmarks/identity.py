"""What identity costs: a token with each request, its first verification, and the owner of a cart."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from threading import Thread
from time import perf_counter

import orjson

from tests.bench.benchmarks.reserve import reserve
from tests.bench.drivers import WARM_SECONDS, wrk
from tests.bench.figures import Figure, Goal, Measured, alternately, pairs
from tests.bench.stage import Stage
from tests.provider import AUDIENCE, Provider

PRODUCTS = 1000
TOKENS = 300

CACHED = Goal("`GET /products/{id}` with a cached token, against without", "at least 0.95 ×", least=0.95)
FIRST = Goal("the first verification of a token", "at most 0.3 ms", most=0.3)
OWNER = Goal("reserve by an owner, against a guest, spread products", "at least 0.95 ×", least=0.95)


def costs(stage: Stage) -> Measured:
    """Each with and without a token, by turns."""
    url, tables = stage.database("identity", PRODUCTS)
    with _provider() as provider:
        settings = {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE}
        owner = provider.token("owner")
        with stage.api(url, **settings) as api:
            product = partial(wrk, api.url, stage.seconds, "/products/", PRODUCTS, 1, script="products")
            wrk(api.url, WARM_SECONDS, "/products/", PRODUCTS, 1, script="products", token=owner)
            reads = alternately(stage.rounds, {"without": product, "with": partial(product, token=owner)})
            firsts = [_first_verification(api.url, provider) for _ in range(stage.rounds)]
        with stage.reserving(url, **settings) as api:
            target = f"{api.url}/bench/reserve/"
            reserves = alternately(
                stage.rounds,
                {
                    "a guest": partial(reserve, tables, target, stage.seconds),
                    "an owner": partial(reserve, tables, target, stage.seconds, owner="owner", token=owner),
                },
            )
    tables.close_carts()
    stage.audit(url)
    without, cached = ([load.rate for load in reads[name]] for name in ("without", "with"))
    guest, owned = ([load.rate for load in reserves[name]] for name in ("a guest", "an owner"))
    return Measured(
        [
            Figure("GET /products/{id} without a token", "/s", without),
            Figure("GET /products/{id} with a cached token", "/s", cached, True),
            Figure("with against without", "×", pairs(cached, without), True, "", CACHED),
            Figure("the first verification (ES256)", "ms", firsts, True, "", FIRST),
            Figure("reserve by a guest", "/s", guest),
            Figure("reserve by an owner", "/s", owned, True),
            Figure("an owner against a guest", "×", pairs(owned, guest), True, "", OWNER),
        ]
    )


def _first_verification(url: str, provider: Provider) -> float:
    """How much longer a request takes with a token that was never sent before: medians, in milliseconds."""
    host = url.removeprefix("http://")
    tokens = [provider.token(f"user {number}") for number in range(TOKENS)]
    seconds: dict[str, list[float]] = {"first": [], "again": []}
    with closing(HTTPConnection(host)) as connection:
        for token in tokens:
            for which in ("first", "again"):
                start = perf_counter()
                connection.request("GET", "/categories?limit=1", headers={"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                seconds[which].append(perf_counter() - start)
    return 1000 * (median(seconds["first"]) - median(seconds["again"]))


@contextmanager
def _provider() -> Iterator[Provider]:
    """An identity provider in a thread."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            documents = {
                "/.well-known/openid-configuration": {"issuer": provider.url, "jwks_uri": f"{provider.url}/keys"},
                "/keys": {"keys": provider.published},
            }
            body = orjson.dumps(documents[self.path])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
