"""One line for each key and interval, in bounded memory."""

from __future__ import annotations

from flow_worker.telemetry.seldom import Seldom


class Time:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_due_once_in_each_interval() -> None:
    time = Time()
    seldom = Seldom(seconds=60, monotonic=time)
    assert [seldom.is_due(key) for key in ("a", "a", "b", "a")] == [True, False, True, False]
    time.now = 59.9
    assert not seldom.is_due("a")
    time.now = 60.0
    assert [seldom.is_due(key) for key in ("a", "a", "b")] == [True, False, True]


def test_invented_keys_cost_a_bounded_number_of_lines_and_no_memory() -> None:
    time = Time()
    seldom = Seldom(seconds=60, max_keys=3, monotonic=time)
    assert sum(seldom.is_due(str(number)) for number in range(1000)) == 3
    assert len(seldom._written) == 3
    time.now = 61
    assert sum(seldom.is_due(str(number)) for number in range(1000)) == 3
