"""The turns of flows at the thread that decodes large answers."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from flow_contracts.strict_json import Rest
from flow_worker.flows import answer_reader
from flow_worker.flows.answer import Content
from flow_worker.flows.answer_reader import AnswerReader, Received
from flow_worker.flows.decoding_turns import DecodingTurns

LARGE = b"a" * 40_000


async def test_flows_take_turns_and_a_flow_with_many_answers_waits_behind_itself() -> None:
    turns = DecodingTurns()
    order: list[str] = []

    async def decode(flow: str) -> None:
        await turns.take(flow)
        order.append(flow)
        await asyncio.sleep(0)
        turns.release()

    async with asyncio.TaskGroup() as group:
        for flow in ("a", "a", "a", "a", "b", "c", "b"):
            group.create_task(decode(flow))
    assert order == ["a", "a", "b", "c", "a", "b", "a"]
    await asyncio.wait_for(turns.take("a"), 1)


@pytest.mark.parametrize("comes", [True, False], ids=["at the moment of its turn", "before"])
async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next(comes: bool) -> None:
    turns = DecodingTurns()
    await turns.take("a")
    left, stays = (asyncio.create_task(turns.take(flow)) for flow in ("b", "c"))
    await asyncio.sleep(0)
    if comes:
        turns.release()
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    if not comes:
        turns.release()
    await asyncio.wait_for(stays, 1)


async def test_the_deadline_of_an_answer_begins_with_its_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(body: bytes, content_type: str | None, *, token: str, rest: Rest) -> Content:
        time.sleep(0.3)
        return Content(len(body))

    monkeypatch.setattr(answer_reader, "decode_body", slow)
    reader = AnswerReader(max_bytes=100_000, decode_seconds=1)
    evil = [asyncio.create_task(_answer(reader, "evil")) for _ in range(6)]
    await asyncio.sleep(0)
    began = time.monotonic()
    assert (await _answer(reader, "good")).size == len(LARGE), "behind one answer of the other flow"
    assert time.monotonic() - began < 1.5
    assert [content.unread is None for content in await asyncio.gather(*evil)][:3] == [True] * 3
    reader.close()


async def test_a_turn_lasts_until_the_thread_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def stuck(body: bytes, content_type: str | None, *, token: str, rest: Rest) -> Content:
        free.wait(10)
        return Content(1)

    monkeypatch.setattr(answer_reader, "decode_body", stuck)
    reader = AnswerReader(max_bytes=100_000, decode_seconds=0.1)
    first = await _answer(reader, "a")
    assert first.unread is not None
    assert first.unread.code == "output_not_decoded"
    second = asyncio.create_task(_answer(reader, "b"))
    await asyncio.sleep(0)
    free.set()
    assert (await second).size == 1, "its deadline did not run meanwhile"
    reader.close()


async def _answer(reader: AnswerReader, flow: str) -> Content:
    return (await reader.answer(Received(200, "http://x", {}, LARGE), "", flow=flow)).content
