"""The checks of `doctor` that need no broker: tokens, the report's secrets, and faults of the checks themselves."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import cast

import httpx
import pytest

from flow_worker.azure_identity import Tokens
from flow_worker.doctor import clocks, flows, run, tokens
from flow_worker.doctor.finding import Check, Outcome, Result
from flow_worker.doctor.hosts import Host, broker, of_url
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import FlowSettings, ServiceBusSettings

AUDIENCE = "https://service.flow.microsoft.com/"


class FakeTokens:
    def __init__(self, token: str | Exception) -> None:
        self._token = token

    async def token(self, *, fresh: bool = False) -> str:
        if isinstance(self._token, Exception):
            raise self._token
        return self._token


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{body}.hush"


async def checked(token: str | Exception, audience: str = AUDIENCE) -> Result:
    return await tokens._check(cast(Tokens, FakeTokens(token)), audience)


async def test_a_token_shows_audience_expiry_and_object_id_and_never_itself() -> None:
    result = await checked(jwt(aud=AUDIENCE, oid="1234", exp=time.time() + 3630, iss="x"))
    assert (result.outcome, result.detail) == (Outcome.OK, f"aud {AUDIENCE}, oid 1234, expires in 60 min")


@pytest.mark.parametrize("found", [AUDIENCE.removesuffix("/"), "https://graph.microsoft.com", None, [AUDIENCE]])
async def test_a_flow_compares_the_audience_with_its_slash(found: object) -> None:
    result = await checked(jwt(aud=found, exp=time.time() + 60))
    assert (result.outcome, "another audience" in result.detail) == (Outcome.FAILED, True)


async def test_dataverse_ignores_a_slash_at_the_end() -> None:
    url = "https://contoso.crm4.dynamics.com"
    assert (await checked(jwt(aud=f"{url}/"), url)).outcome is Outcome.OK


async def test_an_expired_token_an_unreadable_one_and_none_are_told_apart() -> None:
    assert "has expired" in (await checked(jwt(aud=AUDIENCE, exp=time.time() - 60))).detail
    for opaque in ("opaque", "a.b.c", "a.W10.c", ""):
        assert (await checked(opaque)).outcome is Outcome.UNSEEN
    error = TemporarilyUnavailable("identity_unavailable", "the managed identity's token is unavailable (X)")
    result = await checked(error)
    assert (result.outcome, "identity.client_id" in result.remedy) == (Outcome.FAILED, True)


async def test_a_check_that_throws_or_hangs_is_a_fault_in_one_line() -> None:
    async def throws() -> Result:
        raise RuntimeError("first line\nsecond line")

    async def hangs() -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    (thrown,) = await run._run(Check("s", "n", throws))
    assert (thrown.outcome, thrown.detail) == (Outcome.FAILED, "RuntimeError: first line")
    (late,) = await run._run(Check("s", "n", hangs, 0.01))
    assert (late.outcome, late.detail) == (Outcome.FAILED, "no answer within 0.01 s")


def test_no_secret_of_the_settings_reaches_the_report() -> None:
    secret = "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=hush-hush-hush"
    settings = ServiceBusSettings.model_validate({"connection_string": secret})
    found = run._finding(
        Check("s", "n", lambda: asyncio.sleep(0, Result(Outcome.OK, ""))),
        Result(Outcome.FAILED, f"broken: {secret}", "use hush-hush-hush"),
        sorted(run._secrets(settings), key=len, reverse=True),
    )
    assert "hush" not in found.detail + found.remedy


@pytest.mark.parametrize(
    ("host", "outcome"),
    [
        ("prod-01.westeurope.logic.azure.com", Outcome.FAILED),
        ("PROD-01.WESTEUROPE.LOGIC.AZURE.COM", Outcome.FAILED),
        ("0.0.environment.api.powerplatform.com", Outcome.OK),
        ("prod-01.usgovvirginia.logic.azure.us", Outcome.OK),
    ],
)
async def test_legacy_hosts_of_the_public_cloud_are_named(host: str, outcome: Outcome) -> None:
    flow = FlowSettings.model_validate({"url": f"https://{host}/workflows/a", "role": "R"})
    assert (await flows._check(flow)).outcome is outcome


@pytest.mark.parametrize(
    ("ahead", "outcome"), [(0.0, Outcome.OK), (4.0, Outcome.OK), (30.0, Outcome.FAILED), (-30.0, Outcome.FAILED)]
)
async def test_a_clock_is_compared_with_the_date_of_an_answer(
    monkeypatch: pytest.MonkeyPatch, ahead: float, outcome: Outcome
) -> None:
    monkeypatch.setattr(clocks, "wall", lambda: 1_000_000_000.0 + ahead)
    answer = httpx.Response(401, headers={"date": "Sun, 09 Sep 2001 01:46:40 GMT"})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert (await clocks._check(client, "https://x.example/", "")).outcome is outcome


async def test_an_answer_without_a_usable_date_decides_nothing() -> None:
    for headers in ({}, {"date": "yesterday"}):
        answer = httpx.Response(200, headers=headers)
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _, a=answer: a)) as client:
            assert (await clocks._check(client, "https://x.example/", "")).outcome is Outcome.UNSEEN


def test_the_hosts_are_those_that_the_sdks_connect_to() -> None:
    assert broker(ServiceBusSettings(namespace="a.servicebus.windows.net")).address == "a.servicebus.windows.net:5671"
    development = "Endpoint=sb://127.0.0.1:5999;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    local = broker(ServiceBusSettings.model_validate({"connection_string": development}))
    assert (local.address, local.tls) == ("127.0.0.1:5999", False)
    assert of_url("https://[::1]/x") == Host("::1", 443, tls=True)
