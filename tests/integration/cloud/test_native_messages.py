"""Dataverse's native messages, put on a queue over HTTP and received by the real azure-servicebus."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from flow_contracts.dataverse import ExecutionContext
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from tests.support.native_messages import QUEUE, received


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with running_emulator(config.load(), Endpoints(amqp_port=0, http_port=0)) as running:
        yield running


async def posted(emulator: Emulator, client: httpx.AsyncClient, **changes: object) -> httpx.Response:
    return await client.post(f"{emulator.web.url}/emulator/dataverse/post", json={"user": "ada"} | changes)


async def test_a_posted_message_arrives_in_dataverses_form(emulator: Emulator, client: httpx.AsyncClient) -> None:
    answer = await posted(emulator, client, message="new_StartQuote", input={"customer": "Contoso"})
    assert (answer.status_code, answer.json()) == (201, {"queue": QUEUE})
    message = await received(emulator.connection_string)
    assert message.content_type == "application/json"
    assert message.message_id
    assert message.reply_to is None
    assert message.application_properties["http://schemas.microsoft.com/xrm/2011/Claims/RequestName"] == (
        "new_StartQuote"
    )
    context = ExecutionContext.from_message(message)
    assert context.initiating_user_oid == str(object_id_of("ada"))
    assert context.input == {"customer": "Contoso"}


async def test_a_truncated_message_arrives_with_its_property(emulator: Emulator, client: httpx.AsyncClient) -> None:
    await posted(emulator, client, truncated=True)
    assert any(
        name.endswith("MessageMaxSizeExceeded")
        for name in (await received(emulator.connection_string)).application_properties
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "none-such"}, "none-such"),
        ({"form": "text"}, "form:"),
        ({"user": ""}, "user:"),
        ({"inputs": {}}, "inputs: no such field"),
        ({"message_id": "m" * 129}, "message ID"),
        ({"input": {"big": "x" * 300_000}}, "takes 262144"),
    ],
)
async def test_the_refusal_of_a_post_names_the_mistake(
    emulator: Emulator, client: httpx.AsyncClient, changes: dict[str, object], message: str
) -> None:
    answer = await posted(emulator, client, **changes)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


async def test_an_accepted_message_survives_the_process(client: httpx.AsyncClient, tmp_path: Path) -> None:
    endpoints = Endpoints(amqp_port=0, http_port=0)
    async with running_emulator(config.load(), endpoints, data=tmp_path / "data") as emulator:
        assert (await posted(emulator, client, message="new_StartQuote")).status_code == 201
        shutil.copytree(tmp_path / "data", tmp_path / "copy")  # the state that a kill at this point would leave
    async with running_emulator(config.load(), endpoints, data=tmp_path / "copy") as again:
        assert again.broker.counts()[QUEUE]["active"] == 1
