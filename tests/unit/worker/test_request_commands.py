"""How long `send` and `result` try to reach Service Bus, and what they say afterwards."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
import typer
from pydantic import SecretStr

from flow_contracts.client import ResultTimeout
from flow_contracts.result import FlowResult, FlowRun, Status
from flow_contracts.servicebus import ServiceBusMisconfigured, ServiceBusUnavailable
from flow_worker.cli import request_commands
from flow_worker.cli.request_commands import SenderError, SenderSettings
from flow_worker.settings import ServiceBusSettings

SETTINGS = SenderSettings(servicebus=ServiceBusSettings(namespace="contoso.servicebus.windows.net"))


class Client:
    """A client whose calls raise these errors, one after another; afterwards there is no result."""

    rejected_results = 0

    def __init__(self, *errors: Exception, endless: bool = False, waits: Exception | None = None) -> None:
        self.errors, self.endless, self.waits = list(errors), endless, waits
        self.polls = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def submit(self, *_: object, **__: object) -> str:
        return "c"

    async def poll(self, *_: object, **__: object) -> None:
        self.polls += 1
        if self.errors:
            raise self.errors[0] if self.endless else self.errors.pop(0)

    async def wait(self, *_: object, **__: object) -> None:
        raise self.waits or ResultTimeout("c", 1)


async def received(monkeypatch: pytest.MonkeyPatch, client: Client, wait: float = 60, connect: float = 1) -> Any:
    monkeypatch.setattr(request_commands, "_client", lambda *_: client)
    monkeypatch.setattr(request_commands, "_PAUSE_SECONDS", 0.01)
    return await request_commands._receive(SETTINGS, "c", wait, connect, take=False)


async def test_result_gives_up_after_the_deadline_for_connecting_and_not_after_its_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(ServiceBusUnavailable("refused"), endless=True)
    began = time.monotonic()
    with pytest.raises(SenderError, match=r"did not answer within 0\.05 s"):
        await received(monkeypatch, client, connect=0.05)
    assert time.monotonic() - began < 30
    assert client.polls > 1


async def test_a_service_bus_that_answers_late_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(ServiceBusUnavailable("refused"), ServiceBusUnavailable("refused"))
    assert await received(monkeypatch, client) == (None, 0)
    assert client.polls == 3


async def test_a_refusal_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(ServiceBusMisconfigured("no such queue"), endless=True)
    with pytest.raises(SenderError, match=r"^no such queue$"):
        await received(monkeypatch, client)
    assert client.polls == 1


async def test_result_does_not_say_that_there_is_none_if_it_could_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = ResultTimeout("c", 1, ServiceBusUnavailable("connection lost"))
    with pytest.raises(SenderError, match="connection lost"):
        await received(monkeypatch, Client(waits=lost))


async def test_send_names_the_ids_of_a_sent_request_also_if_the_connection_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = ResultTimeout("c", 1, ServiceBusUnavailable("connection lost"))
    monkeypatch.setattr(request_commands, "_client", lambda *_: Client(waits=lost))
    request = request_commands._Request("f", None, "m", None, SecretStr("k"))
    sent = await request_commands._send(SETTINGS, request, 1, 10)
    assert sent == ("c", None)
    assert capsys.readouterr().err.splitlines() == ["Correlation ID: c", "Message ID: m"]


@pytest.mark.parametrize(
    ("as_json", "on_terminal", "shown"), [(False, True, False), (True, True, True), (False, False, True)]
)
def test_a_person_sees_the_run_without_the_headers_for_support(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool, on_terminal: bool, shown: bool
) -> None:
    run = FlowRun(run_id="0858", tracking={"x-ms-workflow-run-id": "0858", "x-ms-request-id": "r"})
    result = FlowResult(status=Status.SUCCEEDED, run=run, correlation_id="c", request_message_id="m")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)
    monkeypatch.setenv("TERM", "dumb")  # a terminal without styles, so that the output is JSON
    with pytest.raises(typer.Exit):
        request_commands._print_result(result, "c", as_json=as_json)
    output = capsys.readouterr().out
    assert json.loads(output)["run"]["run_id"] == "0858"
    assert ("x-ms-" in output) == shown
