"""Alerts and dashboard: they ask for what there is, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import ProcessCollector

from tests.unit.monitoring.test_metrics import Scene, scene  # noqa: F401 - a fixture
from xenmoved.monitoring.report import PoolHealth

ROOT = Path(__file__).parents[3]
RULES = ROOT / "etc" / "prometheus" / "xenmoved.rules.yml"
RULE_TESTS = ROOT / "tests" / "data" / "xenmoved.rules.test.yml"
DASHBOARD = ROOT / "etc" / "grafana" / "xenmoved.json"
OF_PROMETHEUS = {"up"}

_NAME = re.compile(r"\b(?:xenmoved_\w+|process_\w+|up)\b(?!\")(?=[{\[\s)]|$)")
_SELECTOR = re.compile(r"\b(xenmoved_\w+|process_\w+|up)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*=~?|(\w+)\s*!=")
_ADDED = {"job", "instance", "le"}
"""Labels that Prometheus adds, or the format has."""


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    rules = [rule["expr"] for rule in alerts()]
    return rules + [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.fixture
def exported(scene: Scene) -> dict[str, set[str]]:  # noqa: F811
    """Names of all series that a daemon can export, with their labels."""
    scene.looks.pools = (PoolHealth("images", "dir", 1, 1, None),)
    scene.looks.copies_at = 1.0
    found: dict[str, set[str]] = {}
    for metric in [*scene.metrics(), *ProcessCollector(registry=None).collect()]:
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        # Of those that have no value now.
        found.setdefault(metric.name, set()).update(getattr(metric, "_labelnames", ()))
    return found


def test_every_metric_that_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name in _NAME.findall(query)}
    assert len(asked) > 15
    assert asked - exported.keys() - OF_PROMETHEUS == set()


def test_every_metric_is_asked_for(exported: dict[str, set[str]]) -> None:
    """Of a metric that nobody looks at, nobody would notice that it is wrong."""
    asked = " ".join(queries())
    stems = {re.sub(r"_(total|info|bucket|count|sum)$", "", name) for name in exported}
    ours = {name for name in stems if name.startswith("xenmoved_")}
    unasked = {name for name in ours if name not in asked}
    assert unasked == {
        "xenmoved_doubts_oldest_timestamp_seconds",
        "xenmoved_retained_volumes",
        "xenmoved_link_connected",
    }


def test_every_label_that_is_asked_for_is_there(exported: dict[str, set[str]]) -> None:
    for query in queries():
        for name, labels in _SELECTOR.findall(query):
            asked = {one or other for one, other in _LABEL.findall(labels)}
            assert asked - _ADDED - exported.get(name, set()) == set(), query


def test_every_value_of_a_label_that_is_asked_for_can_be(scene: Scene) -> None:  # noqa: F811
    there: dict[str, set[str]] = {}
    for metric in scene.metrics():
        for sample in metric.samples:
            for label, value in sample.labels.items():
                there.setdefault(label, set()).add(value)
    for query in queries():
        for label, values in re.findall(r'(\w+)=~?"([^"$]*)"', query):
            if label not in ("job", "instance"):
                assert set(values.split("|")) <= there[label], query


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("warning", "critical")
        summary, description = (alert["annotations"][k] for k in ("summary", "description"))
        assert not summary.endswith("."), alert
        assert description.endswith("."), alert


def test_every_alert_is_explained_and_tested() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {
        one["alertname"]
        for test in tests
        for one in test.get("alert_rule_test", ())
        if one["exp_alerts"]
    }
    assert fired == set(names)


def test_exactly_what_is_exported_is_explained(scene: Scene) -> None:  # noqa: F811
    text = (ROOT / "docs" / "operating.md").read_text()
    suffixes = {"counter": "_total", "info": "_info"}
    exported = {f"{one.name}{suffixes.get(one.type, '')}" for one in scene.metrics()}
    assert set(re.findall(r"^\| `(xenmoved_\w+)", text, re.MULTILINE)) == exported


def test_the_dashboard_is_one_that_grafana_can_take() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        area = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & area, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= area
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
    assert {one["name"] for one in board["templating"]["list"]} == {"datasource", "job", "instance"}


@pytest.mark.long
@pytest.mark.parametrize("what", [("check", "rules", RULES), ("test", "rules", RULE_TESTS)])
def test_promtool_finds_nothing_wrong(what: tuple[str, str, Path]) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("there is no promtool: apt-get install prometheus")
    done = subprocess.run([promtool, *what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr
