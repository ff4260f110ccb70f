"""The client of the HTTP gateway, with a gateway that answers by a script."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from flow_contracts.client import (
    GatewayRefused,
    GatewayUnavailable,
    HttpFlowClient,
    HttpFlowClientSync,
    ResultTimeout,
)
from flow_contracts.request import InvalidRequest
from flow_contracts.result import InvalidResult, Status
from tests.support.scripted_gateway import (
    REQUEST_ID,
    RESULT,
    ScriptedGateway,
    Step,
    answer,
    cut,
    finished,
    pending,
    problem,
    scripted_gateway,
    text,
)


def client_of(gateway: ScriptedGateway, patience: float = 5) -> HttpFlowClient:
    return HttpFlowClient.from_token(gateway.url, "TOKEN", patience_seconds=patience)


async def test_a_request_is_posted_with_token_input_and_key() -> None:
    async with scripted_gateway(pending()) as gateway, client_of(gateway) as client:
        assert await client.submit("create quote/1", {"amount": 1}, on_behalf_of="u", traceparent="t") == REQUEST_ID
    (seen,) = gateway.seen
    assert (seen.method, seen.path) == ("POST", "/v1/flows/create%20quote%2F1/requests")
    assert json.loads(seen.body) == {"amount": 1}
    assert seen.headers["Authorization"] == "Bearer TOKEN"
    assert seen.headers["On-Behalf-Of"] == "u"
    assert seen.headers["traceparent"] == "t"


async def test_the_message_id_is_the_idempotency_key() -> None:
    async with scripted_gateway(pending()) as gateway, client_of(gateway) as client:
        await client.submit("f", message_id='a"b\\c')
    assert gateway.headers("Idempotency-Key") == ['"a\\"b\\\\c"']


@pytest.mark.parametrize(
    "step",
    [
        problem(503, "unavailable", Retry_After="0"),
        problem(429, "rate_limited", Retry_After="0"),
        problem(429, "rate_limited", Retry_After=format_datetime(datetime.now(UTC) - timedelta(seconds=5))),
        text(502, "<html>", Retry_After="0"),
        text(504, "", Retry_After="0"),
        problem(503, "unavailable", Retry_After="soon"),
        cut,
    ],
    ids=["503", "429", "date", "502 of a proxy", "504", "unreadable Retry-After", "cut"],
)
async def test_an_unavailable_gateway_gets_the_same_request_again(step: Step) -> None:
    async with scripted_gateway(step, pending()) as gateway, client_of(gateway) as client:
        assert await client.submit("f", {"a": 1}) == REQUEST_ID
    assert len(gateway.seen) == 2
    assert len({(seen.headers["Idempotency-Key"], seen.body) for seen in gateway.seen}) == 1


async def test_the_client_gives_up_when_retry_after_is_longer_than_its_patience() -> None:
    async with (
        scripted_gateway(problem(429, "rate_limited", Retry_After="600")) as gateway,
        client_of(gateway) as client,
    ):
        with pytest.raises(GatewayUnavailable) as caught:
            await client.submit("f")
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("rate_limited", 429, 600)
    assert len(gateway.seen) == 1


async def test_a_gateway_that_cannot_be_reached_is_unavailable() -> None:
    async with HttpFlowClient.from_token("http://127.0.0.1:9", "TOKEN", patience_seconds=0) as client:
        with pytest.raises(GatewayUnavailable, match="did not answer") as caught:
            await client.submit("f", {"secret": "input"})
    assert caught.value.code == "unreachable"
    assert "TOKEN" not in str(caught.value)


@pytest.mark.parametrize(("status", "code"), [(422, "input_invalid"), (403, "flow_not_allowed"), (404, "not_found")])
async def test_a_refusal_is_final(status: int, code: str) -> None:
    async with scripted_gateway(problem(status, code)) as gateway, client_of(gateway) as client:
        with pytest.raises(GatewayRefused, match=f"This is {code}") as caught:
            await client.submit("f")
    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(gateway.seen) == 1


async def test_a_redirect_gets_no_token() -> None:
    async with (
        scripted_gateway(finished) as other,
        scripted_gateway(text(307, "", Location=other.url)) as gateway,
        client_of(gateway) as client,
    ):
        with pytest.raises(GatewayRefused):
            await client.submit("f")
    assert not other.seen


async def test_a_refused_token_is_renewed_once() -> None:
    tokens = iter(["old", "new", "newer"])

    async def token() -> str:
        return next(tokens)

    refusal = problem(401, "claim_expired")
    async with (
        scripted_gateway(refusal, pending()) as gateway,
        HttpFlowClient.from_token(gateway.url, token) as client,
    ):
        await client.submit("f")
    assert gateway.headers("Authorization") == ["Bearer old", "Bearer new"]
    async with scripted_gateway(refusal) as gateway, client_of(gateway) as client:
        with pytest.raises(GatewayRefused):
            await client.submit("f")
    assert len(gateway.seen) == 2


@dataclass
class Credential:
    """A credential that keeps no token."""

    lifetime: float = 3600
    scopes: list[str] = field(default_factory=list)

    async def get_token(self, *scopes: str, **_: Any) -> Any:
        self.scopes.extend(scopes)
        return AccessToken(f"T{len(self.scopes)}", int(time.time() + self.lifetime))

    async def close(self) -> None: ...

    async def __aenter__(self) -> Credential:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(("lifetime", "fetched"), [(3600, 1), (60, 2)])
async def test_a_token_of_a_credential_is_kept_until_it_nearly_expires(lifetime: float, fetched: int) -> None:
    credential = Credential(lifetime)
    async with (
        scripted_gateway(pending()) as gateway,
        HttpFlowClient(gateway.url, credential, scope="api://worker/.default") as client,
    ):
        await client.submit("f")
        await client.submit("f")
    assert credential.scopes == ["api://worker/.default"] * fetched


async def test_a_refused_token_of_a_credential_is_fetched_again() -> None:
    async with (
        scripted_gateway(problem(401, "claim_invalid"), pending()) as gateway,
        HttpFlowClient(gateway.url, Credential(), scope="s") as client,
    ):
        await client.submit("f")
    assert gateway.headers("Authorization") == ["Bearer T1", "Bearer T2"]


async def test_a_wait_polls_until_the_result_comes() -> None:
    steps = [pending(), problem(503, "unavailable", Retry_After="0"), cut, pending(), finished]
    async with scripted_gateway(*steps) as gateway, client_of(gateway) as client:
        assert await client.wait(REQUEST_ID, 20) == RESULT
    assert gateway.seen[-1].path.startswith(f"/v1/requests/{REQUEST_ID}?wait=1")


async def test_a_poll_returns_none_or_the_result() -> None:
    async with scripted_gateway(pending(), finished) as gateway, client_of(gateway) as client:
        assert await client.poll(REQUEST_ID) is None
        assert await client.poll(REQUEST_ID) == RESULT


UNKNOWN = answer(200, RESULT.model_dump(mode="json") | {"status": "unknown", "output": None}, Retry_After="0")


async def test_a_wait_returns_an_unknown_result_at_once_and_another_wait_the_settling_one() -> None:
    async with scripted_gateway(UNKNOWN, pending(), UNKNOWN, finished) as gateway, client_of(gateway) as client:
        assert (await client.wait(REQUEST_ID, 20)).status is Status.UNKNOWN
        assert await client.wait_settled(REQUEST_ID, 20) == RESULT
    assert "settled" not in gateway.seen[0].path
    assert all(seen.path.endswith("&settled=true") for seen in gateway.seen[1:])


async def test_a_wait_for_the_settling_result_returns_the_unknown_one_at_its_end() -> None:
    async with scripted_gateway(UNKNOWN) as gateway, client_of(gateway) as client:
        assert (await client.wait_settled(REQUEST_ID, 0.2)).status is Status.UNKNOWN


async def test_a_result_that_does_not_come_is_a_timeout() -> None:
    async with scripted_gateway(pending("60")) as gateway, client_of(gateway) as client:
        with pytest.raises(ResultTimeout, match=r"within 0\.2 s$"):
            await client.wait(REQUEST_ID, 0.2)
    async with HttpFlowClient.from_token("http://127.0.0.1:9", "T") as client:
        with pytest.raises(ResultTimeout, match="the gateway could not be reached"):
            await client.wait(REQUEST_ID, 0.2)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_result_of_others_or_one_that_is_gone_is_refused(status: int) -> None:
    async with scripted_gateway(problem(status, "not_found")) as gateway, client_of(gateway) as client:
        with pytest.raises(GatewayRefused) as caught:
            await client.wait(REQUEST_ID, 5)
    assert caught.value.status == status


async def test_an_answer_that_is_no_result_is_invalid() -> None:
    async with scripted_gateway(answer(200, {"hello": 1})) as gateway, client_of(gateway) as client:
        with pytest.raises(InvalidResult):
            await client.poll(REQUEST_ID)
    async with scripted_gateway(text(200, "<html>")) as gateway, client_of(gateway) as client:
        with pytest.raises(GatewayUnavailable, match="gateway_url"):
            await client.submit("f")


async def test_the_flows_of_the_caller_are_listed() -> None:
    document = {"flows": [{"name": "f", "title": "F", "input_schema": {"type": "object"}, "later": 1}]}
    async with scripted_gateway(answer(200, document)) as gateway, client_of(gateway) as client:
        (flow,) = await client.flows()
    assert (flow.name, flow.title, flow.input_schema) == ("f", "F", {"type": "object"})


@pytest.mark.parametrize("url", ["", "flows.contoso.com", "ftp://x", "https://user@x", "https://x/?a=1"])
def test_a_url_that_is_none_of_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="gateway_url"):
        HttpFlowClient.from_token(url, "T")


@pytest.mark.parametrize("options", [{"message_id": "ключ"}, {"on_behalf_of": "a\r\nb"}, {"traceparent": "\n"}])
async def test_an_option_that_no_header_can_hold_is_invalid(options: Any) -> None:
    async with HttpFlowClient.from_token("http://127.0.0.1:9", "T", patience_seconds=0) as client:
        with pytest.raises(InvalidRequest, match="printable ASCII"):
            await client.submit("f", None, **options)
        with pytest.raises(InvalidRequest, match="input"):
            await client.submit("f", float("nan"))


async def test_the_blocking_client_has_the_same_methods() -> None:
    async with scripted_gateway(pending(), finished) as gateway:

        def use() -> None:
            with HttpFlowClientSync.from_token(gateway.url, lambda: "TOKEN") as client:
                assert client.request("f", {"a": 1}) == RESULT
                assert client.wait(REQUEST_ID, 5) == RESULT
                assert client.poll(REQUEST_ID) == RESULT

        await asyncio.to_thread(use)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - {"from_token"}


def test_both_clients_have_the_same_public_methods() -> None:
    assert public(HttpFlowClient) == public(HttpFlowClientSync)
