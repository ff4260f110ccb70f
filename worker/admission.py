"""Who sends a request, and whether they may: two steps, each with a line in the audit."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr

from worker.access.principal import Principal
from worker.access.rights import Rights
from worker.access.tokens import Proven
from worker.continuations import Continuation
from worker.errors import Refused
from worker.flows.registry import Flow, Registry
from worker.logs import log

_DIGEST = re.compile(r"[0-9a-f]{64}")
_audit = logging.getLogger("worker.audit")


class Authority(Protocol):
    """Tells who sent a claim."""

    async def prove(self, claim: SecretStr | None, enqueued_at: datetime) -> Proven:
        """Raises `Refused` or `NotKnownYet`."""
        ...


class Admission:
    """Admits requests, and says so."""

    def __init__(
        self,
        *,
        authority: Authority,
        rights: Rights,
        registry: Registry,
        reply_queues: Collection[str],
        binding_claim: str,
    ) -> None:
        """`binding_claim`: what ties a claim to one request, for flows that ask for it."""
        self._authority = authority
        self._rights = rights
        self._registry = registry
        self._reply_queues = frozenset(reply_queues)
        self._binding_claim = binding_claim

    async def prove(self, errand: Continuation) -> Continuation:
        """The errand with its proven sender, and without the claim, which is not needed any more.

        Raises `Refused`, `NotKnownYet`. A sender whom an authority proved before stays proven.
        """
        try:
            self._require_reply_queue(errand)
        except Refused as no:
            _say(errand, errand.principal, no)
            raise
        return errand if errand.principal is not None else await self._proven(errand)

    async def authorise(self, errand: Continuation) -> Flow:
        """The flow that the proven sender may start. Raises `Refused`, `NotKnownYet`.

        A look at a run starts nothing: whoever started it was authorised then.
        """
        if errand.kind == "poll" or errand.principal is None:
            return self._registry.find(errand.flow)
        try:
            flow = self._registry.find(errand.flow)
            await self._rights.require(errand.principal, flow)
            flow.check_input(errand.input)
        except Refused as no:
            _say(errand, errand.principal, no)
            raise
        _say(errand, errand.principal, None)
        return flow

    def _require_reply_queue(self, errand: Continuation) -> None:
        if errand.reply_to is not None and errand.reply_to not in self._reply_queues:
            raise Refused("reply_queue_not_allowed", "Results may not be sent to the queue named in reply-to.")

    async def _proven(self, errand: Continuation) -> Continuation:
        try:
            proven = await self._authority.prove(errand.claim, errand.accepted)
        except Refused as no:
            _say(errand, None, no)
            raise
        try:
            self._require_binding(errand, proven)
            principal = self._rights.speaking_for(proven.principal, errand.on_behalf_of)
        except Refused as no:
            _say(errand, proven.principal, no)
            raise
        return errand.model_copy(update={"principal": principal, "claim": None})

    def _require_binding(self, errand: Continuation, proven: Proven) -> None:
        """Whoever reads a claim can send it again, but not with a request that it is not bound to."""
        if not self._registry.find(errand.flow).bind_claim:
            return
        name = self._binding_claim
        bound_to = proven.claims.get(name)
        # What looks like a digest is one: else a claim bound to an input would open others under that message ID.
        is_digest = isinstance(bound_to, str) and _DIGEST.fullmatch(bound_to) is not None
        if bound_to != (errand.digest if is_digest else errand.replay_of or errand.message_id):
            raise Refused(
                "claim_not_bound",
                f"'{errand.flow}' takes only claims that name the request's message ID or digest in '{name}'; get a "
                "token for this request.",
            )


def _say(errand: Continuation, principal: Principal | None, no: Refused | None) -> None:
    """One decision. Neither token nor input: whoever reads the audit need not be trusted with them."""
    who = {} if principal is None else _named(principal)
    log(
        _audit,
        logging.INFO,
        "access.allowed" if no is None else "access.refused",
        f"'{errand.flow}' may be started." if no is None else f"'{errand.flow}' may not be started: {no.code}.",
        flow=errand.flow,
        code=None if no is None else no.code,
        queue=errand.request_queue,
        message_id=errand.message_id,
        correlation_id=errand.correlation_id,
        **who,
    )


def _named(principal: Principal) -> dict[str, str | None]:
    return {
        "authority": principal.authority,
        "tenant": principal.tenant,
        "caller": principal.oid or None,
        "caller_kind": principal.kind,
        "system_user": principal.system_user,
        "on_behalf_of": principal.on_behalf_of,
    }
