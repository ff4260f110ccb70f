"""Authenticates the sender of a request and authorizes the flow call; the audit log gets a line for each decision."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping

from flow_worker.access import gateway_message_ids
from flow_worker.access.authorities import Authority, BoundRequest, Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Rights
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Flow, Registry
from flow_worker.pipeline.job import Job
from flow_worker.telemetry.logs import log

_DIGEST = re.compile(r"[0-9a-f]{64}")
_audit = logging.getLogger("flow_worker.audit")
Decided = Callable[[str, str | None, str | None], None]
"""Learns the request queue, the authority of the proven sender, and the code of the refusal."""

_NOT_MAPPED = (
    "The settings name no flow for this message: name one in the queue's setting 'flows', or narrow the step's filter."
)


class Admission:
    """Admits or refuses requests, and writes the audit log."""

    def __init__(
        self,
        *,
        authorities: Mapping[str, Authority],
        rights: Rights,
        registry: Registry,
        input_checks: InputChecks,
        reply_queues: Collection[str],
        gateway_queues: Collection[str] = (),
        binding_claim: str,
        explain_refusals: bool = False,
        decided: Decided = lambda *_: None,
    ) -> None:
        """`authorities`: the authority of each request queue, by the queue's name.

        `reply_queues`: the queues that a request may name. `gateway_queues`: the request queues of gateways, whose
        results have a queue of their own. `binding_claim`: the token claim that binds a claim to one request, for flows
        that require this.
        `explain_refusals`: senders learn why they may not start a flow, and so which flows exist; for development.
        `decided` is called for each decision.
        """
        # In lower case: Service Bus ignores the case of queue names.
        self._authorities = {queue.lower(): authority for queue, authority in authorities.items()}
        self._rights = rights
        self._registry = registry
        self._input_checks = input_checks
        self._reply_queues = frozenset(queue.lower() for queue in reply_queues)
        self._gateway_queues = frozenset(queue.lower() for queue in gateway_queues)
        self._binding_claim = binding_claim
        self._explains = explain_refusals
        self._decided = decided

    async def authenticate(self, job: Job) -> Job:
        """Return the job with its proven sender and without the evidence, which no later step needs.

        A continuation carries its principal. The principal stays proven, although the claim may have expired.
        Raises `Refused`, `TemporarilyUnavailable`.
        """
        try:
            self._require_reply_queue(job)
            self._require_own_message_id(job)
        except Refused as refusal:
            self._decide(job, job.principal, refusal)
            raise
        return job if job.principal is not None else await self._proven(job)

    async def authorize(self, job: Job, queue: str = "") -> Flow:
        """Return the flow that the proven sender may start. Raises `Refused`, `TemporarilyUnavailable`.

        `queue` is the queue whose lane has the job.

        A status poll starts nothing: the call that started the run was authorized.
        """
        if job.kind == "poll":
            return self._registry.find(job.flow)
        if job.principal is None:  # fail closed: without a sender there is nobody whose rights could be checked
            raise ValueError("the sender of the job is not authenticated")
        try:
            flow = await self._permitted(job, job.principal)
            # Last, because the message names the place where the input fails the schema: only for permitted senders.
            await self._input_checks.require(flow, job.input, _turn_of(job.principal), queue)
        except Refused as refusal:
            self._decide(job, job.principal, refusal)
            if self._explains:
                raise
            raise refusal.for_sender() from None
        self._decide(job, job.principal, None)
        return flow

    async def _permitted(self, job: Job, principal: Principal) -> Flow:
        """Return the flow that the sender may start. Raises `Refused`, `TemporarilyUnavailable`."""
        rights = self._rights.of(job.request_queue)
        try:
            flow = self._mapped(job)
            await rights.require(principal, flow)
        except Refused as refusal:
            if refusal.is_hidden and refusal.code != "privilege_missing" and not self._explains:
                await rights.query_any(principal, job.flow)
            raise
        # An unbound request waits for Dataverse too: a refusal at once would tell that the flow exists. The request's
        # continuation stays unbound.
        if job.unbound:
            raise _not_bound(job.flow, self._binding_claim)
        return flow

    def _mapped(self, job: Job) -> Flow:
        if not job.flow:
            # Here and not when the message is decoded: towards its sender it is like a flow of another user.
            raise Refused("message_not_mapped", _NOT_MAPPED, is_hidden=True)
        return self._registry.find(job.flow)

    def _require_reply_queue(self, job: Job) -> None:
        if job.request_queue.lower() in self._gateway_queues:
            return
        if job.principal is not None and job.principal.authority == "gateway":
            # The settings no longer name its queue, and so not its reply queue: the gateway would lose the result.
            raise _unknown_queue(job.request_queue)
        if job.reply_to is not None and job.reply_to.lower() not in self._reply_queues:
            raise Refused("reply_queue_not_allowed", "The worker must not send results to the queue named in reply-to.")

    def _require_own_message_id(self, job: Job) -> None:
        """Refuse an ID of a gateway in another queue than this gateway's. Later on, the journal would bind it."""
        message_id = job.replay_of or job.message_id
        if job.principal is not None or not gateway_message_ids.is_reserved(message_id):
            return
        queue = job.request_queue.lower()
        if queue in self._gateway_queues and message_id.startswith(gateway_message_ids.prefix_of(queue)):
            return
        prefix = gateway_message_ids.RESERVED
        sentence = (
            f"Only a gateway may send message IDs that begin with '{prefix}'; send this request under another ID."
        )
        raise Refused("message_id_reserved", sentence)

    async def _proven(self, job: Job) -> Job:
        try:
            proven = await self._sender_of(job)
        except Refused as refusal:
            self._decide(job, None, refusal)
            raise
        try:
            principal = self._rights.acting_for(proven.principal, job.on_behalf_of)
        except Refused as refusal:
            self._decide(job, proven.principal, refusal)
            raise
        proven_fields = {"principal": principal, "claim": None, "dataverse_sender": None}
        return job.model_copy(update={**proven_fields, "unbound": not self._is_bound(job, proven)})

    async def _sender_of(self, job: Job) -> ProvenSender:
        authority = self._authorities.get(job.request_queue.lower())
        if authority is None:
            # A change of the settings removed this continuation's queue. Another queue's authority must not judge it.
            raise _unknown_queue(job.request_queue)
        return await authority.authenticate(
            Evidence(job.claim, job.accepted, job.dataverse_sender, _bound_request(job))
        )

    def _is_bound(self, job: Job, proven: ProvenSender) -> bool:
        """Return whether the claim names this request, or its flow does not need this.

        A stolen claim can then be sent again only with the same request. `authorize` refuses an unbound claim, and not
        the authentication: before the rights are checked, a refusal would tell that the flow exists.
        """
        if not self._registry.binds_claim(job.flow):
            return True
        bound_to = proven.claims.get(self._binding_claim)
        # Compare a value in the form of a digest with the digest only. Otherwise a sender could choose the digest of
        # another request as message ID, and use that request's claim with any input.
        is_digest = isinstance(bound_to, str) and _DIGEST.fullmatch(bound_to) is not None
        return bound_to == (job.digest if is_digest else job.replay_of or job.message_id)

    def _decide(self, job: Job, principal: Principal | None, refusal: Refused | None) -> None:
        _audit_decision(job, principal, refusal)
        authority = None if principal is None else principal.authority
        self._decided(job.request_queue, authority, None if refusal is None else refusal.code)


