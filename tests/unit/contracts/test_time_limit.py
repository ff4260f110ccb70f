"""A call of the SDK that swallows a cancellation ends in its time, and the cancellation reaches the caller."""

from __future__ import annotations

import asyncio

import pytest

from flow_contracts.servicebus import ServiceBusUnavailable, time_limit
from flow_contracts.servicebus.calls import bounded, close_quietly


async def swallow(times: int, *, error: Exception | None = None) -> str:
    """Run on after so many cancellations, as the SDK does when data arrives together with one."""
    for _ in range(times):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue
    if error is not None:
        raise error
    return "data"


async def test_a_call_that_swallows_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "_AGAIN_SECONDS", 0.01)

    async def endless() -> None:
        await swallow(3)
        await asyncio.sleep(60)

    async with asyncio.timeout(10):
        with pytest.raises(ServiceBusUnavailable, match=r"peek: no answer within 0.01 s"):
            await bounded(endless(), 0.01, "peek")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("error", [None, ValueError("the SDK's own")])
async def test_a_timeout_around_many_calls_ends_although_one_call_swallows_it(error: Exception | None) -> None:
    calls = 0

    async def poll() -> None:
        nonlocal calls
        async with asyncio.timeout(0.01):
            while calls < 3:
                calls += 1
                await bounded(swallow(1, error=error), 60, "peek")

    with pytest.raises(TimeoutError):
        await poll()
    assert calls == 1


async def test_the_answer_of_wait_for_does_not_hide_the_cancellation() -> None:
    """This is the SDK's way of reading: before Python 3.12 `wait_for` drops a cancellation that comes with the data."""
    loop = asyncio.get_running_loop()
    data = loop.create_future()
    reader = asyncio.create_task(bounded(asyncio.wait_for(data, 60), 60, "peek"))

    def arrive_and_cancel() -> None:
        data.set_result("data")
        loop.call_soon(reader.cancel)

    loop.call_later(0.01, arrive_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await reader


class Closeable:
    async def close(self) -> None:
        await swallow(1)


async def test_closing_does_not_hide_the_cancellation() -> None:
    closeable: object = Closeable()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await close_quietly(closeable)  # type: ignore[arg-type] # stands for a link of the SDK


async def test_a_call_in_time_returns_its_value_and_raises_its_error() -> None:
    assert await bounded(swallow(0), 60, "peek") == "data"
    with pytest.raises(ServiceBusUnavailable, match="ValueError: x"):
        await bounded(swallow(0, error=ValueError("x")), 60, "peek")
