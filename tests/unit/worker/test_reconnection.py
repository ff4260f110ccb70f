"""The pauses before a receiver reconnects."""

from __future__ import annotations

import pytest

from flow_worker.runtime.reconnection import reconnect_pause


@pytest.mark.parametrize("failures", [1, 5, 2_000, 1_000_000])
def test_the_pause_before_reconnecting_grows_to_its_bound_and_never_overflows(failures: int) -> None:
    assert 0.25 <= reconnect_pause(failures, 5) <= 5
