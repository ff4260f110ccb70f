"""Programs that use the gateway: clients and samples, with a real gateway, worker and emulator."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import JsonValue

from flow_contracts.client import GatewayRefused, HttpFlowClient, HttpFlowClientSync
from flow_contracts.result import Status
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.followers import follow_as_durable_functions, follow_as_logic_apps
from tests.clients.gateway_stage import Ended, Stage, run, running_stage
from tests.clients.harness import HERE, NODE
from tests.clients.test_samples import SAMPLES, compile_program, project_of

SCHEMA = {
    "type": "object",
    "required": ["customer", "amount"],
    "properties": {"customer": {"type": "string"}, "amount": {"type": "number", "exclusiveMinimum": 0}},
}
FLOWS: dict[str, dict[str, Any]] = {
    "create-quote": {"role": None, "privilege": "prvCreatenew_quote", "input_schema": SCHEMA},
    "slow-report": {},
    "notify-team": {},
    "broken-approval": {},
}
QUOTE: dict[str, JsonValue] = {"customer": "Contoso", "amount": 12.5}
ADA, GRACE = (str(object_id_of(name)) for name in ("ada", "grace"))
GATEWAY = "https://flows.contoso.com"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with running_stage(FLOWS) as running:
        yield running


async def test_the_javascript_client(stage: Stage) -> None:
    if NODE is None:
        pytest.skip("Node is not installed")
    tokens = {"TOKEN": stage.system.claim(), "OTHER_TOKEN": stage.system.claim(user="grace")}
    ended = await run([NODE, "gateway.mjs"], {"GATEWAY": stage.url, **tokens}, folder=HERE / "node")
    assert ended.status == 0, ended.errors
    found = json.loads(ended.output)
    assert found.pop("states")[0] in ("queued", "calling")
    assert found == {
        "flows": sorted(FLOWS),
        "schema": ["customer", "amount"],
        "stranger": ["not_found", 404, False],
        "amount": 125,
        "left": None,
        "slow": "succeeded",
        "texts": True,
        "same": True,
        "reused": ["idempotency_key_reused", 422, False],
        "invalid": ["input_schema_mismatch", 422, False],
        "unknown": ["flow_not_allowed", 403, False],
        "token": ["claim_invalid", 401, False],
    }


async def test_fifteen_lines_of_fetch(stage: Stage) -> None:
    if NODE is None:
        pytest.skip("Node is not installed")
    program = SAMPLES / "http" / "quote.mjs"
    variables = {"GATEWAY": stage.url, "TOKEN": stage.system.claim()}
    ended = await run([NODE, program, "Contoso", "125"], variables)
    assert ended.status == 0, ended.errors
    assert json.loads(ended.output)["amount"] == 125
    refused = await run([NODE, program, "Contoso", "-1"], variables)
    assert refused.status == 1
    assert "input_schema_mismatch" in refused.errors
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line and not line.startswith("//")]) <= 15


async def test_the_python_client(stage: Stage) -> None:
    async with (
        HttpFlowClient.from_token(stage.url, stage.system.claim()) as ada,
        HttpFlowClient.from_token(stage.url, stage.system.claim(user="grace")) as grace,
        HttpFlowClient.from_token(stage.url, stage.system.claim(user="bob")) as bob,
    ):
        assert {flow.name for flow in await ada.flows()} == set(FLOWS)
        request = await ada.submit("create-quote", QUOTE, message_id="order 7")
        assert await ada.submit("create-quote", QUOTE, message_id="order 7") == request
        assert await grace.submit("create-quote", QUOTE, message_id="order 7") != request
        result = await ada.wait(request, 30)
        assert (result.status, result.correlation_id) == (Status.SUCCEEDED, request)
        assert await ada.poll(request) == result
        with pytest.raises(GatewayRefused) as caught:
            await grace.poll(request)
        assert caught.value.status == 404
        with pytest.raises(GatewayRefused) as caught:
            await bob.request("create-quote", QUOTE, 30)
        assert (caught.value.status, caught.value.code) == (403, "flow_not_allowed")
        assert (await ada.request("broken-approval", None, 30)).status is Status.UNKNOWN


async def test_the_blocking_python_client(stage: Stage) -> None:
    def use(token: str) -> Status:
        with HttpFlowClientSync.from_token(stage.url, token) as client:
            return client.request("create-quote", QUOTE, 30).status

    assert await asyncio.to_thread(use, stage.system.claim()) is Status.SUCCEEDED


async def test_curl(stage: Stage) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    bearer = f"Authorization: Bearer {stage.system.claim()}"
    kind = "Content-Type: application/json"
    url = f"{stage.url}/v1/flows/create-quote/requests?wait=30"
    ended = await run(["curl", "-sS", "-H", bearer, "-H", kind, "-d", json.dumps(QUOTE), url])
    assert json.loads(ended.output)["status"] == "succeeded", ended


@pytest.mark.parametrize("follow", [follow_as_logic_apps, follow_as_durable_functions])
async def test_a_client_that_follows_202(
    stage: Stage, follow: Callable[[httpx.AsyncClient, str, object], Awaitable[tuple[Any, list[int]]]]
) -> None:
    async with stage.client(stage.system.claim()) as client:
        result, statuses = await follow(client, "/v1/flows/slow-report/requests", {"month": "2026-11"})
        assert result["status"] == "succeeded"
        assert statuses[0] == 202
        assert statuses[-1] == 200
        unknown, statuses = await follow(client, "/v1/flows/broken-approval/requests", {})
        assert (unknown["status"], statuses[-1]) == ("unknown", 200)


@pytest.fixture(scope="module")
def plug_ins(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host with the plug-ins, in which only the URL of the gateway is replaced."""
    folder = tmp_path_factory.mktemp("plug-ins")
    project, sources = project_of("plug-in-http/Quotes.csproj")
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert text.count(GATEWAY) == (source.name == "Gateway.cs")
        (folder / source.name).write_text(text.replace(GATEWAY, stage.url), encoding="utf-8")
    stand_ins = [HERE / "csharp" / name for name in ("Dataverse.cs", "GatewayPlugInHost.cs")]
    references = [f"{reference.get('Include')}.dll" for reference in project.iter("Reference")]
    copies = [folder / source.name for source in sources]
    return compile_program(folder / "host.exe", [*copies, *stand_ins], references)


