"""The dashboard and the alert rules ask only for metrics that the server has."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import yaml
from prometheus_client import PROCESS_COLLECTOR

from happy_light.admin import metrics

MONITORING = Path(__file__).parent.parent / "packaging" / "monitoring"
FUNCTIONS = {"sum", "max", "by", "rate", "histogram_quantile", "time"}
LABELS = {"instance", "le", "status", "type", "event_type", "result", "table", "part"}


def known() -> set[str]:
    """Return the names of all time series of /metrics, and of those that Prometheus makes itself."""
    source = inspect.getsource(metrics)
    names = {"up", *(metric.name for metric in PROCESS_COLLECTOR.collect()), "process_cpu_seconds_total"}
    for kind, name in re.findall(r"(\w+)MetricFamily\(\s*\"(\w+)\"", source):
        names |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "Histogram" else {name}
    return names


def asked(expression: str) -> set[str]:
    """Return the names of the metrics in an expression of PromQL."""
    words = re.findall(r"[a-z_]+", re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", "", expression))
    return set(words) - FUNCTIONS - LABELS


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        for target in panel["targets"]:
            names = asked(target["expr"])
            assert names, target
            assert names <= known(), (panel["title"], names - known())


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        names = asked(rule["expr"])
        assert names, rule
        assert names <= known(), (rule["alert"], names - known())
        assert 'job="happy-server-light"' in rule["expr"]
        assert rule["annotations"]["summary"]


def test_an_unknown_metric_is_noticed() -> None:
    assert asked('sum by (le) (rate(no_such_metric{status="5.."}[5m]))') - known() == {"no_such_metric"}
