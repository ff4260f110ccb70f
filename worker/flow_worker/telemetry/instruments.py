"""The instruments that record metrics, and the form of a metric's definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flow_worker.telemetry.histograms import Histogram

if TYPE_CHECKING:  # the API takes 50 ms to import, which commands without metrics need not pay for
    from opentelemetry.metrics import Meter

ERROR_TYPE = "error.type"
"""The attribute that only a failed operation has."""

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300)
"""The buckets of the semantic conventions, and longer ones: a flow may take up to 120 s, or longer with 202."""
SHORT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Kind(StrEnum):
    """The kind of a metric."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: Sequence[float] = SECONDS_BUCKETS
    """Of a histogram."""


Attributes = Mapping[str, str | int]
Sample = tuple[float, Attributes]
"""A value of a gauge with its attributes."""
ReadGauge = Callable[[], Iterable[Sample]]
ReadGauges = Callable[[], Mapping[str, Iterable[Sample]]]
"""Returns the samples of several gauges by their names."""


class Tally:
    """A counter that costs one dictionary update; the SDK reads the totals when it exports.

    `Counter.add` of the SDK costs about 7 µs, and a request counts five times. Only the event loop adds.
    """

    def __init__(self, definition: Definition, meter: Meter) -> None:
        self._names = definition.attributes
        self._totals: dict[tuple[str, ...], int] = {}
        observe(meter.create_observable_counter, definition, self._samples)

    def begin(self, *values: str) -> None:
        """Export 0 until the first `add`. Prometheus sees no increase from an absent series to 1."""
        self._totals.setdefault(values, 0)

    def add(self, *values: str) -> None:
        """Count one more with these values of the definition's attributes."""
        self._totals[values] = self._totals.get(values, 0) + 1

    def _samples(self) -> list[Sample]:
        return [(total, _present(self._names, values)) for values, total in list(self._totals.items())]


class Timer:
    """A histogram of durations, with the attributes in the order of its definition."""

    def __init__(self, definition: Definition, meter: Meter, histograms: list[Histogram] | None) -> None:
        """`histograms`: takes the worker's own histogram, which the exporters read; None for one of the SDK."""
        self._names = definition.attributes
        self._cache: dict[tuple[str | int, ...], dict[str, Any]] = {}
        self._record: Callable[[float, dict[str, Any]], None]
        self._own: Histogram | None = None
        names = definition.name, definition.unit, definition.description
        if histograms is None:
            of_sdk = meter.create_histogram(*names, explicit_bucket_boundaries_advisory=list(definition.buckets))
            self._record = of_sdk.record
        else:
            self._own = Histogram(*names, definition.buckets)
            histograms.append(self._own)
            self._record = self._own.record

    def begin(self, *values: str | int) -> None:
        """Export zeros until the first `record`, as `Tally.begin` does. A histogram of the SDK cannot do that."""
        if self._own is not None:
            self._own.begin(self._cache.setdefault(values, _present(self._names, values)))

    def record(self, seconds: float, *values: str | int) -> None:
        """Record a duration. An empty value leaves its attribute out."""
        attributes = self._cache.get(values)
        if attributes is None:  # the values are bounded, and so is the cache
            attributes = self._cache[values] = _present(self._names, values)
        self._record(seconds if seconds > 0 else 0.0, attributes)


def observe(create: Callable[..., object], definition: Definition, samples: ReadGauge) -> None:
    """Create an observable instrument, whose exporters call `samples` in their threads."""
    from opentelemetry.metrics import Observation

    def observe(_: object) -> list[Observation]:
        return [Observation(value, attributes) for value, attributes in samples()]

    create(definition.name, [observe], definition.unit, definition.description)


def _present(names: Sequence[str], values: Sequence[str | int]) -> dict[str, Any]:
    return {name: value for name, value in zip(names, values, strict=True) if value != ""}