def _unknown_queue(queue: str) -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "request_queue_unknown",
        f"the settings name no request queue '{queue}', so no authority can verify the sender; add the queue to "
        "request_queues again",
    )


def _bound_request(job: Job) -> BoundRequest:
    return BoundRequest(
        job.request_queue.lower(), job.replay_of or job.message_id, job.flow, job.input_hash, job.on_behalf_of
    )


def _not_bound(flow: str, name: str) -> Refused:
    sentence = (
        f"'{flow}' takes only claims that name the request's message ID or digest in '{name}'; request a token for "
        "this request."
    )
    return Refused("claim_not_bound", sentence)


def _turn_of(principal: Principal) -> tuple[str | None, ...]:
    """Return the sender whose inputs take turns with those of others.

    For an asserter it is the asserter, and not the user: it may name as many users as it likes.
    """
    return (principal.authority, principal.tenant, principal.oid, principal.system_user)


def _audit_decision(job: Job, principal: Principal | None, refusal: Refused | None) -> None:
    """Log one decision, without claim and input, so that the audit log holds no secrets."""
    sender = {} if principal is None else _sender_fields(principal)
    flow = f"'{job.flow}'" if job.flow else "a flow"
    log(
        _audit,
        logging.INFO,
        "access.allowed" if refusal is None else "access.refused",
        f"The sender may start {flow}." if refusal is None else f"The sender must not start {flow}: {refusal.code}.",
        flow=job.flow,
        code=None if refusal is None else refusal.code,
        queue=job.request_queue,
        message_id=job.message_id,
        correlation_id=job.correlation_id,
        **sender,
    )


def _sender_fields(principal: Principal) -> dict[str, str | None]:
    return {
        "authority": principal.authority,
        "tenant": principal.tenant,
        "caller": principal.oid or None,
        "caller_kind": principal.kind,
        "system_user": principal.system_user,
        "on_behalf_of": principal.on_behalf_of,
    }
