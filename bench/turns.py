"""What was measured turn by turn, alone and beside trouble, and what is made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from bench.samples import Summary


@dataclass(frozen=True, slots=True)
class Sample:
    """One good request."""

    at: float
    """Seconds from the beginning of its turn."""
    seconds: float
    """From submit to result."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What became of the requests for the flows in trouble, by the end of their turn."""

    sent: int
    called: int
    """Requests for which a flow was called, however often. The others were put off each time they came."""
    hanging: int
    """Calls never answered: each holds a lane until its time is up."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The good requests of one turn; `noise` is None if they were alone."""

    samples: Sequence[Sample]
    noise: Noise | None = None

    @property
    def summary(self) -> Summary:
        """Of its times."""
        return summary_of([self])


@dataclass
class Measured:
    """All turns of a run."""

    alone: list[Turn] = field(default_factory=list)
    beside: list[Turn] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median beside trouble over median alone, over all turns."""
        return summary_of(self.beside).median / summary_of(self.alone).median


def summary_of(turns: Iterable[Turn]) -> Summary:
    """Of all turns together."""
    return Summary.of([sample.seconds for turn in turns for sample in turn.samples])


def by_second(turns: Iterable[Turn]) -> dict[int, Summary]:
    """Of all turns together, by the second of its turn in which a request was sent.

    A median over whole turns says nothing of a trouble that lasts for less than half of each.
    """
    times: dict[int, list[float]] = defaultdict(list)
    for turn in turns:
        for sample in turn.samples:
            times[int(sample.at)].append(sample.seconds)
    return {second: Summary.of(times[second]) for second in sorted(times)}


def as_json(measured: Measured) -> dict[str, object]:
    """Everything, for programs. Times are in seconds."""
    return {
        "alone": _part(measured.alone),
        "beside": _part(measured.beside),
        "ratio": measured.ratio,
    }


def _part(turns: Sequence[Turn]) -> dict[str, object]:
    return {
        **asdict(summary_of(turns)),
        "by_second": {second: asdict(summary) for second, summary in by_second(turns).items()},
        "turns": [asdict(turn.summary) | {"noise": asdict(turn.noise) if turn.noise else None} for turn in turns],
    }
