"""Assigns processor cores to the subject of a benchmark and to the processes around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import psutil


@dataclass(frozen=True, slots=True)
class Cores:
    """The numbers of the cores for each side; empty where the platform cannot pin processes."""

    environment: list[int]
    """For everything but the subject: load generator, emulator, flow."""
    subject: list[int]
    """For the measured process; the last core. On a machine with one core, both sides share it."""


def cores() -> Cores:
    """Divide the cores that this process may use."""
    allowed = _allowed_cores()
    return Cores(allowed[:-1], allowed[-1:]) if len(allowed) > 1 else Cores(allowed, allowed)


@cache  # `pin` narrows this process's own affinity, so only the first answer lists all cores
def _allowed_cores() -> list[int]:
    try:
        return psutil.Process().cpu_affinity() or []
    except AttributeError:  # psutil has no cpu_affinity on macOS
        return []


def pin(numbers: list[int]) -> None:
    """Keep this process, and the processes that it starts from now on, on these cores."""
    if numbers:
        psutil.Process().cpu_affinity(numbers)
