"""Who may start which flow, and who may do so for another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from flow_worker.access.principal import Principal
from flow_worker.access.privilege import Depth
from flow_worker.access.rights import Asserters, Rights
from flow_worker.access.user import User
from flow_worker.errors import Refused, TemporarilyUnavailable
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
    """A Dataverse that knows what it is told, and remembers what it was asked."""

    held: dict[User, Depth] = field(default_factory=dict)
    trouble: TemporarilyUnavailable | None = None
    asked: list[tuple[User, str]] = field(default_factory=list)

    async def depth(self, user: User, privilege: str) -> Depth | None:
        self.asked.append((user, privilege))
        if self.trouble is not None:
            raise self.trouble
        return self.held.get(user)


def rights(held: dict[User, Depth] | None = None, *, asserters: Asserters = Asserters()) -> Rights:  # noqa: B008 - frozen
    return Rights(asserters, Privileges(held or {}))


async def refusal(of: Rights, principal: Principal, flow: Flow) -> str:
    with pytest.raises(Refused) as no:
        await of.require(principal, flow)
    return no.value.code


# --- role and privilege ------------------------------------------------------------------------------------------


async def test_a_flow_by_role_takes_the_role_of_the_token() -> None:
    await rights().require(USER, BY_ROLE)
    assert await refusal(rights(), replace(USER, roles=frozenset({"quotes.create"})), BY_ROLE) == "role_missing"


async def test_a_flow_by_privilege_takes_what_dataverse_says() -> None:
    await rights({User(ADA): Depth.BASIC}).require(USER, BY_PRIVILEGE)
    assert await refusal(rights(), USER, BY_PRIVILEGE) == "privilege_missing"


async def test_a_flow_by_both_takes_both() -> None:
    held = {User(ADA): Depth.GLOBAL}
    await rights(held).require(USER, BY_BOTH)
    assert await refusal(rights(), USER, BY_BOTH) == "privilege_missing"
    assert await refusal(rights(held), replace(USER, roles=frozenset()), BY_BOTH) == "role_missing"


async def test_dataverse_is_not_asked_for_one_who_lacks_the_role() -> None:
    privileges = Privileges()
    assert await refusal(Rights(Asserters(), privileges), replace(USER, roles=frozenset()), BY_BOTH) == "role_missing"
    assert privileges.asked == []


@pytest.mark.parametrize("needed", list(Depth))
@pytest.mark.parametrize("held", list(Depth))
async def test_a_privilege_reaches_at_least_as_far_as_the_flow_asks(needed: Depth, held: Depth) -> None:
    flow = replace(BY_PRIVILEGE, privilege_depth=needed)
    if held >= needed:
        await rights({User(ADA): held}).require(USER, flow)
    else:
        assert await refusal(rights({User(ADA): held}), USER, flow) == "privilege_missing"


async def test_what_dataverse_cannot_say_just_now_is_neither_yes_nor_no() -> None:
    of = Rights(Asserters(), Privileges(trouble=TemporarilyUnavailable("dataverse_unavailable", "away")))
    with pytest.raises(TemporarilyUnavailable):
        await of.require(USER, BY_PRIVILEGE)


async def test_without_a_dataverse_nobody_holds_a_privilege() -> None:
    assert await refusal(Rights(Asserters(), None), USER, BY_PRIVILEGE) == "privilege_missing"


async def test_a_native_sender_has_no_roles_and_is_asked_for_by_its_row_if_need_be() -> None:
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
async def test_an_asserter_names_a_user_whose_privilege_counts(principal: Principal, asserters: Asserters) -> None:
    of = rights({User(ADA): Depth.BASIC}, asserters=asserters)
    speaking = of.speaking_for(principal, ADA.upper())
    assert (speaking.oid, speaking.on_behalf_of) == (PLUG_IN, ADA)
    await of.require(speaking, BY_PRIVILEGE)
    assert await refusal(of, principal, BY_PRIVILEGE) == "privilege_missing", "its own is another question"


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
def test_nobody_else_may_name_a_user(principal: Principal) -> None:
    of = rights(asserters=Asserters({PLUG_IN}, ON_BEHALF))
    assert of.speaking_for(principal, None) is principal
    with pytest.raises(Refused) as no:
        of.speaking_for(principal, ADA)
    assert no.value.code == "on_behalf_of_not_allowed"


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
def test_a_user_is_named_by_a_whole_object_id_only(user: str) -> None:
    with pytest.raises(Refused) as no:
        rights(asserters=Asserters({PLUG_IN})).speaking_for(APP, user)
    assert no.value.code == "on_behalf_of_invalid"


async def test_naming_a_user_for_a_flow_without_a_privilege_proves_nothing() -> None:
    of = rights(asserters=Asserters({PLUG_IN}))
    speaking = of.speaking_for(replace(APP, roles=frozenset({"Quotes.Create"})), ADA)
    assert await refusal(of, speaking, BY_ROLE) == "on_behalf_of_not_allowed"