async def call(plug_ins: Path, token: str, *arguments: str) -> Ended:
    """Run a plug-in."""
    ended = await run(["mono", plug_ins, *arguments], {"WORKER_TOKEN": token})
    assert ended.status == 0, ended.errors
    assert token not in ended.output, "a token is in the error"
    return ended


async def token_of_the_plug_ins(stage: Stage) -> str:
    """Return a token of the managed identity from its endpoint."""
    web = stage.system.emulator.web
    async with httpx.AsyncClient() as client:
        query = {"api-version": "2019-08-01", "resource": web.audience}
        answer = await client.get(
            web.identity_endpoint, params=query, headers={"X-IDENTITY-HEADER": web.identity_header}
        )
    token: str = answer.raise_for_status().json()["access_token"]
    return token


async def test_a_plug_in_starts_and_a_second_reads(stage: Stage, plug_ins: Path) -> None:
    token, key = await token_of_the_plug_ins(stage), str(uuid.uuid4())
    started = await call(plug_ins, token, "start", ADA, key)
    assert started.output.startswith("GatewayRequest "), started.output
    request = started.output.split()[1]
    again = await call(plug_ins, token, "start", ADA, key)
    assert again.output == started.output, "a repeated attempt is the same request"
    other = await call(plug_ins, token, "start", GRACE, key)
    assert other.output != started.output, "another user's request is another one"

    read = await call(plug_ins, token, "read", ADA, request)
    assert read.output.startswith("Status succeeded\nQuote Q-"), read.output
    stranger = await call(plug_ins, token, "read", GRACE, request)
    assert stranger.output.startswith("refused This user has no such request."), stranger.output
    async with stage.client(stage.system.claim()) as ada, stage.client(stage.system.claim(user="grace")) as grace:
        assert (await ada.get(f"/v1/requests/{request}")).json()["status"] == "succeeded"
        assert (await grace.get(f"/v1/requests/{request}")).status_code == 404


async def test_the_plug_ins_report_what_went_wrong(stage: Stage, plug_ins: Path) -> None:
    token = await token_of_the_plug_ins(stage)
    bob = str(object_id_of("bob"))
    refused = await call(plug_ins, token, "start", bob, str(uuid.uuid4()))
    assert refused.output.startswith("refused The gateway answered 403: flow_not_allowed."), refused.output
    unknown = await call(plug_ins, token, "read", ADA, "0" * 40)
    assert unknown.output.startswith("refused The gateway answered 404: not_found."), unknown.output
    malformed = await call(plug_ins, token, "read", ADA, "../../v1/flows")
    assert malformed.output.startswith("refused GatewayRequest has not the form"), malformed.output
    forged = await call(plug_ins, f"{token[:-4]}AAAA", "start", ADA, str(uuid.uuid4()))
    assert forged.output.startswith("refused The gateway answered 401: claim_invalid."), forged.output
