"""The log line of a process that has started."""

import json
import logging
from typing import Any

import pytest

from service import __version__
from service.dev.servers import free_port
from service.infra import startup
from service.infra.logs import JsonFormatter
from service.infra.resources import Resources, open_resources
from service.settings import Settings


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    """The fields of the line that was logged."""
    caplog.set_level(logging.INFO)

    def read() -> dict[str, Any]:
        lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
        (line,) = (line for line in lines if line["message"] == "process started")
        return dict(line)

    return read


async def test_it_says_what_runs_and_on_what(resources: Resources, logged: Any) -> None:
    await startup.report(resources, "worker")

    line = logged()
    assert (line["program"], line["version"], line["stripe"]) == ("worker", __version__, "test")
    assert (line["webhooks"], line["staff"]) == ("signed", "open")
    assert line["role"] == "commerce_worker"
    assert line["postgresql"].split(".")[0] in ("15", "16", "17", "18")
    assert line["redis"].split()[0] in ("valkey", "redis")
    assert line["settings"]["sweep_seconds"] == 0.2
    assert "hold_seconds" not in line["settings"], "it has its default"


async def test_it_names_the_server_that_does_not_answer(settings: Settings, logged: Any) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    changes = {"database_url": f"postgresql://u:c4nary@{nowhere}/x", "redis_url": f"redis://:c4nary@{nowhere}/0"}
    async with open_resources(settings.model_copy(update=changes), "commerce-tests") as resources:
        await startup.report(resources, "api")

    assert (logged()["postgresql"], logged()["redis"]) == ("unreachable", "unreachable")


async def test_a_redis_that_does_not_say_its_version_is_no_failure(resources: Resources, logged: Any) -> None:
    name = "no_info"
    await resources.redis.acl_setuser(
        name, enabled=True, passwords=["+c4nary"], keys=["*"], commands=["+@all", "-info"]
    )
    address = resources.settings.redis_url.rpartition("//")[2].rpartition("@")[2]
    limited = resources.settings.model_copy(update={"redis_url": f"redis://{name}:c4nary@{address}"})
    try:
        async with open_resources(limited, "commerce-tests") as with_limits:
            await startup.report(with_limits, "api")

            assert with_limits.redis_breaker.state == "ok"
    finally:
        await resources.redis.acl_deluser(name)
    assert logged()["redis"] == "unknown"


def test_no_secret_is_among_the_settings() -> None:
    """Each field with a secret has repr=False; all other fields are shown when they are set."""
    secrets = {
        "database_url": "postgresql://u:c4nary@h/x",
        "migrate_database_url": "postgresql://u:c4nary@h/x",
        "redis_url": "redis://:c4nary@h/0",
        "https_proxy": "http://u:c4nary@h",
        "stripe_api_key": "sk_test_c4nary",
        "stripe_webhook_secret": ("whsec_c4nary",),
        "admin_token": "c4nary",
    }
    settings = Settings.model_construct(**secrets, hold_seconds=60)

    assert startup.changed(settings) == {"hold_seconds": 60}
