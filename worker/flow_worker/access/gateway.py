"""The `gateway` authority: the claim is a statement that an HTTP gateway signed for exactly this request."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from flow_worker.access import jws
from flow_worker.access.authorities import BoundRequest, Evidence, ProvenSender, TokenClaims
from flow_worker.access.entra import ClaimLimits
from flow_worker.access.statement import MAX_LIFETIME_SECONDS, Statement, StatementKeys, verify
from flow_worker.errors import Refused


class GatewayAuthority:
    """Verifies the statements of one gateway, in the requests of one queue.

    The gateway verified the user's token, and this authority verifies that the gateway did so for this request. It
    judges the times at the broker's enqueue time, as `EntraAuthority` does. Tenants, clients and delegated permissions
    are those of the worker's own settings: a gateway with other settings opens nothing more.
    """

    def __init__(
        self,
        keys: StatementKeys,
        *,
        issuer: str,
        tenants: Collection[str],
        limits: ClaimLimits,
        binding_claim: str,
        skew_seconds: int,
        max_age_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        """`issuer`: the gateway's name."""
        self._keys = keys
        self._issuer = issuer
        self._tenants = frozenset(tenants)
        self._limits = limits
        self._binding_claim = binding_claim
        self._skew = skew_seconds
        self._max_age = timedelta(seconds=max_age_seconds)
        self._now = now

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        """See `Authority.authenticate`. Raises `TemporarilyUnavailable` if the gateway's keys are unavailable."""
        claim, request = evidence.claim, evidence.request
        if claim is None or request is None:
            raise Refused("claim_missing", "The request carries no statement of the gateway; send it to the gateway.")
        if self._now() - evidence.enqueued_at > self._max_age:
            raise Refused("request_too_old", f"The request is older than {self._max_age}; send it again.")
        try:
            statement = await verify(claim.get_secret_value(), self._keys)
        except jws.BadToken as error:
            raise Refused("claim_invalid", f"The gateway's statement {error}.") from None
        self._require_gateway(statement)
        _require_request(statement.request, request)
        self._require_times(statement, evidence.enqueued_at.timestamp())
        self._require_sender(statement)
        return ProvenSender(statement.principal, self._claims(statement), statement.expires_at)

    def _require_gateway(self, statement: Statement) -> None:
        if statement.gateway != self._issuer:
            raise Refused("claim_issuer", "The statement is of another gateway than this worker's.")

    def _require_times(self, statement: Statement, at: float) -> None:
        lifetime = statement.expires_at - statement.issued_at
        if not 0 < lifetime <= MAX_LIFETIME_SECONDS:
            raise Refused("claim_invalid", f"The statement is not valid for 1 to {MAX_LIFETIME_SECONDS} s.")
        if at > statement.expires_at + self._skew:
            raise Refused("claim_expired", "The statement had expired when the request was sent; start the flow again.")
        if at < statement.issued_at - self._skew:
            raise Refused("claim_not_yet_valid", "The statement was not valid yet when the request was sent.")

    def _require_sender(self, statement: Statement) -> None:
        if statement.principal.tenant not in self._tenants:
            raise Refused("claim_issuer", "The statement names a user of another tenant than this worker's.")
        if self._limits.clients and statement.client not in self._limits.clients:
            raise Refused("claim_client", "The user's token was issued to a client application not allowed here.")
        scopes = None if statement.scopes is None else statement.scopes.split(" ")
        if self._limits.scopes and statement.principal.kind == "user" and self._limits.scopes.isdisjoint(scopes or ()):
            raise Refused("claim_scope", "The user's token holds no delegated permission ('scp') accepted here.")

    def _claims(self, statement: Statement) -> TokenClaims:
        return {} if statement.bound_to is None else {self._binding_claim: statement.bound_to}


def _require_request(stated: BoundRequest, request: BoundRequest) -> None:
    """Require that the statement is for this request: with any other one it opens nothing. Raises `Refused`."""
    if stated != request:
        parts = ("queue", "message_id", "flow", "input_sha256", "on_behalf_of")
        differing = [part for part in parts if getattr(stated, part) != getattr(request, part)]
        raise Refused("claim_not_bound", f"The gateway's statement is for another request ({', '.join(differing)}).")
