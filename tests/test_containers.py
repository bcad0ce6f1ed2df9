"""What the containers are made of, as far as that can be proved without an engine."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import Settings

ROOT = Path(__file__).parents[1]
LOCKED = re.compile(r"([\w.-]+)==(\S+)( ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)")


def test_the_lock_is_only_versions_with_their_hashes() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert not re.sub(r"^ *#.*\n", "", LOCKED.sub("", text), flags=re.MULTILINE).strip()
    assert "/" not in text, "it names an index or a folder"


def test_the_lock_satisfies_what_the_service_depends_on() -> None:
    locked = {
        canonicalize_name(name): version
        for name, version, *_ in LOCKED.findall((ROOT / "requirements.txt").read_text())
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in map(Requirement, project["dependencies"]):
        version = locked.get(canonicalize_name(dependency.name))
        assert version, f"make lock: there is no {dependency}"
        assert dependency.specifier.contains(version), f"make lock: {version} is not {dependency}"


def test_compose_passes_every_setting_on() -> None:
    text = (ROOT / "compose.yaml").read_text()
    environment = text.partition("  environment: &settings\n")[2].partition("  read_only:")[0]
    named = set(re.findall(r"^    ([A-Z_]+):", environment, re.MULTILINE))
    # The stand-in's is set where there is no key; only who migrates has the owner's.
    apart = {"STRIPE_API_BASE", "MIGRATE_DATABASE_URL"}
    assert named == {name.upper() for name in Settings.model_fields} - apart
