"""The pauses before a flow is called again and before a run is polled again."""

from __future__ import annotations

from datetime import timedelta

from flow_contracts.backoff import ExponentialBackoff
from flow_worker.settings import RetrySettings

_POLL_PART = 1 / 10
"""A poll waits for this part of the run's duration so far, so that the worker polls long runs less often."""


def retry_pause(retry: RetrySettings, failures: int) -> timedelta:
    """Return the pause after that many failures: exponential with full jitter, at most `max_pause_seconds`."""
    backoff = ExponentialBackoff(retry.base_seconds, retry.max_pause_seconds, jitter_from=0.0)
    return timedelta(seconds=backoff.seconds(failures))


def poll_pause(retry: RetrySettings, running: timedelta) -> timedelta:
    """Return the pause before the next status poll of a run that has lasted `running` so far.

    At least `poll_seconds`; above that at most `max_pause_seconds`.
    """
    seconds = max(retry.poll_seconds, min(retry.max_pause_seconds, running.total_seconds() * _POLL_PART))
    return timedelta(seconds=seconds)
