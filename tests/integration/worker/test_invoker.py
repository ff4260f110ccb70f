"""The invoker over real sockets: new tokens, status URLs and Retry-After."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from flow_worker.azure_identity import ManagedIdentity
from flow_worker.errors import CallFailed
from flow_worker.flows.answer import Answer
from flow_worker.flows.invoker import Invoker
from flow_worker.flows.registry import Flow, Registry
from flow_worker.flows.status_url import StatusHosts
from tests.support.system import JsonObject, System, running_system

SCOPE = "https://service.flow.microsoft.com//.default"


@pytest.fixture
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with running_system(monkeypatch) as running:
        running.flows["long"] = {}
        yield running


@pytest.fixture
async def invoker() -> AsyncIterator[Invoker]:
    async with (
        ManagedIdentity(client_id=None, deadline_seconds=10) as identity,
        Invoker(
            identity.tokens(SCOPE),
            connect_seconds=5,
            max_connections=4,
            keepalive_seconds=15,
            status_seconds=10,
            max_response_bytes=10_000,
            decode_seconds=10,
        ) as invoker,
    ):
        yield invoker


def flow_of(system: System, name: str) -> Flow:
    settings = system.settings()
    hosts = StatusHosts(settings.known_flow_hosts, frozenset(settings.plain_http_hosts))
    return Registry(settings.flows, hosts).find(name)


async def call(invoker: Invoker, flow: Flow) -> Answer:
    return await invoker.invoke(flow, {"n": 1}, token=await invoker.token(), correlation_id="c", traceparent=None)


async def test_a_fresh_token_bypasses_the_cache_at_most_once_per_interval(system: System, invoker: Invoker) -> None:
    first = await invoker.token()
    assert await invoker.token() == first
    renewed = await invoker.token(fresh=True)
    assert renewed != first
    assert await invoker.token() == renewed  # the new token replaces the cached one
    assert await invoker.token(fresh=True) == renewed  # the identity endpoint cannot have another one yet


async def test_the_answer_carries_retry_after(system: System, invoker: Invoker) -> None:
    await system.put("flows/long", {"faults": [{"kind": "throttle", "retry_after": "7"}]})
    answer = await call(invoker, flow_of(system, "long"))
    assert (answer.status, answer.retry_after) == (429, "7")


@pytest.mark.parametrize("signed", [True, False])
async def test_a_poll_carries_the_token_only_if_the_status_url_is_unsigned(
    system: System, invoker: Invoker, signed: bool
) -> None:
    asynchronous: JsonObject = {"done_after_polls": 2, "signed_status_url": signed}
    await system.put("flows/long", {"asynchronous": asynchronous, "response": {"echo": True}})
    flow = flow_of(system, "long")
    accepted = await call(invoker, flow)
    assert accepted.status == 202
    assert accepted.location is not None
    assert accepted.location not in repr(accepted)
    answers = [await invoker.poll(flow, accepted.location, token=await invoker.token()) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 200]
    assert (await system.calls("long"))[-1]["polled_with_bearer"] is not signed


@pytest.mark.parametrize("fault", ["reset_before_reading", "reset_after_reading", "close_midway"])
async def test_a_poll_whose_connection_breaks_may_be_repeated(system: System, invoker: Invoker, fault: str) -> None:
    await system.put(
        "flows/long", {"asynchronous": {"done_after_polls": 0}, "poll_faults": [{"kind": fault}], "response": {}}
    )
    flow = flow_of(system, "long")
    accepted = await call(invoker, flow)
    with pytest.raises(CallFailed) as failure:
        await invoker.poll(flow, accepted.location or "", token=await invoker.token())
    assert not failure.value.may_have_run


async def test_a_status_url_of_another_host_is_not_polled(system: System, invoker: Invoker) -> None:
    other_host = str(httpx.URL(system.emulator.web.url).copy_with(host="localhost")) + "/emulator/queues"
    with pytest.raises(CallFailed, match="not allowed"):
        await invoker.poll(flow_of(system, "long"), other_host, token="t")
