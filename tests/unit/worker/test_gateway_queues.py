"""A gateway's queues: what the settings allow, where results go, and what doctor says of the keys."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest, InvalidRequest, ReplyAddress
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Rights
from flow_worker.access.statement_key_files import open_signing_key
from flow_worker.access.statement_keys import new_signing_key, private_pem, public_jwks
from flow_worker.cli.check_gateway import statement_keys
from flow_worker.doctor import statements
from flow_worker.doctor.finding import Outcome
from flow_worker.doctor.queues import uses_of
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Registry
from flow_worker.flows.status_url import StatusHosts
from flow_worker.pipeline import decode
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import ConclusionRules
from flow_worker.pipeline.fragment import Fragment
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import person_of, sender_of
from flow_worker.settings import InputCheckSettings, RequestQueue, RetrySettings, Settings

TENANT, USER = "11111111-2222-4333-8444-555555555555", "22222222-2222-4222-8222-222222222222"
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
QUEUE = {"name": "Flow-Requests-Gateway", "authority": "gateway", "reply_to": "flow-replies-gateway"}
RULES = ConclusionRules(
    ("flow-replies", "other-replies"),
    "flow-replies",
    RetrySettings(),
    timedelta(),
    {"flow-requests-gateway": "flow-replies-gateway"},
)
PROVEN = Principal(TENANT, USER, "user", frozenset(), "gateway")


def settings(*queues: dict[str, Any], **changes: Any) -> Settings:
    minimal = {
        "servicebus": {"namespace": "contoso.servicebus.windows.net"},
        "claims": {"tenants": [TENANT], "audiences": ["api://flow-worker"]},
        "flows": {"quote": {"url": "https://x.environment.api.powerplatform.com/a", "role": "R"}},
        "request_queues": [{"name": "flow-requests"}, *(queues or (QUEUE,))],
    }
    return Settings.model_validate(minimal | changes)


# --- settings ------------------------------------------------------------------------------------------------------


def test_without_a_gateway_a_worker_has_no_queue_for_one() -> None:
    plain = settings({"name": "more-requests"})
    assert plain.gateway_reply_queues == plain.progress_queues == {}
    assert not statements.checks(plain)
    assert statement_keys(plain) == []
    assert [use.name for use in uses_of(plain)] == [
        "flow-requests",
        "more-requests",
        "flow-continuations",
        "flow-replies",
    ]


def test_a_gateways_queue_names_its_own_reply_queue() -> None:
    assert settings().gateway_reply_queues == {"flow-requests-gateway": "flow-replies-gateway"}
    assert settings().progress_queues == settings().gateway_reply_queues
    assert settings(QUEUE | {"progress": False}).progress_queues == {}
    reply = next(use for use in uses_of(settings()) if use.name == "flow-replies-gateway")
    assert (reply.sends, reply.receives, reply.sessions, reply.for_gateway) == (True, False, False, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reply_to": None}, "the authority 'gateway' needs reply_to"),
        ({"reply_to": "Flow-Replies"}, "which is also one of replies.queues"),
        ({"reply_to": "FLOW-CONTINUATIONS"}, "which is also the continuation queue"),
        ({"reply_to": "flow-requests"}, "which is also a request queue"),
        ({"reply_to": "flow-requests-gateway"}, "which is also a request queue"),
        ({"organization": TENANT}, "are for the authority 'dataverse' only"),
        ({"flows": {"a": "quote"}}, "are for the authority 'dataverse' only"),
        ({"authority": "entra"}, "reply_to is for the authorities"),
    ],
)
def test_a_reply_queue_into_which_others_could_put_results_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(QUEUE | changes)


# --- where results go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [None, "flow-replies", "other-replies", "flow-replies-gateway", "unknown"])
@pytest.mark.parametrize("queue", ["flow-requests-gateway", "Flow-Requests-Gateway"])
def test_a_gateways_result_goes_to_its_queue_whatever_the_request_names(named: str | None, queue: str) -> None:
    assert RULES.reply_queue(ReplyAddress("m", "c", "s", named), queue) == "flow-replies-gateway"


@pytest.mark.parametrize("named", ["flow-replies-gateway", "FLOW-REPLIES-GATEWAY"])
@pytest.mark.parametrize("queue", ["flow-requests", "dataverse-requests", ""])
def test_no_other_result_goes_there(named: str, queue: str) -> None:
    assert RULES.reply_queue(ReplyAddress("m", "c", "s", named), queue) == "flow-replies"


def message(**changes: Any) -> ReceivedMessage:
    parts: dict[str, Any] = dict.fromkeys(("message_id", "correlation_id", "reply_to_session_id"), "m")
    parts |= {"flow": "quote", "claim": SecretStr("x")}
    sent = FlowRequest(**(parts | changes)).to_message()
    fields = {name: getattr(sent, name) for name in Message.__dataclass_fields__}
    return ReceivedMessage(**fields, enqueued_at=NOW, sequence_number=1)


def of_gateway(**changes: Any) -> Job:
    return decode.reader_of(RequestQueue.model_validate(QUEUE))(message(**changes))


def test_a_gateways_request_has_its_reply_queue_from_the_settings() -> None:
    assert of_gateway(reply_to="flow-replies").reply_to == "flow-replies-gateway"
    assert of_gateway().reply_to == "flow-replies-gateway"
    with pytest.raises(InvalidRequest):
        decode.reader_of(RequestQueue.model_validate(QUEUE))(replace(message(), body=b"{"))


def test_the_request_queue_of_an_unreadable_continuation_is_read_alone() -> None:
    body: dict[str, Any] = {"message_id": "m", "request_queue": QUEUE["name"], "reply_to": QUEUE["reply_to"]}
    fragment = Fragment.of(Message(body=json.dumps(body).encode()))
    assert fragment is not None
    assert RULES.reply_queue(fragment.address, fragment.request_queue) == "flow-replies-gateway"
    for other in (None, 1, "", "x" * 300, "flow-requests"):
        fragment = Fragment.of(Message(body=json.dumps(body | {"request_queue": other}).encode()))
        assert fragment is not None
        assert RULES.reply_queue(fragment.address, fragment.request_queue) == "flow-replies"


class Anybody:
    """An authority that proves everybody."""

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        return ProvenSender(PROVEN)


def admission(*gateway_queues: str) -> Admission:
    flows = settings().flows
    return Admission(
        authorities={"flow-requests": Anybody(), "flow-requests-gateway": Anybody()},
        rights=Rights(Asserters(), None),
        registry=Registry(flows, StatusHosts((), frozenset())),
        input_checks=InputChecks(flows, InputCheckSettings()),
        reply_queues=["flow-replies"],
        gateway_queues=gateway_queues,
        binding_claim="nonce",
    )


async def test_only_the_gateways_requests_may_have_its_reply_queue() -> None:
    proven = await admission("flow-requests-gateway").authenticate(of_gateway())
    assert proven.principal == PROVEN
    assert proven.claim is None
    other = decode.requests_of("flow-requests")(message(reply_to="flow-replies-gateway"))
    with pytest.raises(Refused, match="must not send results"):
        await admission("flow-requests-gateway").authenticate(other)


async def test_a_proven_request_waits_if_the_settings_no_longer_name_its_queue() -> None:
    proven = await admission("flow-requests-gateway").authenticate(of_gateway())
    with pytest.raises(TemporarilyUnavailable, match="name no request queue"):
        await admission().authenticate(proven)


def test_a_principal_has_its_limits_once_whichever_way_it_comes() -> None:
    through = of_gateway().model_copy(update={"principal": PROVEN})
    directly = of_gateway().model_copy(update={"principal": replace(PROVEN, authority="entra")})
    assert sender_of(through) == sender_of(directly)
    assert person_of(through) == person_of(directly)
    assert through.fingerprint != directly.fingerprint, "the same message ID there is another request"


# --- what the tools say of the keys --------------------------------------------------------------------------------


async def found(of: Settings) -> dict[str, tuple[Outcome, str]]:
    (check,) = statements.checks(of)
    results = await check.run()
    assert isinstance(results, list)
    assert all(result.remedy for result in results if result.outcome is Outcome.FAILED)
    return {result.aspect or check.name: (result.outcome, result.detail) for result in results}


def with_keys(folder: Path, **changes: Any) -> Settings:
    return settings(statements={"key_path": str(folder / "key.pem")} | changes)


async def test_doctor_compares_the_keys_of_both_sides(tmp_path: Path) -> None:
    of = with_keys(tmp_path)
    assert (await found(of))["public keys"][0] is Outcome.FAILED
    assert "wait until its public keys are readable" in statement_keys(of)[0]

    key = await open_signing_key(of.statements)
    report = await found(of)
    assert {name: outcome for name, (outcome, _) in report.items()} == {
        "public keys": Outcome.OK,
        "signing key": Outcome.OK,
    }
    assert key.kid in report["signing key"][1]
    assert key.kid in statement_keys(of)[0]


async def test_doctor_names_a_gateway_whose_key_the_worker_does_not_have(tmp_path: Path) -> None:
    other = public_jwks([new_signing_key().verifying]).decode()
    report = await found(with_keys(tmp_path, public_keys=other, signing_key=private_pem(new_signing_key()).decode()))
    assert report["public keys"][0] is Outcome.OK
    assert report["signing key"][0] is Outcome.FAILED
    assert "does not have" in report["signing key"][1]

    report = await found(with_keys(tmp_path, public_keys=other))
    assert report["signing key"][0] is Outcome.UNSEEN


@pytest.mark.skipif(os.name != "posix", reason="modes")
async def test_doctor_names_a_file_of_keys_to_which_others_may_write(tmp_path: Path) -> None:
    of = with_keys(tmp_path)
    await open_signing_key(of.statements)
    of.statements.public_path.chmod(0o664)
    assert (await found(of))["writers"][0] is Outcome.FAILED


def test_a_continuation_keeps_the_proven_principal_without_the_statement() -> None:
    """The JSON has no new field: a worker of an earlier version leaves the message to others for its authority."""
    job = of_gateway().model_copy(update={"principal": PROVEN, "claim": None})
    sent = job.to_message()
    assert set(json.loads(sent.body)) <= set(Job.model_fields)
    again = Job.from_message(sent)
    assert again.principal == PROVEN
    assert (again.reply_to, again.claim, again.request_queue) == ("flow-replies-gateway", None, QUEUE["name"])
