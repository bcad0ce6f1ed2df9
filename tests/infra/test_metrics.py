"""The port of the metrics: who may read them, how often they are rendered, and the limits for a reader."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from service.dev.servers import free_port
from service.infra import metrics
from service.infra.db import Pool
from service.settings import Settings, UnsafeSettings
from service.shop import access
from service.shop.access import MetricsReaders
from tests.client import eventually
from tests.conftest import login

TOKEN = "s3cret-tökén"
SETTINGS = Settings.load({"DATABASE_URL": "postgresql://db"})


@contextmanager
def serving_metrics(host: str = "127.0.0.1", token: str = "", own: Settings = SETTINGS) -> Iterator[str]:
    """The URL of the metrics while they are served."""
    with ExitStack() as stack:
        for attempts_left in reversed(range(5)):
            port = free_port()
            changed = {"metrics_host": host, "metrics_port": port, "admin_token": token}
            try:
                settings = own.model_copy(update=changed)
                stack.enter_context(metrics.serving(settings, MetricsReaders(settings)))
                break
            except UnsafeSettings:
                # A connection of another program may use the same port on another address.
                if not attempts_left:
                    raise
        yield f"http://127.0.0.1:{port}/metrics"


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The expositions that were rendered: each only says which one it is."""
    expositions: list[bytes] = []

    def exposition() -> bytes:
        expositions.append(b"exposition %d\n" % len(expositions))
        return expositions[-1]

    monkeypatch.setattr(metrics, "exposition", exposition)
    return expositions


def test_on_loopback_they_are_open(rendered: list[bytes]) -> None:
    with serving_metrics(token=TOKEN) as url:
        response = httpx.get(url)
        assert (response.status_code, response.content) == (200, b"exposition 0\n")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert httpx.get(url.removesuffix("/metrics")).status_code == 404
        assert httpx.get(f"{url}?again").content == b"exposition 0\n"
        assert httpx.post(url).status_code == 501


def test_on_other_addresses_they_are_refused_without_the_token(rendered: list[bytes]) -> None:
    with serving_metrics("0.0.0.0", TOKEN) as url:
        for authorization in (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
            headers = {} if authorization is None else {"Authorization": authorization.encode()}
            refused = httpx.get(url, headers=headers)
            assert (refused.status_code, refused.content) == (401, b""), authorization
            assert refused.headers["www-authenticate"] == "Bearer"
    assert rendered == []


async def test_on_other_addresses_they_are_served_with_a_key_that_may_read_them(
    rendered: list[bytes], settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(settings.model_copy(update={"database_url": login(database_url, "owner")}), "tests")
    reader, other = [
        await access.add_key(pool, name=scope.split(":")[0], scopes=[scope], days=1, created_by="tests")
        for scope in ("metrics:read", "stock:write")
    ]
    with serving_metrics("0.0.0.0", TOKEN, settings) as url:

        async def status(key: str) -> int:
            answer = await asyncio.to_thread(httpx.get, url, headers={"Authorization": f"Bearer {key}"})
            return answer.status_code

        assert [await status(key) for key in (reader, other, reader + "x", access.KEY_PREFIX)] == [200, 401, 401, 401]
        # It is remembered for a while, then asked for again.
        await access.revoke_key(pool, "metrics")
        assert await status(reader) == 200
        monkeypatch.setattr(access.time, "monotonic", lambda real=access.time.monotonic: real() + 51)
        assert await status(reader) == 401
    await pool.aclose()


def test_without_postgresql_no_key_may_read_them(rendered: list[bytes]) -> None:
    unreachable = SETTINGS.model_copy(update={"database_url": "postgresql://127.0.0.1:1/nothing"})
    with serving_metrics("0.0.0.0", TOKEN, unreachable) as url:
        assert httpx.get(url, headers={"Authorization": f"Bearer {access.KEY_PREFIX}x"}, timeout=30).status_code == 401


def test_on_other_addresses_they_are_served_with_the_token(rendered: list[bytes]) -> None:
    with serving_metrics("0.0.0.0", TOKEN) as url:
        for scheme in ("Bearer", "bearer"):
            assert httpx.get(url, headers={"Authorization": f"{scheme} {TOKEN}".encode()}).status_code == 200


def test_a_fresh_exposition_is_reused(rendered: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 1000)

    with serving_metrics() as url, ThreadPoolExecutor(8) as threads:
        assert {response.content for response in threads.map(httpx.get, 50 * [url])} == {b"exposition 0\n"}

    assert len(rendered) == 1


async def test_a_stale_exposition_is_rendered_again(rendered: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.01)
    with serving_metrics() as url:

        async def rendered_three_times() -> bool:
            await asyncio.to_thread(httpx.get, url)
            return len(rendered) > 2

        await eventually(rendered_three_times)


def test_a_port_in_use_is_refused_by_name() -> None:
    with serving_metrics() as url:
        in_use = SETTINGS.model_copy(update={"metrics_port": port_of(url)})
        with (
            pytest.raises(UnsafeSettings, match=r"METRICS_PORT: .* cannot be used: "),
            metrics.serving(in_use, MetricsReaders(in_use)),
        ):
            pass


def test_an_unknown_host_is_refused_by_name() -> None:
    with pytest.raises(UnsafeSettings, match=r"METRICS_PORT: nowhere"), serving_metrics("nowhere.invalid"):
        pass


def test_without_a_port_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_Server", None)
    with metrics.serving(SETTINGS, MetricsReaders(SETTINGS)):
        pass


async def test_slow_readers_block_others_only_for_a_while(
    rendered: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CONNECTIONS", 2)
    monkeypatch.setattr(metrics, "CONNECTION_SECONDS", 0.3)
    with serving_metrics() as url, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port_of(url)), timeout=20))

        slow = [connect() for _ in range(2)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")

        # A third connection is closed at once, the slow ones after CONNECTION_SECONDS.
        assert connect().recv(1) == b""
        assert [connection.recv(1) for connection in slow] == [b"", b""]

        async def is_served() -> bool:
            try:
                return (await asyncio.to_thread(httpx.get, url)).status_code == 200
            except httpx.TransportError:
                return False

        assert await eventually(is_served)
