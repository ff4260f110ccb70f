from __future__ import annotations

from itertools import islice

import pytest

from flow_contracts.backoff import backoff


def test_pauses_grow_from_the_first_to_the_maximum() -> None:
    assert list(islice(backoff(0.5, 2.0), 5)) == pytest.approx([0.5, 0.8, 1.28, 2.0, 2.0])


def test_an_outage_of_days_does_not_exhaust_the_pauses() -> None:
    assert next(islice(backoff(0.2, 5.0), 100_000, None)) == 5.0
