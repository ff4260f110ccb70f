"""The metrics page lists exactly the metrics of the code, with their kinds, units and labels."""

from __future__ import annotations

import re

from tests.unit.docs.code_names import metric_definitions
from tests.unit.docs.pages import section

_ROW = re.compile(r"^\| `([\w.]+)` \| (\w+) \| (\S*) ?\| (.*?) ?\|", re.MULTILINE)


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    rows = _ROW.findall(section("reference/metrics.md", "Metrics"))
    documented = {name: (kind, unit, re.findall(r"`([\w.]+)`", labels)) for name, kind, unit, labels in rows}
    assert documented == {one.name: (one.kind, one.unit, list(one.attributes)) for one in metric_definitions()}


def test_names_and_units_follow_the_conventions() -> None:
    for one in metric_definitions():
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", one.name), one.name
        assert one.description.endswith("."), one.name
        if one.kind == "histogram":
            assert list(one.buckets) == sorted(set(one.buckets)), one.name
