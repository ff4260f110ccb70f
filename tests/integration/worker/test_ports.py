"""Each of the worker's ports can be wrapped by an adapter: bus, journal and caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flow_worker.app import Ports, assembled
from tests.support.system import WAIT, running_system, until

Call = tuple[str, str]
"""The port and the method that was called."""


class Recording:
    """Passes each call on to a port, and records it."""

    def __init__(self, name: str, port: object, calls: list[Call]) -> None:
        self._name = name
        self._port = port
        self._calls = calls

    def __getattr__(self, method: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(self._port, method)

        def call(*arguments: Any, **options: Any) -> Any:
            self._calls.append((self._name, method))
            return original(*arguments, **options)

        return call


async def test_a_request_passes_through_wrappers_around_bus_journal_and_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []

    def wrap(ports: Ports) -> Ports:
        recording: Any = {  # a recorder answers to every protocol
            name: Recording(name, getattr(ports, name), calls) for name in Ports.__dataclass_fields__
        }
        return Ports(**recording)

    async with running_system(monkeypatch) as system, assembled(system.settings(), wrap) as supervisor:
        running = asyncio.create_task(supervisor.run())
        await until(lambda: bool(supervisor.health.report()["ready"]))
        async with system.client() as client:
            sent = await client.submit("notify-team", {}, claim=system.claim())
            assert (await client.wait(sent, WAIT)).status == "succeeded"
        await until(lambda: {("bus", "dead_letter_queue"), ("journal", "purge")} <= set(calls))
        supervisor.stop()
        await running
    journey = [call for call in calls if call[1] not in {"receiver", "dead_letter_queue", "max_message_bytes", "purge"}]
    assert journey == [
        ("caller", "token"),
        ("journal", "acquire"),
        ("caller", "invoke"),
        ("journal", "conclude"),
        ("bus", "send"),
        ("journal", "mark_published"),
    ]
    assert {("bus", "receiver"), ("bus", "dead_letter_queue"), ("journal", "purge")} <= set(calls)
