"""The systemd units and Kubernetes manifests: they start commands and name settings, secrets and paths that exist."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import __version__
from service.__main__ import _parser
from service.app import create_app
from service.settings import Settings
from tests.client import ADMIN_TOKEN
from tests.tools import require_package, require_programs

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "docs" / "operations" / "systemd").glob("*.service"))
MANIFESTS = [
    resource
    for path in sorted((ROOT / "docs" / "operations" / "kubernetes").glob("*.yaml"))
    for resource in yaml.safe_load_all(path.read_text())
]
PODS = {
    pod["containers"][0]["name"]: pod
    for resource in MANIFESTS
    if (pod := resource.get("spec", {}).get("template", {}).get("spec"))
}
SECRETS = {each["metadata"]["name"]: each["stringData"] for each in MANIFESTS if each["kind"] == "Secret"}
(SETTINGS,) = (each["data"] for each in MANIFESTS if each["kind"] == "ConfigMap")
# The examples of secrets cannot be used as they are.
USABLE = {
    "stripe_api_key": "rk_live_x",
    "stripe_webhook_secret": "whsec_" + 32 * "S",
    "admin_token": ADMIN_TOKEN,
}


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)", unit.read_text(), re.MULTILINE)


def test_each_unit_and_pod_runs_another_command() -> None:
    commands = [values(unit, "ExecStart")[0].split()[1:] for unit in UNITS]
    pods = [pod["containers"][0]["args"] for pod in PODS.values()]

    for arguments in (*commands, *pods):
        _parser().parse_args(arguments)
    for started in (commands, pods):
        assert sorted(arguments[0] for arguments in started) == ["migrate", "serve", "worker"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_units_settings_come_from_its_credentials(unit: Path) -> None:
    credentials = dict(value.split(":") for value in values(unit, "LoadCredential"))
    settings = dict(value.split("=") for value in values(unit, "Environment"))

    assert settings == {f"{name.upper()}_FILE": f"%d/{name}" for name in credentials}
    assert credentials.keys() <= Settings.model_fields.keys()
    # Each process has its own database role.
    assert credentials["database_url"] == f"/etc/commerce-core/{unit.stem.partition('-')[2]}/database_url"


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    (program,) = require_programs("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/commerce-core/bin/commerce-core", sys.executable)
        (tmp_path / unit.name).write_text(text)

    verified = subprocess.run(
        [program, "verify", *tmp_path.iterdir()], check=False, capture_output=True, text=True, timeout=60
    )

    # Older versions complain of the machine's own units too.
    assert [line for line in verified.stderr.splitlines() if "commerce" in line] == []
    assert verified.returncode == 0


@pytest.mark.parametrize("name", PODS)
def test_a_pods_settings_are_safe(name: str) -> None:
    """The settings as the pod would read them, with a live key, are those that the process accepts."""
    pod, container = PODS[name], PODS[name]["containers"][0]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "secrets")
    (volume,) = (each for each in pod["volumes"] if each["name"] == "secrets")
    sources = [source["secret"]["name"] for source in volume["projected"]["sources"]]
    mounted = {
        f"{mount['mountPath']}/{key}": (key, SECRETS[source][key]) for source in sources for key in SECRETS[source]
    }
    environ = dict(SETTINGS) if "envFrom" in container else {}
    for variable in container["env"]:
        key, value = mounted.pop(variable["value"])
        environ[variable["name"].removesuffix("_FILE")] = USABLE.get(key, value)

    settings = Settings.load(environ)

    assert mounted == {}
    assert {variable.lower() for variable in environ} <= Settings.model_fields.keys()
    if name != "migrate":
        settings.refuse_unsafe()
        settings.refuse_open_staff("0.0.0.0")
    # Of the database's logins it has its own only.
    assert [source for source in sources if "database_url" in SECRETS[source]] == [f"commerce-{name}"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_as_the_image_is_built(name: str) -> None:
    pod, container = PODS[name], PODS[name]["containers"][0]
    image = (ROOT / "Dockerfile").read_text()

    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in image
    assert container["image"] == f"commerce-core:{__version__}"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} <= container["resources"].keys()
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_probes_ask_calls_that_exist() -> None:
    container = PODS["api"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    app = create_app(Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",)))
    paths = app.openapi()["paths"]

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["path"] == ("/health/ready" if probe == "readinessProbe" else "/health/live")
        assert ports[asked["port"]] == _parser().parse_args(container["args"]).port
    assert ports["metrics"] == int(SETTINGS["METRICS_PORT"])


@pytest.mark.parametrize("resource", MANIFESTS, ids=lambda each: f"{each['kind']} {each['metadata'].get('name', '')}")
def test_a_manifest_fits_kubernetes_schema(resource: dict[str, Any]) -> None:
    kubernetes_validate = require_package("kubernetes_validate")

    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_version_is_the_packages() -> None:
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text()
