"""The deadline over the whole stop: how the supervisor divides it, and what ends the process after it."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from dataclasses import dataclass, field

import pytest

from flow_worker.runtime.periodic_task import PeriodicTask
from flow_worker.runtime.stop_deadline import StopDeadline
from flow_worker.runtime.stopping import unless_set
from flow_worker.runtime.supervisor import Supervisor, leave_after
from flow_worker.settings import Settings
from flow_worker.telemetry.health import Health
from tests.unit.docs.pages import ROOT

MARGIN_SECONDS = 2.0
"""Between the worker's own deadline and the moment when the container is killed."""


@dataclass
class Stuck:
    """A service that does not end: on its second interruption at the earliest, or never."""

    name: str = "flow-requests#0"
    ends: bool = False
    interruptions: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        await self.done.wait()

    def stop(self) -> None:
        pass

    def interrupt(self) -> None:
        self.interruptions += 1
        if self.ends and self.interruptions > 1:
            self.done.set()


@pytest.mark.parametrize("ends", [True, False])
async def test_the_supervisor_leaves_services_that_do_not_end(ends: bool, caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck(ends=ends)
    begun: list[bool] = []
    supervisor = Supervisor([stuck], Health(), grace_seconds=0.1, stop_seconds=0.5, on_stop=begun.append)
    supervisor.stop()
    began = time.monotonic()
    await supervisor.run()
    assert time.monotonic() - began < 2
    assert begun == [False]
    assert stuck.interruptions == 2
    [record] = [each for each in caplog.records if getattr(each, "event", "") == "supervisor.stopped_early"]
    assert ("flow-requests#0" in record.getMessage()) is not ends


async def test_a_failed_service_ends_the_process_with_an_error_also_at_the_deadline() -> None:
    class Failing(Stuck):
        async def run(self) -> None:
            raise RuntimeError("a fault")

    failed: list[bool] = []
    supervisor = Supervisor([Failing(), Stuck()], Health(), grace_seconds=0, stop_seconds=0.1, on_stop=failed.append)
    with pytest.raises(RuntimeError, match="a fault"):
        await supervisor.run()
    assert failed == [True]


@pytest.mark.parametrize(("grace", "whole", "expected"), [(30, 38, 35), (1, 3, 2), (5, 5, 5), (0, 1, 0.5)])
def test_the_time_for_closing_is_a_part_of_the_time_after_the_grace(
    grace: float, whole: float, expected: float
) -> None:
    assert leave_after(grace, whole) == expected


def test_the_deadline_ends_the_process_although_the_loop_is_blocked() -> None:
    ended, statuses = threading.Event(), list[int]()

    def exit_(status: int) -> None:
        statuses.append(status)
        ended.set()

    deadline = StopDeadline(0.05, exit_=exit_)
    deadline.start()
    deadline.start(True)  # a lane failed during the stop
    assert ended.wait(5)
    assert statuses == [1]


def test_a_stop_in_time_is_not_ended() -> None:
    ended = threading.Event()
    deadline = StopDeadline(0.2, exit_=lambda _: ended.set())
    deadline.start()
    deadline.cancel()
    assert not ended.wait(0.5)


async def test_an_opening_is_cut_short_and_closes_what_it_opened() -> None:
    event, opened, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def opening() -> str:
        try:
            opened.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.set()
        return "open"

    waiting = asyncio.create_task(unless_set(event, opening()))
    await opened.wait()
    event.set()
    assert await waiting is None
    assert closed.is_set()


async def test_work_that_ends_first_returns_its_result_or_its_error() -> None:
    async def fail() -> None:
        raise OSError("no network")

    assert await unless_set(asyncio.Event(), asyncio.sleep(0, "done")) == "done"
    with pytest.raises(OSError, match="no network"):
        await unless_set(asyncio.Event(), fail())


async def test_a_periodic_task_pauses_as_long_as_its_work_demands() -> None:
    rounds: list[float] = []
    pauses = iter([0.3, 60.0])
    twice = asyncio.Event()

    async def work() -> None:
        rounds.append(time.monotonic())
        if len(rounds) == 2:
            twice.set()

    task = PeriodicTask("work", work, every_seconds=0.01, pause_seconds=lambda: next(pauses))
    running = asyncio.create_task(task.run())
    await twice.wait()
    task.stop()
    await running
    assert rounds[1] - rounds[0] >= 0.3


# --- the default settings ----------------------------------------------------------------------------------------


def default_stop_seconds() -> float:
    """Return the longest stop with the default settings."""
    fields = Settings.model_fields
    grace = fields["shutdown_grace_seconds"].default
    return Settings.model_construct(shutdown_grace_seconds=grace, shutdown_seconds=None).stop_seconds


@pytest.mark.parametrize("page", ["docs/how-to/deploy.md", "Dockerfile"])
def test_the_advised_stop_timeout_follows_from_the_default_settings(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    advised = re.findall(r"--stop-timeout (\d+)|terminationGracePeriodSeconds: (\d+)|(\d+) seconds to stop", text)
    assert advised
    assert {float("".join(numbers)) for numbers in advised} == {default_stop_seconds() + MARGIN_SECONDS}
