"""Clients generated from the OpenAPI document: they type-check, and one of them buys something."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.settings import Settings
from tests.client import Shop
from tests.tools import require_programs

NEVER_SERVED = Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",))
PURCHASE = Path(__file__).with_name("purchase.py")


def run(*command: object, folder: Path, **variables: str) -> None:
    """Run a program; its output is shown when it fails."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def type_check(*paths: Path, folder: Path, **variables: str) -> None:
    """Run mypy --strict without our own configuration."""
    run(sys.executable, "-m", "mypy", "--strict", "--config-file=", *paths, folder=folder, **variables)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document in a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(create_app(NEVER_SERVED).openapi()))
    return path


@pytest.fixture(scope="module")
def python_client(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the package `shop_client`."""
    (generator,) = require_programs("openapi-python-client")
    folder = tmp_path_factory.mktemp("client")
    config = folder / "config.yaml"
    config.write_text("post_hooks: []\n")
    arguments: list[Any] = ["--meta", "none", "--output-path", folder / "shop_client", "--config", config]
    run(generator, "generate", "--path", document, *arguments, "--fail-on-warning", folder=folder)
    return folder


def test_the_document_is_valid(document: Path) -> None:
    (validator,) = require_programs("openapi-spec-validator")
    run(validator, document, folder=document.parent)


def test_the_python_client_type_checks(python_client: Path) -> None:
    type_check(python_client / "shop_client", PURCHASE, folder=python_client, MYPYPATH=str(python_client))


async def test_the_python_client_completes_a_purchase(
    shop: Shop, stripe: StripeStandin, worker: None, python_client: Path
) -> None:
    buyer = await asyncio.create_subprocess_exec(
        *(sys.executable, PURCHASE, shop.url),
        env={**os.environ, "PYTHONPATH": str(python_client)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert buyer.stdout is not None

    session_id = (await asyncio.wait_for(buyer.stdout.readline(), 30)).decode().strip()
    stripe.pay(session_id)

    assert await asyncio.wait_for(buyer.wait(), 30) == 0


def test_the_models_of_another_generator_type_check(document: Path, tmp_path: Path) -> None:
    (generator,) = require_programs("datamodel-codegen")
    models = tmp_path / "models.py"
    arguments: list[Any] = ["--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel"]
    arguments += ["--use-annotated", "--target-python-version", "3.11", "--formatters", "builtin"]

    run(generator, "--input", document, "--output", models, *arguments, folder=tmp_path)

    type_check(models, folder=tmp_path)
    run(sys.executable, "-c", "import models; models.Order", folder=tmp_path)
