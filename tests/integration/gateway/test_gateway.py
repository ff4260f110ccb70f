"""A gateway, a worker and an emulator: from an HTTP request to the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from flow_worker.gateway.app import Gateway
from tests.support.gateway import gateway_queues, gateway_settings, running_gateway, worker_of_gateway
from tests.support.system import System, running_system

START = "/v1/flows/create-quote/requests"


@pytest_asyncio.fixture
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with running_system(monkeypatch, gateway_queues()) as running:
        yield running


def client(gateway: Gateway, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)


async def test_from_a_post_to_the_result_through_either_replica(system: System) -> None:
    async with (
        running_gateway(gateway_settings(system)) as first,
        running_gateway(gateway_settings(system)) as second,
        system.worker(worker_of_gateway(system)),
        client(first, system.claim()) as ada,
        client(second, system.claim()) as elsewhere,
        client(second, system.claim(user="bob")) as bob,
    ):
        answer = await ada.post(START, json={"customer": "Contoso", "amount": 1250}, headers={"Prefer": "wait=30"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "succeeded"
        location = httpx.URL(answer.headers["Location"]).path
        posted = await elsewhere.post(START, json={"customer": "Fabrikam", "amount": 1})
        found = await asyncio.gather(
            *(one.get(httpx.URL(posted.headers["Location"]).path, params={"wait": "30"}) for one in (ada, elsewhere))
        )
        assert [one.status_code for one in found] == [200, 200]
        assert (await bob.get(location)).status_code == 404
        assert (await elsewhere.get(location)).json() == answer.json()
        refused = await bob.post("/v1/flows/nothing/requests", json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "flow_not_allowed")
