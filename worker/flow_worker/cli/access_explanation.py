"""Explains why a sender may or may not start a flow: the worker's own checks, in the worker's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import SecretStr

from flow_worker import clock
from flow_worker.access import jws
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.build import Access, build_access, build_identity
from flow_worker.access.principal import Principal
from flow_worker.access.rights import user_of
from flow_worker.access.statement_key_files import STATEMENT_KEYS_UNAVAILABLE, find_public_keys
from flow_worker.cli.terminal import utc
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.registry import Flow
from flow_worker.settings import InvalidSettings, RequestQueue, Settings

_SHOWN_TOKEN_CLAIMS = ("iss", "ver", "aud", "tid", "azp", "appid", "scp", "iat", "nbf", "exp")
"""The token claims that an explanation quotes although they are unproven: they locate the fault and are no secret."""
_MAX_ROLES = 20
_MAX_CHARACTERS = 200

_SETTINGS_OF_CODES = {
    "claim_audience": "audiences",
    "claim_client": "clients",
    "claim_issuer": "tenants",
    "claim_scope": "scopes",
}
"""By result code, the setting in `claims` that lists the allowed values."""
_CHOSEN = " It is the first with an organization, or else the first; --queue names another."

StepOutcome = Literal["allowed", "refused", "not known"]
_BY_PRECEDENCE: tuple[StepOutcome, ...] = ("refused", "not known", "allowed")


@dataclass(frozen=True, slots=True)
class AccessStep:
    """One check: the question, its outcome, and the reason with its code, as in the audit log."""

    question: str
    outcome: StepOutcome
    because: str
    code: str | None = None
    sender_code: str | None = None
    """The result code that a sender would get: it can hide the reason."""


@dataclass(frozen=True, slots=True)
class AccessQuestion:
    """May the bearer of `token`, or without a token the user with this object ID, start `flow`?"""

    flow: str
    token: SecretStr | None = None
    user: str | None = None
    on_behalf_of: str | None = None
    queue: str | None = None
    """The request queue, whose Dataverse decides; None: the first one with a Dataverse, else the first one."""


class UnknownQueue(ValueError):
    """The question is about a queue that is not one of the request queues, which the text lists."""


@dataclass(slots=True)
class AccessExplanation:
    """The checks up to the first refusal, which ends them as it would end a request."""

    flow: str
    queue: str
    """The request queue that the checks are about."""
    steps: list[AccessStep] = field(default_factory=list)

    @property
    def outcome(self) -> StepOutcome:
        """The outcome of all checks: a refusal takes precedence over an open check, that over an allowed one."""
        outcomes = {step.outcome for step in self.steps}
        return next(outcome for outcome in _BY_PRECEDENCE if outcome in outcomes)

    @property
    def deciding_step(self) -> AccessStep:
        """The first check with the outcome of all."""
        return next(step for step in self.steps if step.outcome == self.outcome)


async def explain(settings: Settings, question: AccessQuestion) -> AccessExplanation:
    """Run the checks. They fetch the issuer's keys and query Dataverse; they call no flow and write nothing."""
    async with build_identity(settings) as identity, build_access(settings, identity) as access:
        checks = _Checks(settings, access, question)
        try:
            await checks.run()
        except Refused as refusal:
            shown = refusal if settings.explain_refusals else refusal.for_sender()
            checks.record("refused", refusal.message, refusal.code, shown.code)
        except TemporarilyUnavailable as error:
            checks.record("not known", f"The worker would retry a request later: {error.message}.", error.code)
        return AccessExplanation(question.flow, checks.queue, checks.steps)


