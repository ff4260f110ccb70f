"""The requests of an HTTP gateway, over real sockets: statements, the gateway's own reply queue, and states."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from pydantic import JsonValue, SecretStr

from flow_contracts.client import FlowClient
from flow_contracts.gateway_replies import RequestProgress, is_state, is_unproven
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ServiceBus
from flow_worker import clock
from flow_worker.access.authorities import ProvenSender
from flow_worker.access.gateway_message_ids import prefix_of
from flow_worker.access.principal import Principal
from flow_worker.access.statement import StatementSigner
from flow_worker.access.statement_key_files import open_signing_key
from flow_worker.access.statement_keys import new_signing_key
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import Settings
from tests.support.system import ROLE, System, running_system

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

REQUESTS, REPLIES = "flow-requests-gateway", "flow-replies-gateway"
QUOTE: JsonValue = {"customer": "Contoso", "amount": 1.5}
ASSERTER = "Flow.Invoke.OnBehalf"
USER = "99999999-0000-4000-8000-000000000009"
SECONDS = 20.0


@dataclass
class Gateway:
    """What a gateway does: it signs, sends, and reads its reply queue."""

    bus: ServiceBus
    signer: StatementSigner
    tenant: str
    states: dict[str, list[RequestProgress]] = field(default_factory=dict)
    results: dict[str, list[ReceivedMessage]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def sender(self, *roles: str, kind: str = "user") -> ProvenSender:
        oid = "88888888-0000-4000-8000-000000000008"
        principal = Principal(self.tenant, oid, kind, frozenset(roles or (ROLE,)), "entra")  # type: ignore[arg-type]
        return ProvenSender(principal, {"scp": "flows", "azp": oid})

    def request(self, flow: str = "create-quote", **changes: Any) -> FlowRequest:
        message_id = uuid.uuid4().hex
        ids = {"message_id": message_id, "correlation_id": message_id, "reply_to_session_id": message_id}
        return FlowRequest(**({"flow": flow, "input": QUOTE} | ids | changes))

    def signed(self, request: FlowRequest, *roles: str, kind: str = "user") -> FlowRequest:
        return self.signer.signed(request, self.sender(*roles, kind=kind))

    async def send(self, request: FlowRequest) -> str:
        await self.bus.send(REQUESTS, request.to_message())
        return request.message_id

    async def start(self, flow: str = "create-quote", **changes: Any) -> str:
        return await self.send(self.signed(self.request(flow, **changes)))

    async def result(self, message_id: str, number: int = 1) -> FlowResult:
        return FlowResult.from_message((await self.messages(message_id, number))[number - 1])

    async def messages(self, message_id: str, number: int = 1) -> list[ReceivedMessage]:
        async with asyncio.timeout(SECONDS):
            while len(self.results.get(message_id, [])) < number:
                self.arrived.clear()
                await self.arrived.wait()
        return self.results[message_id]

    async def read(self) -> None:
        async with self.bus.receiver(REPLIES) as receiver:
            while True:
                if (delivery := await receiver.receive()) is None:
                    continue
                message = delivery.message
                if is_state(message):
                    state = RequestProgress.from_message(message)
                    self.states.setdefault(state.request, []).append(state)
                else:
                    result = FlowResult.from_message(message)
                    self.results.setdefault(result.replay_of or result.request_message_id, []).append(message)
                await receiver.complete(delivery)
                self.arrived.set()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running_system(monkeypatch) as running:
            running.flows["bound"] = {"bind_claim": True, "url": running.emulator.web.flow_url("create-quote")}
            running.flows["quarterly-report"] = {}
            yield running


@pytest.fixture(scope="module")
def settings(system: System) -> Settings:
    web = system.emulator.web
    return system.settings(
        request_queues=[
            {"name": "flow-requests", "lanes": 2},
            {"name": REQUESTS.title(), "authority": "gateway", "reply_to": REPLIES, "lanes": 2},
        ],
        claims={
            "authority": web.url,
            "tenants": [str(web.tenant_id)],
            "audiences": [web.audience],
            "asserter_role": ASSERTER,
        },
        statements={"key_path": str(system.folder / "gateway-key.pem")},
        explain_refusals=True,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(system: System, settings: Settings) -> AsyncIterator[Gateway]:
    key = await open_signing_key(settings.statements)
    signer = StatementSigner(
        key, issuer="flow-gateway", queue=REQUESTS, lifetime_seconds=120, binding_claim="nonce", now=clock.now
    )
    async with open_service_bus(settings.servicebus, client_id=None) as bus:
        one = Gateway(bus, signer, str(system.emulator.web.tenant_id))
        async with system.worker(settings):
            reading = asyncio.create_task(one.read())
            yield one
            reading.cancel()
            await asyncio.wait([reading])


async def test_a_signed_request_runs_its_flow_and_its_result_comes_to_the_gateway(
    system: System, gateway: Gateway
) -> None:
    message_id = await gateway.start()
    result = await gateway.result(message_id)
    assert result.status is Status.SUCCEEDED
    assert result.correlation_id == result.request_message_id == message_id
    (message,) = await gateway.messages(message_id)
    assert not is_unproven(message)
    assert message.time_to_live == timedelta(days=1), "the queue's own time to live"


async def test_a_proven_principal_without_the_right_is_refused_with_proof(gateway: Gateway) -> None:
    message_id = await gateway.send(gateway.signed(gateway.request(), "Other.Role"))
    result = await gateway.result(message_id)
    assert result.error is not None
    assert result.error.code == "role_missing"
    (message,) = await gateway.messages(message_id)
    assert not is_unproven(message)


FORGERIES = [
    "no statement",
    "a user's token",
    "foreign key",
    "other input",
    "other flow",
    "other message",
    "other queue",
]


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_request_that_no_gateway_signed_runs_nothing_and_its_result_is_marked(
    system: System, gateway: Gateway, forgery: str
) -> None:
    request = gateway.request("notify-team")
    signed = gateway.signed(request)
    other = replace_signer(gateway, forgery)
    changes: dict[str, dict[str, object]] = {
        "no statement": {"claim": None},
        "a user's token": {"claim": SecretStr(system.claim())},
        "other input": {"input": {"customer": "Mallory"}},
        "other flow": {"claim": gateway.signed(gateway.request("create-quote")).claim},
        "other message": {"claim": gateway.signed(gateway.request("notify-team")).claim},
    }
    sent = other.signed(request, gateway.sender()) if other else signed.model_copy(update=changes[forgery])
    calls = len(await system.calls("notify-team"))
    message_id = await gateway.send(sent)
    result = await gateway.result(message_id)
    assert result.status is Status.REFUSED
    assert result.error is not None
    assert result.error.code.startswith("claim_")
    (message,) = await gateway.messages(message_id)
    assert is_unproven(message)
    assert len(await system.calls("notify-team")) == calls


def replace_signer(gateway: Gateway, forgery: str) -> StatementSigner | None:
    key, queue = gateway.signer._key, REQUESTS
    if forgery == "foreign key":
        key = new_signing_key()
    elif forgery == "other queue":
        queue = "flow-requests"
    else:
        return None
    return StatementSigner(
        key, issuer="flow-gateway", queue=queue, lifetime_seconds=120, binding_claim="nonce", now=clock.now
    )


async def test_a_sender_to_another_queue_cannot_take_the_id_that_a_gateway_will_use(
    system: System, gateway: Gateway
) -> None:
    message_id = prefix_of(REQUESTS) + uuid.uuid4().hex
    async with system.client() as client:
        attack = gateway.request(message_id=message_id, claim=SecretStr(system.claim()))
        await gateway.bus.send("flow-requests", attack.to_message())
        refused = await received(client, attack.correlation_id)
    assert refused.error is not None
    assert refused.error.code == "message_id_reserved"
    assert (await gateway.result(await gateway.start(message_id=message_id))).status is Status.SUCCEEDED


async def test_a_request_that_is_sent_twice_runs_once(system: System, gateway: Gateway) -> None:
    calls = len(await system.calls("create-quote"))
    request = gateway.signed(gateway.request())
    await gateway.send(request)
    await gateway.result(request.message_id)
    await gateway.send(request)  # duplicate detection, or the journal
    other = await gateway.start()
    await gateway.result(other)
    assert len(await system.calls("create-quote")) == calls + 2
    assert len(gateway.results[request.message_id]) == 1


async def test_an_unreadable_request_is_answered_to_the_gateway_and_marked(gateway: Gateway) -> None:
    message_id = uuid.uuid4().hex
    message = gateway.signed(gateway.request()).to_message()
    await gateway.bus.send(REQUESTS, replace(message, body=b"{", message_id=message_id, correlation_id=message_id))
    result = await gateway.result(message_id)
    assert result.error is not None
    assert result.error.code == "malformed_request"
    assert is_unproven(gateway.results[message_id][0])


async def test_a_flow_that_binds_claims_takes_the_users_token_for_this_input_only(gateway: Gateway) -> None:
    request = gateway.request("bound")
    unbound = await gateway.send(gateway.signed(request))
    refused = await gateway.result(unbound)
    assert refused.error is not None
    assert refused.error.code == "claim_not_bound"
    bound = gateway.request("bound")
    sender = replace(gateway.sender(), claims={"nonce": bound.message_id})
    message_id = await gateway.send(gateway.signer.signed(bound, sender))
    assert (await gateway.result(message_id)).status is Status.SUCCEEDED


async def test_an_asserter_acts_for_a_user_and_a_user_does_not(gateway: Gateway) -> None:
    request = gateway.request(on_behalf_of=USER)
    asserted = await gateway.send(gateway.signed(request, ROLE, ASSERTER, kind="app"))
    result = await gateway.result(asserted)
    assert result.error is not None
    assert "requires no privilege" in result.error.message, "the asserter may name a user"
    forged = await gateway.send(gateway.signed(gateway.request(on_behalf_of=USER), ROLE, ASSERTER))
    refusal = await gateway.result(forged)
    assert refusal.error is not None
    assert refusal.error.code == "on_behalf_of_not_allowed"
    assert "may not name" in refusal.error.message


@pytest.mark.parametrize("name", [REPLIES, REPLIES.upper()])
async def test_no_other_queues_request_gets_its_result_into_the_gateways_queue(
    system: System, gateway: Gateway, name: str
) -> None:
    message_id = uuid.uuid4().hex
    async with system.client() as client:
        request = gateway.request(message_id=message_id, claim=SecretStr(system.claim()), reply_to=name)
        await gateway.bus.send("flow-requests", request.to_message())
        await gateway.bus.send("flow-requests", malformed(name, unreadable := uuid.uuid4().hex))
        refused = await received(client, request.correlation_id)
        broken = await received(client, unreadable)
    assert refused.error is not None
    assert refused.error.code == "reply_queue_not_allowed"
    assert broken.error is not None
    assert broken.error.code == "malformed_request"
    await gateway.result(await gateway.start())
    assert message_id not in gateway.results
    assert unreadable not in gateway.results


def malformed(reply_to: str, message_id: str) -> Message:
    return Message(
        body=b"{",
        message_id=message_id,
        correlation_id=message_id,
        reply_to=reply_to,
        application_properties={"contract": "flow-request/1"},
    )


async def received(client: FlowClient, correlation_id: str) -> FlowResult:
    return await client.wait(correlation_id, timeout=SECONDS)


async def test_the_gateways_queue_answers_to_no_other_queue(gateway: Gateway) -> None:
    message_id = await gateway.send(gateway.signed(gateway.request(reply_to="flow-replies")))
    assert (await gateway.result(message_id)).status is Status.SUCCEEDED


async def test_the_gateway_learns_of_a_long_call_and_of_a_wait(gateway: Gateway) -> None:
    called, waited = await gateway.start("slow-report"), await gateway.start("quarterly-report")
    assert (await gateway.result(called)).status is Status.SUCCEEDED
    assert (await gateway.result(waited)).status is Status.SUCCEEDED
    (calling,) = gateway.states[called]
    assert (calling.state, calling.code, calling.attempts) == ("calling", None, 1)
    waiting = gateway.states[waited][-1]
    assert (waiting.state, waiting.code, waiting.attempts) == ("waiting", "flow_running", 1)
    assert waiting.until is not None
    assert waiting.until > waiting.at


async def test_without_its_keys_a_worker_lets_the_gateways_requests_wait(gateway: Gateway, settings: Settings) -> None:
    """The last test: it moves the keys away and back."""
    public = settings.statements.public_path
    content = public.read_bytes()
    public.unlink()
    key = new_signing_key()
    unknown = StatementSigner(
        key, issuer="flow-gateway", queue=REQUESTS, lifetime_seconds=120, binding_claim="nonce", now=clock.now
    )
    message_id = await gateway.send(unknown.signed(gateway.request(), gateway.sender()))
    await gateway_waits(gateway, message_id)
    public.write_bytes(content)
    result = await gateway.result(message_id)
    assert result.error is not None
    assert result.error.code == "claim_invalid"


async def gateway_waits(gateway: Gateway, message_id: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not any(state.code == "statement_keys_unavailable" for state in gateway.states.get(message_id, [])):
            gateway.arrived.clear()
            await gateway.arrived.wait()
    assert message_id not in gateway.results
