"""The Grafana dashboard and the alerting rules ask for metrics, labels and values that exist."""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import promql_parser
import pytest
import yaml

from routoo.domain.completion import DeviationReason, QualityChange
from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
from routoo.settings import REPOSITORY
from worker.metrics import described_families

DOCKER = REPOSITORY / "docker"
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/routoo.json").read_text())
RULES = yaml.safe_load((DOCKER / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]
LABELS = {
    sample.name: set(sample.labels) for family in described_families() for sample in family.samples
}
"""Labels of every metric that the beat serves."""
VALUES: dict[str, set[type[StrEnum]]] = {
    "status": {BatchStatus, ResultStatus},
    "stage": {Stage},
    "state": {ShardState},
    "reason": {DeviationReason},
    "change": {QualityChange},
}


def panel_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def selectors(query: str) -> Iterator[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    yield from (part for part in found if isinstance(part, promql_parser.VectorSelector))


@pytest.mark.parametrize("query", [*panel_queries(), *(rule["expr"] for rule in RULES)])
def test_a_query_parses_and_asks_for_what_the_beat_serves(query: str) -> None:
    for selector in selectors(query):
        if selector.name == "up":  # Prometheus's own
            continue
        assert selector.name in LABELS
        for matcher in selector.matchers.matchers:
            assert matcher.name in LABELS[selector.name]
            known = {value for kind in VALUES[matcher.name] for value in kind}
            assert matcher.value in known


def test_the_dashboard_shows_every_metric() -> None:
    shown = {selector.name for query in panel_queries() for selector in selectors(query)}
    assert shown == set(LABELS)


def test_legends_and_summaries_name_labels_that_their_metric_has() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            labels = set().union(*(LABELS[one.name] for one in selectors(target["expr"])))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels
    for rule in RULES:
        names = [one.name for one in selectors(rule["expr"]) if one.name != "up"]
        labels = set().union(*(LABELS[name] for name in names))
        summary = rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", summary)) <= labels


def test_panels_stand_beside_each_other_and_not_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
