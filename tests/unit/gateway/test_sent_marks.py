"""Marks of sent requests are written together, and only those that are still needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.marks import SentMarks


class Writes:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failure: Exception | None = None

    async def write(self, request_ids: Sequence[str]) -> None:
        self.batches.append(list(request_ids))
        if self.failure is not None:
            raise self.failure


async def written(marks: SentMarks) -> None:
    async with asyncio.timeout(5):
        await marks.aclose()


async def test_marks_of_a_moment_are_written_in_steps() -> None:
    writes = Writes()
    marks = SentMarks(writes.write, step=2)
    for one in ("a", "b", "c"):
        marks.add(one)
    assert "a" in marks
    assert writes.batches == []
    await written(marks)
    assert writes.batches == [["a", "b"], ["c"]]
    assert "a" not in marks


async def test_the_mark_of_a_request_with_a_result_is_not_written() -> None:
    writes = Writes()
    marks = SentMarks(writes.write, step=10, delay_seconds=0.01)
    marks.add("a")
    marks.add("b")
    marks.discard("a")
    await written(marks)
    assert writes.batches == [["b"]]


async def test_a_failed_mark_is_logged_and_holds_up_no_others(caplog: pytest.LogCaptureFixture) -> None:
    writes = Writes()
    writes.failure = TemporarilyUnavailable("unavailable", "the disk is full")
    marks = SentMarks(writes.write, step=1, delay_seconds=0.01)
    marks.add("a")
    marks.add("b")
    await written(marks)
    assert writes.batches == [["a"], ["b"]]
    assert caplog.text.count("does not know that the request queue accepted") == 2
    assert "a" not in marks
