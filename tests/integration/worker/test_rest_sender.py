"""A sender without AMQP, such as a plug-in: the documented REST request, word for word."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from flow_contracts.client import FlowClient, new_reply_key
from servicebus_emulator.admin.server import running_admin
from tests.support.system import WAIT, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "send-from-other-languages.md"
REST = re.compile(r"```http\nPOST https://[^/]+(?P<path>\S+)\n(?P<headers>.*?)\n\n(?P<body>.*?)\n```", re.DOTALL)


@pytest.mark.parametrize("case", [str, str.title, str.upper, str.lower])
async def test_a_request_that_is_posted_over_rest_gets_a_result(
    system: System, client: FlowClient, case: Callable[[str], str]
) -> None:
    """Service Bus ignores the case of queue names, and HTTP that of headers, which proxies change."""
    form = REST.search(PAGE.read_text(encoding="utf-8"))
    assert form is not None
    ids = {"<message ID>": str(uuid.uuid4()), "<correlation ID>": str(uuid.uuid4())}
    claim, key = system.claim(), new_reply_key()
    text = form["headers"].replace("<reply key>", key.get_secret_value())
    for place, value in ids.items():
        assert place in text
        text = text.replace(place, value)
    text = text.replace("BrokerProperties: {", f'BrokerProperties: {{"ReplyTo": "{case("flow-replies")}", ')
    headers = {case(name): value for name, value in (line.split(": ", 1) for line in text.splitlines())}
    headers["Authorization"] = "Bearer a.b.c"  # the system asks for no more than the form of one
    body = form["body"].replace("<token for the worker>", claim)
    async with running_admin(system.emulator.broker) as url, httpx.AsyncClient() as http:
        path = form["path"].replace("flow-requests", case("flow-requests"))
        posted = await http.post(f"{url}{path}", headers=headers, content=body)
        assert posted.status_code == 201, posted.text
    message_id, correlation_id = ids.values()
    result = await client.wait(correlation_id, WAIT, message_id=message_id, reply_key=key)
    assert (result.status, result.request_message_id) == ("succeeded", message_id)
