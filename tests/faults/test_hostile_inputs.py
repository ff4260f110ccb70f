"""Inputs that are made to cost time: the worker refuses them and serves the other senders meanwhile."""

from __future__ import annotations

import asyncio

from pydantic import JsonValue

from tests.support.system import WAIT, System

BACKTRACKING: dict[str, JsonValue] = {"type": "object", "properties": {"name": {"pattern": "^(a+)+$"}}}
ENDLESS: JsonValue = {"name": "a" * 60 + "!"}


async def test_a_sender_of_endless_checks_delays_no_other_sender(system: System) -> None:
    system.flows["create-quote"] = {"input_schema": BACKTRACKING}
    await system.put("flows/create-quote", {"input_schema": None})
    settings = system.settings(input_checks={"deadline_seconds": 0.5})
    async with system.worker(settings), system.client() as client, client.background() as background:
        hostile = [
            asyncio.create_task(background.request("create-quote", ENDLESS, WAIT, claim=system.claim(user="bob")))
            for _ in range(3)
        ]
        for name in ("a", "aa", "aaa"):
            good = await background.request("create-quote", {"name": name}, WAIT, claim=system.claim())
            assert good.status == "succeeded"
        for refused in await asyncio.gather(*hostile):
            assert (refused.status, refused.error and refused.error.code) == ("refused", "input_too_complex")
        assert len(await system.calls("create-quote")) == 3