class _Checks:
    """The checks of a request. `Refused` and `TemporarilyUnavailable` end them; both answer the current question."""

    def __init__(self, settings: Settings, access: Access, question: AccessQuestion) -> None:
        self.steps: list[AccessStep] = []
        self._settings = settings
        self._access = access
        self._request = question
        self._queue = _queue_of(settings, question)
        self._question = ""
        self._remark = ""

    @property
    def queue(self) -> str:
        """The name of the request queue that the checks are about."""
        return self._queue.name

    def record(
        self, outcome: StepOutcome, because: str, code: str | None = None, sender_code: str | None = None
    ) -> None:
        """Record the outcome of the current question."""
        self.steps.append(AccessStep(self._question, outcome, f"{because} {self._remark}".strip(), code, sender_code))

    def _ask(self, question: str, remark: str = "") -> None:
        """Begin a check. `remark` is appended to its reason, whatever the outcome."""
        self._question, self._remark = question, remark

    async def run(self) -> None:
        """Run all checks, in the worker's order."""
        self._name_queue()
        self._check_statement_keys()
        proven = await self._authenticate()
        principal = self._check_on_behalf_of(proven.principal if proven is not None else self._user())
        flow = self._find_flow()
        self._check_role(principal, flow)
        await self._check_privilege(principal, flow)
        if flow.bind_claim:
            self._check_binding(proven)

    def _name_queue(self) -> None:
        self._ask("Which request queue does the check assume?")
        url = self._settings.dataverse_url(self._queue)
        dataverse = f"its privileges come from {url}" if url else "it has no Dataverse organization for privileges"
        chosen = "" if self._request.queue is not None or len(self._settings.request_queues) == 1 else _CHOSEN
        self.record("allowed", f"'{self.queue}', authority '{self._queue.authority}'; {dataverse}.{chosen}")

    def _check_statement_keys(self) -> None:
        """Check what stands between the gateway and the worker: the gateway signs for a claim that it accepts."""
        if self._queue.authority != "gateway":
            return
        self._ask("Can the worker verify the gateway's statements?")
        try:
            keys = find_public_keys(self._settings.statements)
        except InvalidSettings as error:
            self.record("not known", f"The worker would retry a request later: {error}.", STATEMENT_KEYS_UNAVAILABLE)
            return
        self.record("allowed", f"It has the keys {', '.join(keys)}. The gateway checks the claim as follows.")

    async def _authenticate(self) -> ProvenSender | None:
        """Return the proven sender; None if the question has no claim."""
        token = self._request.token
        if token is None:
            self._ask("Who is the sender?")
            self.record("allowed", f"There is no claim; the check assumes that the sender is {self._request.user}.")
            return None
        self._ask("Is the claim valid?", _shown(token, "unproven"))
        try:
            proven = await self._access.entra.authenticate(Evidence(token, clock.now()))
        except Refused as refusal:
            state = "signed by the issuer" if await self._access.entra.is_signed(token) else "unproven"
            self._ask(self._question, " ".join([*_allowed(self._settings, refusal.code), _shown(token, state)]))
            raise
        self._ask(self._question)  # the token claims are proven now, so the remark about them goes
        self.record("allowed", _describe(proven))
        return proven

    def _user(self) -> Principal:
        return Principal(tenant="", oid=self._request.user or "", kind="user", roles=frozenset(), authority="entra")

    def _find_flow(self) -> Flow:
        self._ask("Is the flow registered?", f"Registered flows: {', '.join(self._settings.flows)}.")
        flow = self._access.registry.find(self._request.flow)
        self._ask(self._question)
        self.record("allowed", f"It requires {_requirements(flow)}.")
        return flow

    def _check_binding(self, proven: ProvenSender | None) -> None:
        self._ask("Is the claim bound to a request?")
        if proven is None:
            self.record("not known", "The flow accepts bound claims only. Repeat the command with --token.")
            return
        name = self._settings.claims.binding_claim
        bound_to = proven.claims.get(name)
        if not isinstance(bound_to, str):
            raise Refused("claim_not_bound", f"The flow has 'bind_claim', and the claim has no '{name}'.")
        self.record("allowed", f"It is valid only for the request with the message ID or digest '{bound_to}'.")

    def _check_on_behalf_of(self, principal: Principal) -> Principal:
        if self._request.on_behalf_of is None:
            return principal
        self._ask("May the sender name another user?")
        acting = self._access.rights.acting_for(principal, self._request.on_behalf_of)
        self.record("allowed", f"It is an asserter, and names {acting.on_behalf_of}.")
        return acting

    def _check_role(self, principal: Principal, flow: Flow) -> None:
        if flow.role is None:
            return
        self._ask("Does the sender hold the role?")
        if self._request.token is None:
            because = f"The flow requires the app role '{flow.role}', which only a token proves. Repeat with --token."
            self.record("not known", because)
        else:
            self._access.rights.of(self._queue.name).require_role(principal, flow)
            self.record("allowed", f"The claim contains '{flow.role}'.")

    async def _check_privilege(self, principal: Principal, flow: Flow) -> None:
        if flow.privilege is None and principal.on_behalf_of is None:
            return
        self._ask("Does the user hold the privilege?")
        dataverse = self._access.privileges(self._queue, self._settings)
        if flow.privilege is not None and dataverse is not None:
            depth = await dataverse.depth(user_of(principal), flow.privilege)
            holds = "does not hold it at all" if depth is None else f"holds it at depth {depth.name.lower()}"
            self._ask(self._question, f"Dataverse says that {user_of(principal).oid} {holds}.")
        await self._access.rights.of(self._queue.name).require_privilege(principal, flow)
        self.record("allowed", f"'{flow.privilege}':")


def _queue_of(settings: Settings, question: AccessQuestion) -> RequestQueue:
    """Return the request queue that the question is about. Raises `UnknownQueue`."""
    queues = settings.request_queues
    if question.queue is None:
        return next((queue for queue in queues if settings.dataverse_url(queue)), queues[0])
    for queue in queues:
        if queue.name.lower() == question.queue.lower():
            return queue
    raise UnknownQueue(", ".join(queue.name for queue in queues))


def _requirements(flow: Flow) -> str:
    role = f"the app role '{flow.role}'" if flow.role else None
    depth = flow.privilege_depth.name.lower()
    privilege = f"the privilege '{flow.privilege}' at depth {depth} or farther" if flow.privilege else None
    return " and ".join(part for part in (role, privilege) if part)


def _describe(proven: ProvenSender) -> str:
    principal, roles = proven.principal, sorted(proven.principal.roles)
    more = f" and {len(roles) - _MAX_ROLES} more" if len(roles) > _MAX_ROLES else ""
    role_list = f"the app roles {', '.join(roles[:_MAX_ROLES])}{more}" if roles else "no app role"
    until = utc(datetime.fromtimestamp(proven.expires, UTC))
    return (
        f"It proves the {principal.kind} {principal.oid} of tenant {principal.tenant}, with {role_list}. "
        f"It expires at {until} UTC."
    )


def _allowed(settings: Settings, code: str) -> list[str]:
    """Return the setting that refused the claim, with its values, as a sentence; an empty list for other reasons."""
    name = _SETTINGS_OF_CODES.get(code)
    if name is None:
        return []
    values: tuple[str, ...] = getattr(settings.claims, name)
    return [f"claims.{name} allows: {', '.join(values)}."]


def _shown(token: SecretStr, state: str) -> str:
    """Return the token's own claims as a remark; an empty string for an unreadable token."""
    try:
        claims = jws.members(jws.read(token.get_secret_value()).payload)
    except jws.BadToken:
        return ""
    shown = ", ".join(f"{name}={str(claims[name])[:_MAX_CHARACTERS]}" for name in _SHOWN_TOKEN_CLAIMS if name in claims)
    return f"The token claims ({state}): {shown}." if shown else ""
