"""Two gateway processes: kill -9 of the replica that took a request, SIGTERM in the middle, and hostile tokens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio

from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.issuer import TokenRequest
from tests.support.gateway import gateway_queues, worker_of_gateway
from tests.support.gateway_process import GatewayProcess, gateway_process
from tests.support.system import ROLE, System, running_system

START = "/v1/flows/create-quote/requests"
QUOTE = {"customer": "Contoso", "amount": 1250}
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as patch:
        async with running_system(patch, gateway_queues()) as running:
            yield running


def path_of(answer: httpx.Response) -> str:
    return httpx.URL(answer.headers["Location"]).path


async def result_of(gateway: GatewayProcess, token: str, path: str) -> httpx.Response:
    async with gateway.client(token) as client:
        return await client.get(path, params={"wait": "60"})


async def test_every_accepted_request_has_its_result_although_its_replica_was_killed(system: System) -> None:
    token = system.claim()
    async with gateway_process(system) as first, gateway_process(system) as second:
        accepted: list[str] = []
        failed = 0

        async def submit(client: httpx.AsyncClient, number: int) -> None:
            nonlocal failed
            try:
                answer = await client.post(START, json=QUOTE, headers={"Idempotency-Key": f'"{number}"'})
            except httpx.HTTPError:
                failed += 1
                return
            assert answer.status_code == 202, answer.text
            accepted.append(path_of(answer))

        async with first.client(token) as client:
            sending = [asyncio.create_task(submit(client, number)) for number in range(60)]
            while len(accepted) < 20:  # noqa: ASYNC110 - in the middle of them
                await asyncio.sleep(0.005)
            first.process.kill()
            await asyncio.gather(*sending)
        async with second.client(token) as client:  # the callers that got no answer repeat their requests
            repeated = [await client.post(START, json=QUOTE, headers={"Idempotency-Key": f'"{n}"'}) for n in range(60)]
        assert {answer.status_code for answer in repeated} == {202}
        paths = {path_of(answer) for answer in repeated}
        assert len(paths) == 60
        assert set(accepted) <= paths
        async with system.worker(worker_of_gateway(system)):
            results = await asyncio.gather(*(result_of(second, token, path) for path in paths))
        assert {result.json()["status"] for result in results} == {"succeeded"}
        calls = await system.calls("create-quote")
        assert len(calls) == 60, "each flow ran once"


async def test_a_result_is_readable_through_the_other_replica_within_a_second(system: System) -> None:
    token = system.claim()
    async with gateway_process(system) as first, gateway_process(system) as second:
        async with first.client(token) as client:
            path = path_of(await client.post(START, json=QUOTE))
        first.process.kill()
        waiting = asyncio.create_task(result_of(second, token, path))
        async with system.worker(worker_of_gateway(system)):
            answer = await waiting
            assert answer.status_code == 200
            finished = datetime.fromisoformat(answer.json()["times"]["finished"])
        assert datetime.now(UTC) - finished < timedelta(seconds=5)  # with the worker's first connection to the queue


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM for other processes")
async def test_a_stop_answers_those_who_wait_and_exits_with_0(system: System) -> None:
    token = system.claim()
    async with gateway_process(system) as gateway, gateway.client(token) as client:
        path = path_of(await client.post(START, json=QUOTE))
        poll = asyncio.create_task(client.get(path, params={"wait": "60"}))
        await asyncio.sleep(0.5)
        gateway.process.terminate()
        assert (await poll).status_code == 202
        async with asyncio.timeout(15):
            assert await gateway.process.wait() == 0
        assert "Traceback" not in gateway.log


async def test_hostile_tokens_get_401_and_no_message(system: System) -> None:
    request = TokenRequest.model_validate({"user": "ada", "roles": [ROLE]})
    tokens = mint_bad_tokens(system.emulator.web.tokens, request)
    async with gateway_process(system) as gateway:
        before = system.depth("active", "flow-requests-gateway")
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            for name, token in tokens.items():
                if not token or token != token.strip() or not token.isprintable() or not token.isascii():
                    continue  # no header field can hold it
                for method, path in (("POST", START), ("GET", "/v1/requests/abc")):
                    answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"})
                    # A genuine token without the role proves its user, who then may start nothing.
                    allowed = (401, 403, 404) if name.startswith(("roles", "groups")) else (401, 431)
                    assert answer.status_code in allowed, (name, answer.text)
                    assert token[-20:] not in answer.text
        assert system.depth("active", "flow-requests-gateway") == before
        log = gateway.log
        assert not any(token[-30:] in log for token in tokens.values() if len(token) > 60)
        assert "Traceback" not in log
