"""Names the programs that the benchmark measures, and the conditions under which it measures them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Subject(StrEnum):
    """A program that processes the requests."""

    FLOOR = "floor"
    DOCUMENTED = "documented"
    SEQUENTIAL = "sequential"
    CELERY = "celery"
    """Celery with its thread pool."""
    CELERY_PREFORK = "celery prefork"
    """Celery with its process pool, its default."""
    WORKER = "flow-worker"
    TWO_WORKERS = "flow-worker twice"
    """Two worker processes, each with half of the lanes."""


DEFAULT_SUBJECTS = (Subject.FLOOR, Subject.DOCUMENTED, Subject.CELERY, Subject.CELERY_PREFORK, Subject.WORKER)


@dataclass(frozen=True, slots=True)
class Case:
    """A subject and its conditions."""

    subject: Subject
    lanes: int
    flow_ms: float = 0
    """The flow answers after this time."""
    round_trip_ms: float = 0
    """Added between the subject and the broker, on top of the machine's own loopback time."""
