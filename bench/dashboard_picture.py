"""Draws the panels of the Grafana dashboard from the answers of a Prometheus, as one SVG file.

Run it as `python -m bench.dashboard_picture PROMETHEUS_URL FILE.svg --minutes 10`. `docs/observability.md` shows such a
picture. The drawing is simpler than Grafana's, and it needs no Grafana.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import httpx

DASHBOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "flow-worker.json"
_VARIABLES = {"$__rate_interval": "30s", "$job": ".*", "$instance": ".*", "$flow": ".*"}
_X, _Y, _GAP = 50, 20, 8  # pixels of a grid unit, and between two panels
_STEPS = 120
_MAX_SERIES = 8
_MAX_STATES = 10
_STATE_CHARACTERS = 20
_LEGEND_CHARACTERS = 58
_COLOURS = ("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#b7950b", "#17828a", "#8a8a8a")
_STYLE = (
    "text{font:11px sans-serif;fill:#444}.t{font-weight:bold;fill:#222}.r{font-size:14px;font-weight:bold}"
    ".s{font-size:26px;fill:#37872d}.a{font-size:9px;fill:#777}polyline{fill:none;stroke-width:1.3}"
)
_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

Panel = Mapping[str, Any]  # of the dashboard's JSON


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel."""

    name: str
    points: dict[int, float]
    """Values by the number of the step. A step without a value is absent."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the picture."""

    x: float
    y: float
    width: float
    height: float


class Source:
    """Answers the expressions of panels for a period."""

    def __init__(self, client: httpx.Client, begin: float, end: float) -> None:
        self._client = client
        self._begin = begin
        self._end = end

    def series(self, panel: Panel) -> list[Series]:
        """Return the series of a panel, those with the largest values first."""
        found = [one for target in panel["targets"] for one in self._of_target(target)]
        return sorted(found, key=lambda one: -max(one.points.values(), default=0))

    def _of_target(self, target: Mapping[str, Any]) -> list[Series]:
        expression = target["expr"]
        for name, value in _VARIABLES.items():
            expression = expression.replace(name, value)
        step = (self._end - self._begin) / _STEPS
        query = {"query": expression, "start": self._begin, "end": self._end, "step": step}
        answer = self._client.post("/api/v1/query_range", data=query).raise_for_status().json()
        return [
            Series(
                _name(target["legendFormat"], one["metric"]),
                {
                    round((moment - self._begin) / step): float(value)
                    for moment, value in one["values"]
                    if math.isfinite(float(value))
                },
            )
            for one in answer["data"]["result"]
        ]


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="its URL, such as http://127.0.0.1:9090")
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--end", type=float, default=time.time(), help="end of the period, in epoch seconds")
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.prometheus, trust_env=False) as client:
        source = Source(client, arguments.end - arguments.minutes * 60, arguments.end)
        arguments.file.write_text(draw(source), encoding="utf-8")


