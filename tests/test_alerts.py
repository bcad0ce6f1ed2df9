"""The alerts, the dashboard and the runbook in docs/operations/ fit the metrics that there are."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from service import worker
from service.dev.stripe_standin import StripeStandin
from service.infra import metrics
from tests.client import Shop
from tests.tools import require_programs

FOLDER = Path(__file__).parents[1] / "docs/operations"
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]
# PromQL's own words in the expressions, and what Prometheus adds to a series.
WORDS = {"absent", "histogram_quantile", "increase", "max", "or", "rate", "sum", "time", "unless"}
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


class Used(NamedTuple):
    """What an expression names: time series, and labels."""

    series: set[str]
    labels: set[str]


def used(expression: str) -> Used:
    text = re.sub(r'"[^"]*"|\[[^]]*\]|\$\w+', "", expression)
    labels = {name for matchers in re.findall(r"\{([^}]*)\}", text) for name in re.findall(r"(\w+)\s*[=!]", matchers)}
    text = re.sub(r"\{[^}]*\}", "", text)
    labels |= {name for names in re.findall(r"\bby \(([^)]*)\)", text) for name in re.findall(r"\w+", names)}
    text = re.sub(r"\bby \([^)]*\)", "", text)
    return Used(set(re.findall(r"[a-z]\w*", text)) - WORDS, labels)


def existing() -> Iterator[tuple[str, set[str]]]:
    """Each time series, with its labels."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            for suffix in SUFFIXES[family.type]:
                yield family.name + suffix, {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}


SERIES = dict(existing())


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_series_and_labels_that_exist(expression: str) -> None:
    names = used(expression)

    assert names.series
    assert names.series <= SERIES.keys()
    assert names.labels <= set().union(*(SERIES[name] for name in names.series))


def test_the_dashboard_shows_every_metric() -> None:
    shown = set().union(*(used(target["expr"]).series for panel in PANELS for target in panel["targets"]))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in SERIES}

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} == families


def test_each_alert_has_a_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (.+)$", (FOLDER / "runbook.md").read_text(), re.MULTILINE)

    assert sections == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operations/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_each_alert_is_raised_and_is_not_raised_by_a_test() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yaml").read_text())["tests"]
    cases = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]

    assert cases == [(rule["alert"], raised) for rule in ALERTS for raised in (True, False)]


@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]])
def test_prometheus_takes_the_alerts(arguments: list[str]) -> None:
    (promtool,) = require_programs("promtool")

    result = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr


async def test_prometheus_finds_no_fault_in_the_metrics(shop: Shop, stripe: StripeStandin, worker: None) -> None:
    (promtool,) = require_programs("promtool")
    placed_order = await shop.checked_out_cart()
    stripe.pay(placed_order["payment"]["stripe_session_id"])
    await shop.wait_for_order(placed_order["order_id"], "FULFILLED")
    text = metrics.exposition()

    result = await asyncio.to_thread(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True)

    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_what_an_alert_waits_for_begins_at_zero() -> None:
    """Prometheus sees no rise in a time series that begins at 1."""
    text = metrics.exposition().decode()
    jobs = [f'job_seconds_count{{job="{name}",outcome="failed"}}' for name in worker.JOBS]
    for series in (
        *jobs,
        "refunds_failed_total ",
        'disputes_total{status="lost"}',
        'stripe_events_total{outcome="unreadable"}',
        'stripe_call_seconds_count{operation="create_refund",outcome="key_refused"}',
        'audit_failures_total{query="audit/stock_matches_ledger"}',
    ):
        assert f"\n{series}" in text
