"""No HTTP or WebSocket listener of the emulator answers a foreign name or the page of another site."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from servicebus_emulator import config
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from servicebus_emulator.transport.web_callers import WebCallers

PAGE = "http://localhost:3000"
FOREIGN = [{"Host": "evil.test"}, {"Origin": "http://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    endpoints = Endpoints(
        amqp_port=0, http_port=0, ws_port=0, admin_port=0, callers=WebCallers.parse(["emulator"], [PAGE])
    )
    async with running_emulator(config.load(), endpoints) as running:
        yield running


async def test_a_foreign_page_mints_no_token_and_changes_nothing(emulator: Emulator) -> None:
    url, admin = emulator.web.url, str(emulator.admin_url)
    calls = [
        ("POST", f"{url}/emulator/token"),
        ("POST", f"{url}/emulator/tokens/bad"),
        ("POST", f"{url}/emulator/dataverse/post"),
        *(("PUT", f"{url}/emulator/{name}") for name in ("flows/x", "identity", "issuer", "dataverse", "servicebus")),
        *(("GET", f"{url}/emulator/{name}") for name in ("queues", "flows/create-quote/calls", "unknown")),
        ("GET", f"{url}/msi/token"),
        ("POST", emulator.web.flow_url("create-quote")),
        ("GET", f"{emulator.web.issuer}/.well-known/openid-configuration"),
        ("GET", f"{emulator.web.dataverse_url}/api/data/v9.2/WhoAmI"),
        *((method, f"{admin}/flow-requests") for method in ("GET", "PUT", "DELETE")),
        ("POST", f"{admin}/flow-requests/messages"),
        ("GET", f"{admin}/health"),
    ]
    async with httpx.AsyncClient(timeout=60) as client:
        for foreign in FOREIGN:
            # A form and a text need no preflight, so a page may send them to any site.
            for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
                for method, target in calls:
                    answer = await client.request(
                        method, target, content=b'{"user": "admin"}', headers=foreign | {"Content-Type": kind}
                    )
                    assert answer.status_code == 403, (foreign, method, target)
                    assert answer.json()["error"]["code"] == "ForeignCaller"
        preflight = {"Origin": "http://evil.test", "Access-Control-Request-Method": "PUT"}
        assert (await client.options(f"{url}/emulator/issuer", headers=preflight)).status_code == 403
        assert emulator.web.identity.calls == 0
        assert emulator.broker.counts()["flow-requests"]["active"] == 0


async def test_programs_and_allowed_pages_are_answered(emulator: Emulator) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        for known in ({}, {"Host": "emulator"}, {"Host": "localhost"}, {"Origin": PAGE}, {"Origin": emulator.web.url}):
            answer = await client.post(f"{emulator.web.url}/emulator/token", json={"user": "ada"}, headers=known)
            assert answer.status_code == 200
            assert (await client.get(f"{emulator.admin_url}/health", headers=known)).status_code == (
                403 if known.get("Origin") == emulator.web.url else 200  # another port is another origin
            )


async def test_the_page_of_another_site_opens_no_websocket(emulator: Emulator) -> None:
    url = str(emulator.addresses.ready()["ws_url"])
    async with ClientSession() as session:
        for foreign in FOREIGN:
            with pytest.raises(WSServerHandshakeError, match="403"):
                await session.ws_connect(url, headers=foreign, protocols=["AMQPWSB10"])
        for known in ({}, {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}):
            async with session.ws_connect(url, headers=known, protocols=["AMQPWSB10"]) as socket:
                assert socket.protocol == "AMQPWSB10"


async def test_the_identity_header_differs_at_each_start() -> None:
    headers = set()
    for _ in range(2):
        async with running_emulator(config.load(), Endpoints(amqp_port=0, http_port=0)) as running:
            headers.add(running.ready()["identity_header"])
    assert len(headers) == 2
    assert all(header is not None and len(header) >= 32 for header in headers)