def draw(source: Source) -> str:
    """Return the SVG document."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    boxes = [_box(panel["gridPos"]) for panel in panels]
    parts = [_panel(panel, box, source) for panel, box in zip(panels, boxes, strict=True)]
    width, height = 24 * _X, max(box.y + box.height for box in boxes) + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#f4f5f5"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(place: Mapping[str, int]) -> Box:
    return Box(place["x"] * _X + _GAP / 2, place["y"] * _Y, place["w"] * _X - _GAP, place["h"] * _Y - _GAP)


def _panel(panel: Panel, box: Box, source: Source) -> str:
    if panel["type"] == "row":
        return _text(box.x, box.y + 15, panel["title"], "r")
    frame = f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="2" fill="#fff"/>'
    drawing = _DRAWINGS[panel["type"]]
    content = drawing(box, source.series(panel), panel["fieldConfig"]["defaults"])
    return frame + _text(box.x + 8, box.y + 15, panel["title"], "t") + content


def _lines(box: Box, series: list[Series], defaults: Mapping[str, Any]) -> str:
    shown = series[:_MAX_SERIES]
    rows = _legend_rows([one.name for one in shown])
    plot = Box(box.x + 48, box.y + 26, box.width - 58, box.height - 40 - 12 * len(rows))
    values = [value for one in shown for value in one.points.values()]
    low, high = min([0.0, *values]), max(values, default=0.0)
    high = high if high > low else low + 1
    parts = [_grid(plot, low, high, defaults["unit"])]
    for number, one in enumerate(shown):
        points = " ".join(
            f"{plot.x + step / _STEPS * plot.width:.0f},{plot.y + (high - value) / (high - low) * plot.height:.1f}"
            for step, value in one.points.items()
        )
        parts.append(f'<polyline stroke="{_COLOURS[number]}" points="{points}"/>')
    return "".join(parts) + _legend(box, rows)


def _grid(plot: Box, low: float, high: float, unit: str) -> str:
    parts = []
    for part in (0, 0.5, 1):
        y = plot.y + plot.height * (1 - part)
        parts.append(f'<path d="M{plot.x:g} {y:.1f}h{plot.width:g}" stroke="#e4e4e4"/>')
        parts.append(_text(plot.x - 4, y + 3, _shown(low + (high - low) * part, unit), "a", "end"))
    return "".join(parts)


def _legend_rows(names: list[str]) -> list[list[tuple[int, str]]]:
    """Return the numbered names in rows that fit below a panel."""
    rows: list[list[tuple[int, str]]] = [[]]
    for number, name in enumerate(names):
        if sum(len(other) + 4 for _, other in rows[-1]) + len(name) > _LEGEND_CHARACTERS and rows[-1]:
            rows.append([])
        rows[-1].append((number, name))
    return rows


def _legend(box: Box, rows: list[list[tuple[int, str]]]) -> str:
    parts = []
    for index, row in enumerate(rows):
        x, y = box.x + 10, box.y + box.height - 6 - 12 * (len(rows) - 1 - index)
        for number, name in row:
            parts.append(f'<rect x="{x:g}" y="{y - 5:g}" width="8" height="3" fill="{_COLOURS[number]}"/>')
            parts.append(_text(x + 11, y, name, "a"))
            x += 20 + 5.1 * len(name)
    return "".join(parts)


def _stat(box: Box, series: list[Series], defaults: Mapping[str, Any]) -> str:
    value = next((list(one.points.values())[-1] for one in series if one.points), math.nan)
    return _text(box.x + box.width / 2, box.y + box.height / 2 + 14, _shown(value, defaults["unit"]), "s", "middle")


def _states(box: Box, series: list[Series], _: Mapping[str, Any]) -> str:
    """Draw a bar for each series, red where its value is not 0."""
    shown = series[:_MAX_STATES]
    height = min(16.0, (box.height - 32) / max(1, len(shown)))
    parts = []
    for index, one in enumerate(shown):
        y, left = box.y + 26 + index * height, box.x + 110
        unit = (box.width - 118) / (_STEPS + 1)
        parts.append(_text(left - 4, y + height - 4, one.name[:_STATE_CHARACTERS], "a", "end"))
        for first, last, value in _runs(one.points):
            place = f'x="{left + first * unit:.1f}" width="{(last - first + 1) * unit:.1f}"'
            colour = "#e02f44" if value else "#b5dfae"
            parts.append(f'<rect {place} y="{y:.1f}" height="{height - 2:.1f}" fill="{colour}"/>')
    return "".join(parts)


def _runs(points: Mapping[int, float]) -> list[tuple[int, int, float]]:
    """Return the first step, the last step and the value of each run of equal values."""
    runs: list[tuple[int, int, float]] = []
    for step, value in sorted(points.items()):
        if runs and runs[-1][1] == step - 1 and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], step, value)
        else:
            runs.append((step, step, value))
    return runs


def _heat(box: Box, series: list[Series], _: Mapping[str, Any]) -> str:
    """Draw a cell for each bucket of a cumulative histogram and each fourth step."""
    buckets = sorted(series, key=lambda one: float(one.name))
    counts: dict[tuple[int, int], float] = {}
    for index, bucket in enumerate(buckets):
        below = buckets[index - 1].points if index else {}
        counts |= {(index, step): value - below.get(step, 0) for step, value in bucket.points.items() if step % 4 == 0}
    most = max(counts.values(), default=0) or 1
    height, width, left = (box.height - 34) / max(1, len(buckets)), (box.width - 58) / (_STEPS / 4 + 1), box.x + 48
    bottom = box.y + box.height - 8
    labels = [
        _text(left - 4, bottom - index * height - 1, f"{one.name} s", "a", "end")
        for index, one in enumerate(buckets)
        if index % 3 == 0
    ]
    cells = [
        f'<rect x="{left + step / 4 * width:.1f}" y="{bottom - (index + 1) * height:.1f}" width="{width - 1:.1f}" '
        f'height="{height - 0.5:.1f}" fill="#d9480f" opacity="{max(0.12, math.sqrt(count / most)):.2f}"/>'
        for (index, step), count in counts.items()
        if count > 0
    ]
    return "".join(labels + cells)


def _table(box: Box, series: list[Series], _: Mapping[str, Any]) -> str:
    return "".join(_text(box.x + 10, box.y + 36 + 16 * index, one.name) for index, one in enumerate(series))


_DRAWINGS: Mapping[str, Callable[[Box, list[Series], Mapping[str, Any]], str]] = {
    "timeseries": _lines,
    "stat": _stat,
    "state-timeline": _states,
    "heatmap": _heat,
    "table": _table,
}


def _name(template: str, labels: Mapping[str, str]) -> str:
    if not template:
        return ", ".join(f"{label}: {value}" for label, value in labels.items())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template).strip()


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    size, suffix = next(((size, suffix) for size, suffix in _SUFFIXES if abs(value) >= size), (1, ""))
    return f"{value / size:.3g} {suffix}{ {'s': 's', 'ops': '/s', 'bytes': 'B'}.get(unit, '') }".rstrip()


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    where = f'x="{x:.0f}" y="{y:.0f}" class="{style}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f"<text {where}>{escape(text)}</text>"


if __name__ == "__main__":
    main()
