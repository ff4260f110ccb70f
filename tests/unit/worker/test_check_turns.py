"""The turn of an input check passes on the cancellation of its caller."""

from __future__ import annotations

import asyncio

import pytest

from flow_worker.flows.check_turns import Turn


async def test_an_answer_does_not_hide_a_cancellation_that_comes_with_it() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def check() -> str:
        return await answer

    running = asyncio.create_task(Turn(asyncio.Semaphore(1), holds_long_place=False).run(check()))
    await asyncio.sleep(0.01)
    answer.set_result("valid")
    # The check ends in the next turn of the event loop, and its caller would get the answer in the one after that.
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: loop.call_soon(running.cancel))
    with pytest.raises(asyncio.CancelledError):
        await running
