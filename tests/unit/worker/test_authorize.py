"""Authentication and authorization, their audit lines, and claims that are bound to one request."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import JsonValue, SecretStr

from flow_contracts.message import ReceivedMessage
from flow_contracts.request import FlowRequest, request_digest
from flow_contracts.result import FlowError, Status
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Privileges, Rights
from flow_worker.access.user import User
from flow_worker.dead_letters.actions import replay_job
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.privilege import Depth
from flow_worker.flows.registry import Flow, Registry
from flow_worker.pipeline import decode, results
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.job import Job
from flow_worker.settings import FlowSettings, InputCheckSettings

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CLAIM = "a-claim-that-must-not-be-seen"
INPUT: JsonValue = {"customer": "an-input-that-must-not-be-seen", "amount": 5}
ADA = "aaaaaaaa-0000-0000-0000-000000000001"
PLUG_IN = "bbbbbbbb-0000-0000-0000-000000000002"
URL = SecretStr("https://flow.example/x")
FLOWS = {
    "quote": FlowSettings(url=URL, role="Quotes.Create"),
    "bound": FlowSettings(url=URL, role="Quotes.Create", bind_claim=True),
    "private": FlowSettings(url=URL, privilege="prvCreatenew_quote"),
    "both": FlowSettings(url=URL, role="Quotes.Create", privilege="prvCreatenew_quote"),
    "typed": FlowSettings(url=URL, role="Quotes.Create", input_schema={"required": ["a-secret-member"]}),
    "bound-privately": FlowSettings(url=URL, privilege="prvCreatenew_quote", bind_claim=True),
}


class Tokens:
    """An authority that accepts every claim and proves the principal that the test sets."""

    def __init__(
        self, principal: Principal, error: Exception | None = None, claims: Mapping[str, JsonValue] | None = None
    ) -> None:
        self._proven = ProvenSender(principal, claims or {})
        self._error = error

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        if self._error is not None:
            raise self._error
        return self._proven


USER = Principal("tenant", ADA, "user", frozenset({"Quotes.Create"}), "entra")
APP = Principal("tenant", PLUG_IN, "app", frozenset(), "entra")


def admission(tokens: Tokens, privileges: Privileges | None = None, *, explain_refusals: bool = True) -> Admission:
    """Return an admission that tells senders its reasons, unless the test says otherwise."""
    return Admission(
        authorities={"flow-requests": tokens},
        rights=Rights(Asserters({PLUG_IN}), privileges, known_privileges=["prvCreatenew_quote"]),
        registry=Registry(FLOWS),
        input_checks=InputChecks(FLOWS, InputCheckSettings()),
        reply_queues=["flow-replies"],
        binding_claim="nonce",
        explain_refusals=explain_refusals,
    )


def job(flow: str = "quote", **changes: object) -> Job:
    options = {"message_id": "m-1", "correlation_id": "c-1", "reply_to_session_id": "c-1", "claim": SecretStr(CLAIM)}
    message = FlowRequest.model_validate({"flow": flow, "input": INPUT, **options, **changes}).to_message()
    fields = {name: getattr(message, name) for name in type(message).__dataclass_fields__}
    received = ReceivedMessage(**fields, sequence_number=7, enqueued_at=NOW, delivery_count=1, expires_at=None)
    return decode.requests_of("flow-requests")(received)


def audit(caplog: pytest.LogCaptureFixture) -> list[dict[str, JsonValue]]:
    assert CLAIM not in caplog.text
    assert "must-not-be-seen" not in " ".join(str(vars(record)) for record in caplog.records)
    return [vars(record) for record in caplog.records if record.name == "flow_worker.audit"]


async def refusal_code(of: Admission, requested: Job) -> str:
    with pytest.raises(Refused) as refusal:
        await of.authorize(await of.authenticate(requested))
    return refusal.value.code


# --- the audit ---------------------------------------------------------------------------------------------------


async def test_an_allowed_request_is_one_audit_line_with_sender_and_flow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    of = admission(Tokens(USER))
    flow = await of.authorize(await of.authenticate(job()))
    assert flow.name == "quote"
    [line] = audit(caplog)
    assert line["event"] == "access.allowed"
    fields = line["fields"]
    assert isinstance(fields, dict)
    assert fields == {
        "flow": "quote",
        "code": None,
        "queue": "flow-requests",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "authority": "entra",
        "tenant": "tenant",
        "caller": ADA,
        "caller_kind": "user",
        "system_user": None,
        "on_behalf_of": None,
    }


@pytest.mark.parametrize(
    ("tokens", "requested", "code"),
    [
        (Tokens(USER, Refused("claim_expired", "no")), job(), "claim_expired"),
        (Tokens(APP), job(), "role_missing"),
        (Tokens(USER), job(on_behalf_of=ADA), "on_behalf_of_not_allowed"),
        (Tokens(APP), job("private", on_behalf_of=ADA), "privilege_missing"),
        (Tokens(USER), job("unheard-of"), "unknown_flow"),
        (Tokens(USER), job(reply_to="elsewhere"), "reply_queue_not_allowed"),
    ],
)
async def test_a_refused_request_is_one_audit_line_with_its_code(
    tokens: Tokens, requested: Job, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    assert await refusal_code(admission(tokens), requested) == code
    [line] = audit(caplog)
    assert line["event"] == "access.refused"
    fields = line["fields"]
    assert isinstance(fields, dict)
    assert fields["code"] == code


@pytest.mark.parametrize(
    "requested", [job(on_behalf_of=ADA), job("bound"), job("private")], ids=["for another", "not bound", "denied"]
)
async def test_a_refusal_of_a_proven_sender_names_the_sender(requested: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    await refusal_code(admission(Tokens(USER)), requested)
    [line] = audit(caplog)
    assert isinstance(line["fields"], dict)
    assert line["fields"]["caller"] == USER.oid


@pytest.mark.parametrize("queue", ["Flow-Replies", "FLOW-REPLIES", "flow-replies"])
async def test_a_reply_queue_is_allowed_in_any_case(queue: str) -> None:
    assert await admission(Tokens(USER)).authenticate(job(reply_to=queue))


async def test_an_outage_is_not_audited_as_a_decision(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    with pytest.raises(TemporarilyUnavailable):
        await admission(Tokens(USER, TemporarilyUnavailable("keys_unavailable", "away"))).authenticate(job())
    assert audit(caplog) == []


async def test_a_proven_job_no_longer_contains_the_claim() -> None:
    proven = await admission(Tokens(USER)).authenticate(job())
    assert (proven.claim, proven.principal) == (None, USER)
    assert CLAIM.encode() not in proven.to_message().body


# --- claims bound to a request -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bound_to", ["m-1", request_digest("bound", INPUT, None)])
async def test_a_bound_claim_names_the_message_id_or_the_digest(bound_to: str) -> None:
    of = admission(Tokens(USER, claims={"nonce": bound_to}))
    assert (await of.authorize(await of.authenticate(job("bound")))).name == "bound"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"nonce": "m-2"},
        {"nonce": ""},
        {"nonce": None},
        {"nonce": ["m-1"]},
        {"nonce": {"m-1": 1}},
        {"Nonce": "m-1"},
        {"nonce": request_digest("quote", INPUT, None)},
        {"nonce": request_digest("bound", INPUT, ADA)},
    ],
)
async def test_a_claim_that_is_unbound_or_bound_to_another_request_is_refused(claims: dict[str, JsonValue]) -> None:
    assert await refusal_code(admission(Tokens(USER, claims=claims)), job("bound")) == "claim_not_bound"


async def test_a_claim_bound_to_a_digest_does_not_admit_another_input_under_that_message_id() -> None:
    """Otherwise a thief of the claim could send any input, with the digest as message ID."""
    stolen = request_digest("bound", {"customer": "Contoso", "amount": 1}, None)
    requested = job("bound").model_copy(update={"message_id": stolen})
    assert await refusal_code(admission(Tokens(USER, claims={"nonce": stolen})), requested) == "claim_not_bound"


async def test_a_flow_without_bind_claim_accepts_any_claim() -> None:
    of = admission(Tokens(USER, claims={"nonce": "m-2"}))
    assert (await of.authorize(await of.authenticate(job()))).name == "quote"


async def test_a_replay_is_still_the_request_that_its_claim_names() -> None:
    of = admission(Tokens(USER, claims={"nonce": "m-1"}))
    again = replay_job(job("bound"), "flow-requests", 7, NOW)
    assert again.message_id != "m-1"
    assert (await of.authorize(await of.authenticate(again))).name == "bound"


def test_the_digest_does_not_depend_on_how_the_json_was_written() -> None:
    assert request_digest("f", {"b": 1, "a": "ä"}, None) == request_digest("f", {"a": "ä", "b": 1}, None)
    known = '{"flow":"f","input":{"a":"ä","b":1}}'
    assert request_digest("f", {"a": "ä", "b": 1}, None) == hashlib.sha256(known.encode()).hexdigest()
    assert request_digest("f", "\ud800", None)  # JSON may hold half a surrogate pair


async def test_no_flow_is_authorized_for_a_sender_who_is_not_authenticated() -> None:
    with pytest.raises(ValueError, match="not authenticated"):
        await admission(Tokens(USER)).authorize(job())


# --- a sender does not learn which flows exist -------------------------------------------------------------------

STRANGER = Principal("tenant", "cccccccc-0000-0000-0000-000000000003", "user", frozenset(), "entra")


class Queried:
    """A source of privileges that counts the queries, and grants what the test says."""

    def __init__(self, held: Depth | None = None, error: TemporarilyUnavailable | None = None) -> None:
        self.queries: list[tuple[User, str]] = []
        self._held, self._error = held, error

    async def depth(self, user: User, privilege: str) -> Depth | None:
        self.queries.append((user, privilege))
        if self._error is not None:
            raise self._error
        return self._held


def native(requested: Job) -> Job:
    return requested.model_copy(update={"principal": Principal("org", ADA, "user", frozenset(), "dataverse")})


async def refused(of: Admission, requested: Job) -> tuple[Job, Refused]:
    """Return the job as far as it was proven, and the refusal."""
    proven = await of.authenticate(requested)
    with pytest.raises(Refused) as refusal:
        await of.authorize(proven)
    return proven, refusal.value


TO_STRANGERS = [
    "unheard-of",
    "quote",
    "private",
    "both",
    "typed",
    "bound",
    "bound-privately",
    "Quote",
    "QUOTE ",
    "\ud800",
]


async def test_no_such_flow_and_not_for_you_are_the_same_refusal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    seen = set()
    for flow in TO_STRANGERS:
        asked = Queried()
        proven, refusal = await refused(
            admission(Tokens(STRANGER), asked, explain_refusals=False), job().model_copy(update={"flow": flow})
        )
        assert proven.principal == STRANGER, "the same authentication, so that the result has the same members"
        seen.add((refusal.code, refusal.message, len(asked.queries), str(refusal.__cause__), refusal.is_hidden))
    assert len(seen) == 1
    assert next(iter(seen))[0] == "flow_not_allowed"
    codes = [line["fields"]["code"] for line in audit(caplog) if isinstance(line["fields"], dict)]
    private = "privilege_missing"
    assert codes == [
        "unknown_flow",
        "role_missing",
        private,
        *["role_missing"] * 3,
        private,
        *["unknown_flow"] * 3,
    ], "the administrator's log has the reasons"


async def test_a_native_message_without_a_flow_is_refused_like_one_for_a_flow_of_others() -> None:
    seen = set()
    for flow in ("", "private", "quote", "unheard-of"):
        asked = Queried()
        requested = native(job()).model_copy(update={"flow": flow})
        _, refusal = await refused(admission(Tokens(STRANGER), asked, explain_refusals=False), requested)
        result = results.without_answer(requested, Status.REFUSED, FlowError(code="x", message="y"), NOW)
        seen.add((refusal.code, refusal.message, len(asked.queries), result.flow))
    assert seen == {("flow_not_allowed", refusal.message, 1, None)}


async def test_while_dataverse_is_away_every_hidden_refusal_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    away = TemporarilyUnavailable("dataverse_unavailable", "away")
    of = admission(Tokens(STRANGER), Queried(error=away), explain_refusals=False)
    for flow in ("unheard-of", "quote", "private", "both", "bound"):
        with pytest.raises(TemporarilyUnavailable):
            await of.authorize(await of.authenticate(job(flow)))
    assert audit(caplog) == []


async def test_only_a_sender_with_the_right_learns_that_a_claim_must_be_bound_or_how_the_input_must_look() -> None:
    of = admission(Tokens(USER), explain_refusals=False)
    assert await refusal_code(of, job("bound")) == "claim_not_bound"
    _, refusal = await refused(of, job("typed"))
    assert refusal.code == "input_schema_mismatch"
    _, hidden = await refused(admission(Tokens(STRANGER), explain_refusals=False), job("typed"))
    assert "a-secret-member" not in hidden.message


@pytest.mark.parametrize("code", ["dataverse_unavailable", "dataverse_throttled"])
async def test_an_unbound_claim_waits_for_dataverse_like_one_for_no_flow_and_is_refused_then(code: str) -> None:
    away = Queried(error=TemporarilyUnavailable(code, "away"))
    of = admission(Tokens(USER), away, explain_refusals=False)
    for flow in ("bound-privately", "unheard-of"):
        proven = await of.authenticate(job(flow))
        with pytest.raises(TemporarilyUnavailable):
            await of.authorize(proven)
    back = admission(Tokens(USER), Queried(Depth.GLOBAL), explain_refusals=False)
    waited = Job.from_message((await of.authenticate(job("bound-privately"))).to_message())
    assert await refusal_code(back, waited) == "claim_not_bound"


async def test_a_continuation_of_an_unbound_claim_stays_unbound() -> None:
    of = admission(Tokens(USER), Queried(Depth.GLOBAL), explain_refusals=False)
    proven = await of.authenticate(job("bound-privately"))
    sent = proven.to_message()
    assert b"unbound" not in sent.body, "workers up to 0.1 read the body strictly"
    again = await of.authenticate(Job.from_message(sent))
    assert again.principal == USER
    assert await refusal_code(of, again) == "claim_not_bound"


async def test_an_asserters_inputs_take_one_turn_whomever_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[object, str]] = []

    async def require(_: InputChecks, flow: Flow, value: JsonValue, sender: object, queue: str) -> None:
        checked.append((sender, queue))

    async def permit(_: Rights, principal: Principal, flow: Flow) -> None: ...

    monkeypatch.setattr(InputChecks, "require", require)
    monkeypatch.setattr(Rights, "require", permit)
    of = admission(Tokens(USER))
    for principal in (*(replace(APP, roles=USER.roles, on_behalf_of=user) for user in (None, ADA, "other")), USER):
        await of.authorize(job("typed").model_copy(update={"principal": principal}), "continuations")
    assert len({sender for sender, _ in checked[:3]}) == 1
    assert checked[3][0] != checked[0][0]
    assert {queue for _, queue in checked} == {"continuations"}
