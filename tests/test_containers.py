"""The locks and the container files, as far as they can be tested without a container engine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import Settings
from tests.pins import PIN, published

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
PINNED = re.compile(r"([\w.-]+)==(\S+)( ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)")


def pinned(lock: str) -> dict[str, str]:
    """The versions in a lock by normalized name."""
    return {canonicalize_name(name): version for name, version, *_ in PINNED.findall((ROOT / lock).read_text())}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_contains_only_versions_with_their_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()

    assert not re.sub(r"^ *#.*\n", "", PINNED.sub("", text), flags=re.MULTILINE).strip()
    assert "/" not in text, "it names an index or a folder"


@pytest.mark.parametrize(("lock", "extras"), [("requirements.txt", []), ("requirements-dev.txt", ["embedded", "dev"])])
def test_a_lock_satisfies_pyproject(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra_dependencies = [line for extra in extras for line in project["optional-dependencies"][extra]]
    versions = pinned(lock)

    for dependency in map(Requirement, project["dependencies"] + extra_dependencies):
        if dependency.name == project["name"]:
            continue  # `commerce-core[embedded]`, whose dependencies are in the list themselves
        version = versions.get(canonicalize_name(dependency.name))
        assert version, f"make lock: {dependency} is missing"
        assert dependency.specifier.contains(version), f"make lock: {version} is not {dependency}"


def test_both_locks_pin_the_same_versions() -> None:
    runtime, development = (pinned(lock) for lock in LOCKS)

    assert runtime.items() <= development.items()


def test_the_day_of_a_version_is_that_of_its_first_file() -> None:
    """An index may tell no times; the project itself has no files."""
    lock = """
[[package]]
name = "pins"
version = "0"
[[package]]
name = "old"
version = "1"
sdist = { hash = "x", upload-time = "2026-07-02T17:11:55.501Z" }
wheels = [{ hash = "x", upload-time = "2026-07-01T17:11:54.055Z" }]
[[package]]
name = "unknown"
version = "2"
sdist = { hash = "x" }
"""

    assert published(lock) == {"old 1": "2026-07-01", "unknown 2": ""}
    found = {pin.partition(" ;")[0].replace("==", " ") for pin in PIN.findall((ROOT / "requirements.txt").read_text())}
    assert {f"{canonicalize_name(name)} {version}" for name, version in map(str.split, found)} == {
        f"{name} {version}" for name, version in pinned("requirements.txt").items()
    }


COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_compose_gives_each_service_its_own_login_only() -> None:
    mounted = {
        name: [volume.partition(":")[0] for volume in service.get("volumes", []) if "logins" in volume]
        for name, service in COMPOSE.items()
    }

    assert mounted == {
        "api": ["app_logins"],
        "worker": ["worker_logins"],
        "migrate": ["owner_logins"],
        "seed": ["app_logins"],
        "erase": ["eraser_logins"],
        "valkey": ["valkey_logins"],
        "roles": [f"{name}_logins" for name in ("app", "eraser", "owner", "valkey", "worker")],
        **{name: [] for name in ("stripe", "postgres")},
    }
    sockets = {name for name, service in COMPOSE.items() if "socket:" in str(service.get("volumes"))}
    assert sockets == {"postgres", "roles"}
    assert not re.search(r"PASSWORD:-|postgresql://\w+:\w", (ROOT / "compose.yaml").read_text())


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_bounds_each_service(name: str) -> None:
    service = COMPOSE[name]

    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_passes_every_setting_on() -> None:
    text = (ROOT / "compose.yaml").read_text()
    environment = text.partition("  environment: &settings\n")[2].partition("  read_only:")[0]
    passed = {name.removesuffix("_FILE") for name in re.findall(r"^    ([A-Z_]+):", environment, re.MULTILINE)}

    # The entrypoint sets the stand-in's address; only `migrate` has the owner's URL.
    exceptions = {"STRIPE_API_BASE", "MIGRATE_DATABASE_URL"}
    assert passed == {name.upper() for name in Settings.model_fields} - exceptions
