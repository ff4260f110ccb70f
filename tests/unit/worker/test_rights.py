"""Authorisation: role, privilege, and acting on behalf of another user."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Rights
from flow_worker.access.user import User
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.privilege import Depth
from flow_worker.flows.registry import Flow

TENANT = "11111111-2222-3333-4444-555555555555"
ADA = "aaaaaaaa-0000-0000-0000-000000000001"
PLUG_IN = "bbbbbbbb-0000-0000-0000-000000000002"
OTHER_APP = "cccccccc-0000-0000-0000-000000000003"
ON_BEHALF = "Flow.Invoke.OnBehalf"

USER = Principal(TENANT, ADA, "user", frozenset({"Quotes.Create"}), "entra")
APP = Principal(TENANT, PLUG_IN, "app", frozenset(), "entra")
NATIVE = Principal(TENANT, ADA, "user", frozenset(), "dataverse")

BY_ROLE = Flow("quote", "https://flow.example/", "Quotes.Create", 1.0, idempotent=False)
BY_PRIVILEGE = replace(BY_ROLE, role=None, privilege="prvCreatenew_quote")
BY_BOTH = replace(BY_ROLE, privilege="prvCreatenew_quote")


@dataclass
class Privileges:
    """A source of privileges with fixed answers; it records the queries."""

    held: dict[User, Depth] = field(default_factory=dict)
    error: TemporarilyUnavailable | None = None
    queries: list[tuple[User, str]] = field(default_factory=list)

    async def depth(self, user: User, privilege: str) -> Depth | None:
        self.queries.append((user, privilege))
        if self.error is not None:
            raise self.error
        return self.held.get(user)


def rights(held: dict[User, Depth] | None = None, *, asserters: Asserters = Asserters()) -> Rights:  # noqa: B008 - frozen
    return Rights(asserters, Privileges(held or {}))


async def refusal(of: Rights, principal: Principal, flow: Flow) -> str:
    with pytest.raises(Refused) as refused:
        await of.require(principal, flow)
    return refused.value.code


# --- role and privilege ------------------------------------------------------------------------------------------


async def test_a_flow_with_a_role_requires_exactly_this_role() -> None:
    await rights().require(USER, BY_ROLE)
    assert await refusal(rights(), replace(USER, roles=frozenset({"quotes.create"})), BY_ROLE) == "role_missing"


async def test_a_flow_with_a_privilege_requires_this_privilege() -> None:
    await rights({User(ADA): Depth.BASIC}).require(USER, BY_PRIVILEGE)
    assert await refusal(rights(), USER, BY_PRIVILEGE) == "privilege_missing"


async def test_a_flow_with_role_and_privilege_requires_both() -> None:
    held = {User(ADA): Depth.GLOBAL}
    await rights(held).require(USER, BY_BOTH)
    assert await refusal(rights(), USER, BY_BOTH) == "privilege_missing"
    assert await refusal(rights(held), replace(USER, roles=frozenset()), BY_BOTH) == "role_missing"


async def test_dataverse_is_not_queried_for_a_sender_without_the_role() -> None:
    privileges = Privileges()
    assert await refusal(Rights(Asserters(), privileges), replace(USER, roles=frozenset()), BY_BOTH) == "role_missing"
    assert privileges.queries == []


@pytest.mark.parametrize("needed", list(Depth))
@pytest.mark.parametrize("held", list(Depth))
async def test_a_privilege_must_reach_at_least_as_far_as_the_flow_requires(needed: Depth, held: Depth) -> None:
    flow = replace(BY_PRIVILEGE, privilege_depth=needed)
    if held >= needed:
        await rights({User(ADA): held}).require(USER, flow)
    else:
        assert await refusal(rights({User(ADA): held}), USER, flow) == "privilege_missing"


async def test_an_unavailable_dataverse_is_neither_a_yes_nor_a_no() -> None:
    of = Rights(Asserters(), Privileges(error=TemporarilyUnavailable("dataverse_unavailable", "away")))
    with pytest.raises(TemporarilyUnavailable):
        await of.require(USER, BY_PRIVILEGE)


async def test_without_a_dataverse_in_the_settings_every_privilege_is_missing() -> None:
    assert await refusal(Rights(Asserters(), None), USER, BY_PRIVILEGE) == "privilege_missing"


async def test_a_native_sender_has_no_roles_and_is_queried_by_object_id_or_by_row() -> None:
    assert await refusal(rights(), NATIVE, BY_ROLE) == "role_missing"
    await rights({User(ADA): Depth.BASIC}).require(NATIVE, BY_PRIVILEGE)
    row = replace(NATIVE, oid="", system_user="row")
    await rights({User(None, "row"): Depth.BASIC}).require(row, BY_PRIVILEGE)
    assert await refusal(rights({User(ADA): Depth.BASIC}), row, BY_PRIVILEGE) == "privilege_missing"


# --- on behalf of ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principal", "asserters"),
    [
        (APP, Asserters({PLUG_IN})),
        (replace(APP, roles=frozenset({ON_BEHALF})), Asserters(role=ON_BEHALF)),
    ],
    ids=["by its object ID", "by its role"],
)
async def test_the_privilege_of_the_user_that_an_asserter_names_decides(
    principal: Principal, asserters: Asserters
) -> None:
    of = rights({User(ADA): Depth.BASIC}, asserters=asserters)
    acting = of.acting_for(principal, ADA.upper())
    assert (acting.oid, acting.on_behalf_of) == (PLUG_IN, ADA)
    await of.require(acting, BY_PRIVILEGE)
    assert await refusal(of, principal, BY_PRIVILEGE) == "privilege_missing", "the asserter itself does not hold it"


@pytest.mark.parametrize(
    "principal",
    [
        USER,
        replace(USER, oid=PLUG_IN),
        replace(USER, roles=frozenset({ON_BEHALF})),
        replace(APP, oid=OTHER_APP),
        replace(APP, oid=OTHER_APP, roles=frozenset({ON_BEHALF.lower()})),
        replace(NATIVE, oid=PLUG_IN),
        replace(NATIVE, oid=PLUG_IN, kind="app", roles=frozenset({ON_BEHALF})),
    ],
    ids=["user", "user with its ID", "user with its role", "another app", "another role", "native", "native app"],
)
def test_a_sender_that_is_not_an_asserter_may_not_name_a_user(principal: Principal) -> None:
    of = rights(asserters=Asserters({PLUG_IN}, ON_BEHALF))
    assert of.acting_for(principal, None) is principal
    with pytest.raises(Refused) as refused:
        of.acting_for(principal, ADA)
    assert refused.value.code == "on_behalf_of_not_allowed"


@pytest.mark.parametrize(
    "user",
    [
        "",
        "ada",
        "ada@contoso.com",
        "00000000-0000-0000-0000-000000000000",
        f"{{{ADA}}}",
        f"urn:uuid:{ADA}",
        ADA.replace("-", ""),
        f"{ADA}'",
        f"{ADA}) or true",
        "' or 1 eq 1",
        " 1111111-2222-3333-4444-555555555555",
        "+1111111-2222-3333-4444-555555555555",
        "1_111111-2222-3333-4444-555555555555",
        "\uff11\uff11111111-2222-3333-4444-555555555555",
    ],
)
def test_a_user_is_named_only_by_a_canonical_object_id(user: str) -> None:
    with pytest.raises(Refused) as refused:
        rights(asserters=Asserters({PLUG_IN})).acting_for(APP, user)
    assert refused.value.code == "on_behalf_of_invalid"


async def test_a_user_may_not_be_named_for_a_flow_without_a_privilege() -> None:
    of = rights(asserters=Asserters({PLUG_IN}))
    acting = of.acting_for(replace(APP, roles=frozenset({"Quotes.Create"})), ADA)
    assert await refusal(of, acting, BY_ROLE) == "on_behalf_of_not_allowed"
