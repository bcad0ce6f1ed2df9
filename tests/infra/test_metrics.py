"""The metrics' own port: who may read them, how often they are made, and what one reader may cost."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from service.dev.servers import free_port
from service.infra import metrics
from service.settings import Settings, UnsafeSettings
from tests.client import eventually

TOKEN = "s3cret-tökén"
SETTINGS = Settings.load({"DATABASE_URL": "postgresql://db"})


@contextmanager
def shown(host: str = "127.0.0.1", token: str = "") -> Iterator[str]:
    """The metrics served; their URL."""
    port = free_port()
    changed = {"metrics_host": host, "metrics_port": port, "admin_token": token}
    with metrics.serving(SETTINGS.model_copy(update=changed)):
        yield f"http://127.0.0.1:{port}/metrics"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The expositions that were made."""
    expositions: list[bytes] = []

    def exposition() -> bytes:
        expositions.append(b"made %d\n" % len(expositions))
        return expositions[-1]

    monkeypatch.setattr(metrics, "exposition", exposition)
    return expositions


def test_on_loopback_they_are_open(made: list[bytes]) -> None:
    with shown(token=TOKEN) as url:
        answer = httpx.get(url)
        assert (answer.status_code, answer.content) == (200, b"made 0\n")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert httpx.get(url.removesuffix("/metrics")).status_code == 404
        assert httpx.get(f"{url}?again").content == b"made 0\n"
        assert httpx.post(url).status_code == 501


def test_elsewhere_they_need_the_token(made: list[bytes]) -> None:
    with shown("0.0.0.0", TOKEN) as url:
        for authorization in (None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"):
            headers = {} if authorization is None else {"Authorization": authorization.encode()}
            refused = httpx.get(url, headers=headers)
            assert (refused.status_code, refused.content) == (401, b""), authorization
            assert refused.headers["www-authenticate"] == "Bearer"
        assert made == []
        for scheme in ("Bearer", "bearer"):
            assert httpx.get(url, headers={"Authorization": f"{scheme} {TOKEN}".encode()}).status_code == 200


async def test_they_are_made_at_most_once_in_a_while(made: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 1000)
    with shown() as url, ThreadPoolExecutor(8) as pool:
        assert {answer.content for answer in pool.map(httpx.get, 50 * [url])} == {b"made 0\n"}
    assert len(made) == 1
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.01)
    with shown() as url:

        async def made_anew() -> bool:
            await asyncio.to_thread(httpx.get, url)
            return len(made) > 2

        await eventually(made_anew)


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with shown() as url:
        taken = SETTINGS.model_copy(update={"metrics_port": int(url.rpartition(":")[2].partition("/")[0])})
        with pytest.raises(UnsafeSettings, match=r"METRICS_PORT: .* cannot be used: "), metrics.serving(taken):
            pass
    with pytest.raises(UnsafeSettings, match=r"METRICS_PORT: nowhere"), shown("nowhere.invalid"):
        pass


def test_without_a_port_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_Server", None)
    with metrics.serving(SETTINGS):
        pass


async def test_readers_that_never_ask_keep_nobody_out_for_long(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CONNECTIONS", 2)
    monkeypatch.setattr(metrics, "CONNECTION_SECONDS", 0.3)
    with shown() as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))
        slow = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(2)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        # One more is hung up on at once, and those two after a while.
        third = stack.enter_context(socket.create_connection(address, timeout=20))
        assert third.recv(1) == b""
        assert [connection.recv(1) for connection in slow] == [b"", b""]

        async def answers() -> bool:
            try:
                return (await asyncio.to_thread(httpx.get, url)).status_code == 200
            except httpx.TransportError:
                return False

        assert await eventually(answers)
