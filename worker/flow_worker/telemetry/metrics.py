"""All metrics of the worker: their names, units, descriptions and attributes, and the objects that record them.

The values of attributes are bounded: names from the settings, and codes from the worker's own list. Texts of senders
and of flows never become values. `docs/reference/metrics.md` lists the metrics for operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable

if TYPE_CHECKING:  # the API takes 50 ms to import, which commands without metrics need not pay for
    from opentelemetry.metrics import Meter

ERROR_TYPE = "error.type"
"""The attribute that only a failed operation has."""

OTHER = "_OTHER"
"""The value for every name or code that is not on a list of ours; the semantic conventions use the same one."""

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


# --- the journal and the clock ---------------------------------------------------------------------------------------

JOURNAL_DURATION = Definition(
    "flow_worker.journal.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the journal's operations; a failed one has error.type.",
    ("operation", ERROR_TYPE),
    SHORT_BUCKETS,
)
JOURNAL_AVAILABLE = Definition(
    "flow_worker.journal.available", Kind.GAUGE, "1", "1 while the journal takes new requests, else 0."
)
JOURNAL_LOG_SIZE = Definition(
    "flow_worker.journal.log.size", Kind.GAUGE, "By", "Bytes of the SQLite journal's write-ahead log in use."
)
CLOCK_OFFSET = Definition(
    "flow_worker.broker.clock_offset",
    Kind.GAUGE,
    "s",
    "Time by which this machine's clock is ahead of the broker's; negative if it is behind.",
)

# --- the process -----------------------------------------------------------------------------------------------------

BUILD_INFO = Definition(
    "flow_worker.build.info", Kind.GAUGE, "", "Always 1; the labels name the versions.", ("version", "python_version")
)

Attributes = Mapping[str, str | int]
Sample = tuple[float, Attributes]
"""A value of a gauge with its attributes."""
ReadGauge = Callable[[], Iterable[Sample]]


class Tally:
    """A counter that costs one dictionary update; the SDK reads the totals when it exports.

    `Counter.add` of the SDK costs about 7 µs, and a request counts five times. Only the event loop adds.
    """

    def __init__(self, definition: Definition, meter: Meter) -> None:
        self._names = definition.attributes
        self._totals: dict[tuple[str, ...], int] = {}
        _observe(meter.create_observable_counter, definition, self._samples)

    def add(self, *values: str) -> None:
        """Count one more with these values of the definition's attributes."""
        self._totals[values] = self._totals.get(values, 0) + 1

    def _samples(self) -> list[Sample]:
        return [(total, _present(self._names, values)) for values, total in list(self._totals.items())]


class Timer:
    """A histogram of durations, with the attributes in the order of its definition."""

    def __init__(self, definition: Definition, meter: Meter) -> None:
        self._names = definition.attributes
        self._histogram = meter.create_histogram(
            definition.name,
            definition.unit,
            definition.description,
            explicit_bucket_boundaries_advisory=list(definition.buckets),
        )
        self._cache: dict[tuple[str | int, ...], dict[str, Any]] = {}

    def record(self, seconds: float, *values: str | int) -> None:
        """Record a duration. An empty value leaves its attribute out."""
        attributes = self._cache.get(values)
        if attributes is None:  # the values are bounded, and so is the cache
            attributes = self._cache[values] = _present(self._names, values)
        self._histogram.record(max(0.0, seconds), attributes)


class Metrics:
    """The metrics of one worker."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._gauges: dict[str, ReadGauge] = {}
        self._samples: dict[str, list[Sample]] = {}
        self.journal_duration = Timer(JOURNAL_DURATION, meter)

    def gauge(self, definition: Definition, read: ReadGauge) -> None:
        """Register the reader of a gauge. It runs in the event loop, when `sample` does."""
        name = definition.name
        self._gauges[name] = read
        _observe(self._meter.create_observable_gauge, definition, lambda: self._samples.get(name, ()))

    def sample(self) -> None:
        """Read all gauges. Exporters run in threads of their own, so that they get the values of the latest sample."""
        for name, read in self._gauges.items():
            self._samples[name] = list(read())


def _observe(create: Callable[..., object], definition: Definition, samples: ReadGauge) -> None:
    """Create an observable instrument, whose exporters call `samples` in their threads."""
    from opentelemetry.metrics import Observation

    def observe(_: object) -> list[Observation]:
        return [Observation(value, attributes) for value, attributes in samples()]

    create(definition.name, [observe], definition.unit, definition.description)


def _present(names: Sequence[str], values: Sequence[str | int]) -> dict[str, Any]:
    return {name: value for name, value in zip(names, values, strict=True) if value != ""}


def error_type(error: BaseException) -> str:
    """Return the value of `error.type`: the code of the worker's own errors, else the error's class."""
    return error.code if isinstance(error, Refused | TemporarilyUnavailable | CallFailed) else type(error).__name__
