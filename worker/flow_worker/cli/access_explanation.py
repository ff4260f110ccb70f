"""Why somebody may start a flow, or may not: each step taken by the part that takes it in the running worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import SecretStr

from flow_worker import clock
from flow_worker.access import jws
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.build import Access, build_access, build_identity
from flow_worker.access.principal import Principal
from flow_worker.access.rights import user_of
from flow_worker.cli.dead_letter_render import when
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.registry import Flow
from flow_worker.settings import Settings

_UNPROVEN = ("iss", "ver", "aud", "tid", "nbf", "exp")  # helps to find what is wrong with a token, and opens nothing
_MAX_ROLES = 20
_MAX_CHARACTERS = 200


class Outcome(StrEnum):
    """How a step, or the whole, comes out."""

    YES = "allowed"
    NO = "refused"
    OPEN = "not known"


@dataclass(frozen=True, slots=True)
class Step:
    """What is asked, how it comes out, and why; with the code a sender would be told."""

    question: str
    outcome: Outcome
    because: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """May who holds `token`, or else the user with the object ID `user`, start `flow`?"""

    flow: str
    token: SecretStr | None = None
    user: str | None = None
    on_behalf_of: str | None = None


@dataclass(slots=True)
class Decision:
    """The steps as far as they were taken: the first refusal ends them, as it would end a request."""

    flow: str
    steps: list[Step] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """A refusal beats what is not known, and that beats what is allowed."""
        found = {step.outcome for step in self.steps}
        return next(one for one in (Outcome.NO, Outcome.OPEN, Outcome.YES) if one in found)

    @property
    def deciding(self) -> Step:
        """The first step that came out as the whole does."""
        return next(step for step in self.steps if step.outcome is self.outcome)


async def decide(settings: Settings, asked: Asked) -> Decision:
    """Take the steps. The issuer's keys are fetched and Dataverse is asked; no flow is called, nothing is written."""
    async with build_identity(settings) as identity, build_access(settings, identity) as access:
        way = _Way(settings, access, asked)
        try:
            await way.go()
        except Refused as refusal:
            way.came_out(Outcome.NO, refusal.message, refusal.code)
        except TemporarilyUnavailable as trouble:
            way.came_out(Outcome.OPEN, f"{trouble.message}; a request would wait and be tried again.", trouble.code)
        return Decision(asked.flow, way.steps)


class _Way:
    """A request's way through the gate. `Refused` and `TemporarilyUnavailable` end it at the question being asked."""

    def __init__(self, settings: Settings, access: Access, asked: Asked) -> None:
        self.steps: list[Step] = []
        self._settings = settings
        self._access = access
        self._asked = asked
        self._question = ""
        self._aside = ""

    def came_out(self, outcome: Outcome, because: str, code: str | None = None) -> None:
        """How the question came out that is being asked."""
        self.steps.append(Step(self._question, outcome, f"{because} {self._aside}".strip(), code))

    def _ask(self, question: str, aside: str = "") -> None:
        """`aside`: what to add to the answer, however it comes out."""
        self._question, self._aside = question, aside

    async def go(self) -> None:
        """Through all steps, in the order in which the worker takes them."""
        proven = await self._proven()
        flow = self._registered()
        if flow.bind_claim:
            self._binding(proven)
        principal = self._on_behalf_of(proven.principal if proven is not None else self._user())
        self._role(principal, flow)
        await self._privilege(principal, flow)

    async def _proven(self) -> ProvenSender | None:
        """None if no claim was given."""
        token = self._asked.token
        if token is None:
            self._ask("Who is the sender?")
            self.came_out(Outcome.YES, f"No claim was given; the user {self._asked.user} is taken to be the sender.")
            return None
        self._ask("Does the claim hold?", _unproven(token))
        proven = await self._access.entra.authenticate(Evidence(token, clock.now()))
        self._ask(self._question)
        self.came_out(Outcome.YES, _about(proven))
        return proven

    def _user(self) -> Principal:
        return Principal(tenant="", oid=self._asked.user or "", kind="user", roles=frozenset(), authority="entra")

    def _registered(self) -> Flow:
        self._ask("Is the flow registered?", f"Registered: {', '.join(self._settings.flows)}.")
        flow = self._access.registry.find(self._asked.flow)
        self._ask(self._question)
        self.came_out(Outcome.YES, f"It takes {_demands(flow)}.")
        return flow

    def _binding(self, proven: ProvenSender | None) -> None:
        self._ask("Is the claim bound to a request?")
        if proven is None:
            self.came_out(Outcome.OPEN, "The flow takes only claims that are; ask again with --token.")
            return
        name = self._settings.claims.binding_claim
        bound_to = proven.claims.get(name)
        if not isinstance(bound_to, str):
            raise Refused("claim_not_bound", f"The flow has 'bind_claim', and the claim has no '{name}'.")
        self.came_out(Outcome.YES, f"It is good only for the request that has the message ID or digest '{bound_to}'.")

    def _on_behalf_of(self, principal: Principal) -> Principal:
        if self._asked.on_behalf_of is None:
            return principal
        self._ask("May the sender name another user?")
        speaking = self._access.rights.acting_for(principal, self._asked.on_behalf_of)
        self.came_out(Outcome.YES, f"It is an asserter, and names {speaking.on_behalf_of}.")
        return speaking

    def _role(self, principal: Principal, flow: Flow) -> None:
        if flow.role is None:
            return
        self._ask("Does the sender hold the role?")
        if self._asked.token is None:
            because = f"Only a token tells whether it holds the app role '{flow.role}'; ask again with --token."
            self.came_out(Outcome.OPEN, because)
        else:
            self._access.rights.require_role(principal, flow)
            self.came_out(Outcome.YES, f"The claim holds '{flow.role}'.")

    async def _privilege(self, principal: Principal, flow: Flow) -> None:
        if flow.privilege is None and principal.on_behalf_of is None:
            return
        self._ask("Does the user hold the privilege?")
        if flow.privilege is not None and self._access.privileges is not None:
            depth = await self._access.privileges.depth(user_of(principal), flow.privilege)
            holds = "does not hold it at all" if depth is None else f"holds it at depth {depth.name.lower()}"
            self._ask(self._question, f"Dataverse says that {user_of(principal).oid} {holds}.")
        await self._access.rights.require_privilege(principal, flow)
        self.came_out(Outcome.YES, f"'{flow.privilege}':")


def _demands(flow: Flow) -> str:
    role = f"the app role '{flow.role}'" if flow.role else None
    depth = flow.privilege_depth.name.lower()
    privilege = f"the privilege '{flow.privilege}' at least at depth {depth}" if flow.privilege else None
    return " and ".join(part for part in (role, privilege) if part)


def _about(proven: ProvenSender) -> str:
    who, roles = proven.principal, sorted(proven.principal.roles)
    more = f" and {len(roles) - _MAX_ROLES} more" if len(roles) > _MAX_ROLES else ""
    held = f"the app roles {', '.join(roles[:_MAX_ROLES])}{more}" if roles else "no app role"
    until = when(datetime.fromtimestamp(proven.expires, UTC))
    return f"It is about the {who.kind} {who.oid} of tenant {who.tenant}, with {held}; it expires at {until} UTC."


def _unproven(token: SecretStr) -> str:
    """What the token says of itself, whoever wrote it."""
    try:
        claims = jws.members(jws.read(token.get_secret_value()).payload)
    except jws.BadToken:
        return ""
    said = ", ".join(f"{name}={str(claims[name])[:_MAX_CHARACTERS]}" for name in _UNPROVEN if name in claims)
    return f"It says (unproven): {said}." if said else ""
