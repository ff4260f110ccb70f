"""Compares the response times of good requests alone and with noise, phase by phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from bench.summary import Summary


@dataclass(frozen=True, slots=True)
class Sample:
    """One good request."""

    at: float
    """When the request was due, in seconds since the start of its phase."""
    seconds: float
    """From submit to result."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The requests for the failing flows, counted at the end of their phase."""

    sent: int
    called: int
    """Requests for which the worker called a flow at least once. It postponed the others each time they arrived."""
    hanging: int
    """Calls without an answer. Each occupies a lane until the call times out."""
    flooded: int = 0
    """Requests of the flooding sender."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The good requests of one phase; `noise` is None if they ran alone."""

    samples: Sequence[Sample]
    noise: Noise | None = None

    @property
    def summary(self) -> Summary:
        """The response times of this phase."""
        return summary_of([self])


@dataclass
class Comparison:
    """All phases of a run, by the presence of noise."""

    alone: list[Phase] = field(default_factory=list)
    with_noise: list[Phase] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median with noise divided by the median alone, over all phases."""
        return summary_of(self.with_noise).median / summary_of(self.alone).median


def summary_of(phases: Iterable[Phase]) -> Summary:
    """Summarize the response times of all phases together."""
    return Summary.of([sample.seconds for phase in phases for sample in phase.samples])


def by_second(phases: Iterable[Phase]) -> dict[int, Summary]:
    """Summarize the response times of all phases by the second of the phase in which a request was due.

    The median over whole phases hides a disturbance that lasts for less than half of each phase.
    """
    times: dict[int, list[float]] = defaultdict(list)
    for phase in phases:
        for sample in phase.samples:
            times[int(sample.at)].append(sample.seconds)
    return {second: Summary.of(times[second]) for second in sorted(times)}


def as_json(comparison: Comparison) -> dict[str, object]:
    """Return all figures for programs. Durations are in seconds."""
    return {
        "alone": _part(comparison.alone),
        "with_noise": _part(comparison.with_noise),
        "ratio": comparison.ratio,
    }


def _part(phases: Sequence[Phase]) -> dict[str, object]:
    return {
        **asdict(summary_of(phases)),
        "by_second": {second: asdict(summary) for second, summary in by_second(phases).items()},
        "phases": [asdict(phase.summary) | {"noise": asdict(phase.noise) if phase.noise else None} for phase in phases],
    }
