"""The message IDs of gateways: no sender to another queue, and no other gateway, can take one."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import FlowRequest
from flow_worker import clock
from flow_worker.access.authorities import Authority, Evidence, ProvenSender
from flow_worker.access.gateway_message_ids import prefix_of, request_id_of
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Rights
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Registry
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.decode import requests_of
from flow_worker.pipeline.job import Job
from flow_worker.settings import FlowSettings, InputCheckSettings

OWN, OTHER, ENTRA = "flow-requests-gateway", "flow-requests-gateway-2", "flow-requests"
GUESSED = "0123456789abcdef0123456789abcdef01234567"
FLOWS = {"quote": FlowSettings.model_validate({"url": "https://contoso.example/quote", "role": "Quotes.Create"})}
SENDER = Principal("tenant", "aaaaaaaa-0000-4000-8000-000000000001", "user", frozenset({"Quotes.Create"}), "entra")


class Proves:
    """An authority to which every claim proves a sender."""

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        return ProvenSender(SENDER, {})


class Waits:
    """An authority whose keys are unavailable."""

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        raise TemporarilyUnavailable("keys_unavailable", "the issuer is away")


def admission(authority: Authority | None = None) -> Admission:
    queues = dict.fromkeys((OWN, OTHER, ENTRA), authority or Proves())
    return Admission(
        authorities=queues,
        rights=Rights(Asserters(frozenset()), None),
        registry=Registry(FLOWS),
        input_checks=InputChecks(FLOWS, InputCheckSettings()),
        reply_queues=["flow-replies"],
        gateway_queues=[OWN, OTHER],
        binding_claim="nonce",
    )


def job(message_id: str, queue: str) -> Job:
    ids = {"message_id": message_id, "correlation_id": "c", "reply_to_session_id": "c"}
    request = FlowRequest.model_validate({"flow": "quote", "claim": SecretStr("claim")} | ids)
    message = request.to_message()
    fields = {name: getattr(message, name) for name in type(message).__dataclass_fields__}
    received = ReceivedMessage(**fields, sequence_number=7, enqueued_at=clock.now(), delivery_count=0, expires_at=None)
    return requests_of(queue)(received)


@pytest.mark.parametrize(
    ("message_id", "queue"),
    [
        (prefix_of(OWN) + GUESSED, ENTRA),
        (prefix_of(OWN) + GUESSED, OTHER),  # a gateway has no power over the IDs of another one
        (prefix_of(OWN).upper() + GUESSED, ENTRA),
        ("fw-gateway-", ENTRA),
        ("fw-gateway-" + GUESSED, OWN),
    ],
)
async def test_no_other_sender_can_take_a_gateways_message_id(message_id: str, queue: str) -> None:
    of = admission()
    taken = job(message_id, queue)
    replayed = job("replay-1", queue).model_copy(update={"replay_of": message_id})
    for attempt in (taken, replayed):
        with pytest.raises(Refused) as refusal:
            await of.authenticate(attempt)
        assert refusal.value.code == "message_id_reserved"
    with pytest.raises(Refused, match="begin with"):  # before a wait, whose continuation has an ID, too
        await admission(Waits()).authenticate(taken)


@pytest.mark.parametrize(
    ("message_id", "queue"),
    [
        (prefix_of(OWN) + GUESSED, OWN),
        (prefix_of(OWN) + GUESSED, OWN.upper()),
        (GUESSED, OWN),  # a gateway of an earlier build sent it
        (GUESSED, ENTRA),
        ("fw-gateway", ENTRA),
        ("my-fw-gateway-1", ENTRA),
    ],
)
async def test_gateways_and_senders_use_their_own_ids(message_id: str, queue: str) -> None:
    assert (await admission().authenticate(job(message_id, queue))).principal == SENDER


async def test_a_replay_of_a_gateways_dead_letter_keeps_its_right() -> None:
    replayed = job("replay-1", OWN).model_copy(update={"replay_of": prefix_of(OWN) + GUESSED})
    assert (await admission().authenticate(replayed)).principal == SENDER


async def test_a_proven_continuation_goes_on() -> None:
    proven = job(prefix_of(OWN) + GUESSED, ENTRA).model_copy(update={"principal": SENDER})
    assert (await admission().authenticate(proven)).principal == SENDER


def test_the_prefix_follows_from_the_queue_alone() -> None:
    assert prefix_of(OWN) == prefix_of(OWN.upper()) != prefix_of(OTHER)
    assert request_id_of(prefix_of(OWN) + GUESSED) == GUESSED
    assert request_id_of(GUESSED) == GUESSED
    assert request_id_of("fw-gateway-short-" + GUESSED) == "fw-gateway-short-" + GUESSED
