"""Dataverse's Web API on the emulator: privilege queries, refusals and faults."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from servicebus_emulator.cloud.dataverse.directory import Directory, object_id, system_user_id
from servicebus_emulator.cloud.entra.definitions import FLOW_AUDIENCE, MANAGED_IDENTITY_OBJECT_ID
from servicebus_emulator.cloud.entra.issuer import TokenRequest, object_id_of
from servicebus_emulator.cloud.web import Web

CREATE = "prvCreatenew_quote"
STRANGER = "11111111-2222-4333-8444-555555555555"
BY_OID = "RetrieveAadUserSetOfPrivilegesByNames"
BY_ROW = "Microsoft.Dynamics.CRM.RetrieveUserPrivilegeByPrivilegeName"

Json = Any  # the type of httpx.Response.json()


class Api:
    """The Web API as an application user of the organization calls it."""

    def __init__(self, web: Web, client: httpx.AsyncClient) -> None:
        self._web = web
        self._client = client
        self.bearer = web.tokens.for_managed_identity(web.dataverse_url, 600)

    async def get(self, rest: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {self.bearer}"}
        return await self._client.get(
            f"{self._web.dataverse_url}/api/data/v9.2/{rest}", headers=bearer if headers is None else headers
        )

    async def by_oid(self, user: str, *privileges: str) -> httpx.Response:
        names = quote("[" + ",".join(f'"{name}"' for name in privileges or (CREATE,)) + "]")
        return await self.get(f"{BY_OID}(DirectoryObjectId=@id,PrivilegeNames=@p)?@id={object_id_of(user)}&@p={names}")

    async def by_row(self, row: object, parameters: str = f"PrivilegeName='{CREATE}'") -> httpx.Response:
        return await self.get(f"systemusers({row})/{BY_ROW}({parameters})")

    async def put(self, **patch: object) -> httpx.Response:
        return await self._client.put(f"{self._web.url}/emulator/dataverse", json=patch)

    async def calls(self) -> list[dict[str, Json]]:
        calls: list[dict[str, Json]] = (await self._client.get(f"{self._web.url}/emulator/dataverse/calls")).json()[
            "calls"
        ]
        return calls


@pytest.fixture
def api(web: Web, client: httpx.AsyncClient) -> Api:
    return Api(web, client)


def row_of(web: Web, name: str) -> str:
    organization: Directory = web.dataverse.directory
    return str(next(system_user_id(user) for user in organization.definition.users if user.name == name))


def depths(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {row["PrivilegeName"]: row["Depth"] for row in answer.json()["RolePrivileges"]}


async def test_a_query_by_object_id_returns_the_privileges_with_their_depth(web: Web, api: Api) -> None:
    answer = await api.by_oid("ada", CREATE, "prvReadnew_quote", "prvDeletenew_quote")
    assert depths(answer) == {CREATE: "Local", "prvReadnew_quote": "Deep"}
    assert answer.json()["@odata.context"].startswith(f"{web.dataverse_url}/api/data/v9.2/$metadata#")
    assert set(answer.json()["RolePrivileges"][0]) == {"Depth", "PrivilegeId", "BusinessUnitId", "PrivilegeName"}
    assert answer.headers["Content-Type"].startswith("application/json; odata.metadata=minimal")


async def test_team_members_hold_the_privileges_of_the_teams_roles(web: Web, api: Api) -> None:
    assert depths(await api.by_oid("grace")) == {CREATE: "Basic"}
    assert depths(await api.by_row(row_of(web, "grace"))) == {CREATE: "Basic"}
    excluded = await api.by_row(row_of(web, "grace"), f"PrivilegeName='{CREATE}',ExcludeTeamBasic=true")
    assert depths(excluded) == {}


async def test_a_user_without_the_privilege_gets_an_empty_list(web: Web, api: Api) -> None:
    assert depths(await api.by_oid("bob")) == {}
    assert depths(await api.by_row(row_of(web, "bob"))) == {}


@pytest.mark.parametrize(
    "query",
    [
        f"(DirectoryObjectId={{oid}},PrivilegeNames=['{CREATE}'])",
        f'(DirectoryObjectId={{oid}},PrivilegeNames=["{CREATE}"])',
        f"(DirectoryObjectId={{oid}},PrivilegeNames=%5B%22{CREATE}%22%5D)",
        f"(PrivilegeNames=@p,DirectoryObjectId=@id)?@p=['{CREATE}']&@id={{oid}}",
        f"(DirectoryObjectId=@id,%20PrivilegeNames=@p)?%40id={{oid}}&%40p=%5B%27{CREATE}%27%5D",
    ],
)
async def test_every_form_that_odata_allows_is_the_same_query(api: Api, query: str) -> None:
    answer = await api.get(BY_OID + query.format(oid=object_id_of("ada")))
    assert depths(answer) == {CREATE: "Local"}


@pytest.mark.parametrize(
    "query",
    [
        f"{BY_OID}(DirectoryObjectId=@id,PrivilegeNames=@p)?@id={STRANGER}",
        f"{BY_OID}(DirectoryObjectId='{STRANGER}',PrivilegeNames=['{CREATE}'])",
        f"{BY_OID}(DirectoryObjectId={STRANGER},PrivilegeNames='{CREATE}')",
        f"{BY_OID}(DirectoryObjectId={STRANGER},PrivilegeNames=[1])",
        f"{BY_OID}(DirectoryObjectId={STRANGER},PrivilegeNames=['{CREATE}'],Other=1)",
        f"{BY_OID}(DirectoryObjectId={STRANGER},DirectoryObjectId={STRANGER},PrivilegeNames=['{CREATE}'])",
        f"{BY_OID}(DirectoryObjectId={STRANGER},PrivilegeNames=['{CREATE})",
        f"systemusers({STRANGER})/{BY_ROW}(PrivilegeName='it's')",
        f"systemusers({STRANGER})/{BY_ROW}(PrivilegeName={CREATE})",
        f"systemusers(ada)/{BY_ROW}(PrivilegeName='{CREATE}')",
        f"systemusers({STRANGER})/{BY_ROW}(PrivilegeName='{CREATE}',ExcludeTeamBasic=maybe)",
        f"systemusers({STRANGER})/{BY_ROW}(PrivilegeName='%FF')",
    ],
)
async def test_a_malformed_query_is_answered_with_400(api: Api, query: str) -> None:
    answer = await api.get(query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "0x0"
    assert answer.json()["error"]["message"]


async def test_doubled_quotes_keep_a_hostile_name_inside_its_literal(web: Web, api: Api) -> None:
    hostile = quote("x'',ExcludeTeamBasic=true)/$value?@p=''", safe="")
    assert depths(await api.by_row(row_of(web, "ada"), f"PrivilegeName='{hostile}'")) == {}
    assert (await api.calls())[-1]["privileges"] == ["x',ExcludeTeamBasic=true)/$value?@p='"]


async def test_an_unknown_row_is_404_and_an_unknown_object_id_is_as_configured(api: Api) -> None:
    answer = await api.by_row(STRANGER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "0x80040217")
    assert depths(await api.by_oid(STRANGER)) == {}
    await api.put(unknown_object_id="not_found")
    answer = await api.by_oid(STRANGER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "0x80040217")


async def test_a_query_by_the_key_that_can_create_a_user_is_refused_and_recorded(api: Api) -> None:
    answer = await api.get(f"systemusers(azureactivedirectoryobjectid={STRANGER})?$select=systemuserid")
    assert answer.status_code == 400
    await api.by_oid("ada")
    assert [call["forbidden"] for call in await api.calls()] == [True, False]


async def test_other_parts_of_the_web_api_are_not_emulated(api: Api) -> None:
    answer = await api.get("accounts?$top=1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "0x80060888")


async def test_only_a_token_for_the_organization_is_admitted(web: Web, api: Api) -> None:
    users = web.tokens.mint(TokenRequest(user="ada", audience=web.dataverse_url, forged=True))
    of_flows = web.tokens.for_managed_identity(FLOW_AUDIENCE, 600)
    for headers in (
        {},
        {"Authorization": "Basic eA=="},
        *({"Authorization": f"Bearer {t}"} for t in (users, of_flows)),
    ):
        answer = await api.get("accounts", headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert [call["caller"] for call in await api.calls()] == [None] * 4


async def test_a_caller_that_is_no_application_user_gets_403(web: Web, api: Api) -> None:
    await api.put(application_users=[])
    answer = await api.by_oid("ada")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "0x80072560")
    await api.put(application_users=[str(MANAGED_IDENTITY_OBJECT_ID)])
    assert depths(await api.by_oid("ada")) == {CREATE: "Local"}


async def test_users_roles_and_teams_can_change_at_run_time(web: Web, api: Api) -> None:
    row = "3d4a8c5e-1f2b-4711-810a-e0071b6a82d1"
    changed = await api.put(
        roles=[{"name": "Some", "privileges": {CREATE: "Basic"}}, {"name": "All", "privileges": {CREATE: "Global"}}],
        teams=[{"name": "Everyone", "roles": ["All"]}],
        users=[
            {"name": "mary", "roles": ["Some"], "teams": ["Everyone"], "system_user_id": row},
            {"name": "jean", "roles": ["All"], "is_disabled": True},
        ],
    )
    assert changed.status_code == 200, changed.text
    assert depths(await api.by_oid("mary")) == {CREATE: "Global"}, "the role with the greatest depth counts"
    assert depths(await api.by_row(row)) == {CREATE: "Global"}
    assert depths(await api.by_oid("jean")) == {}, "a disabled user holds nothing"
    assert depths(await api.by_oid("ada")) == {}
    shown = changed.json()["users"]
    assert [user["object_id"] for user in shown] == [str(object_id_of(name)) for name in ("mary", "jean")]
    assert shown[0]["system_user_id"] == row
    assert [str(object_id(user)) for user in web.dataverse.directory.definition.users] == [
        user["object_id"] for user in shown
    ]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"users": [{"name": "x", "roles": ["None such"]}]}, "there is no role named 'None such'"),
        ({"users": [{"name": "x", "teams": ["None such"]}]}, "there is no team named 'None such'"),
        ({"users": [{"name": "x"}, {"name": "x"}]}, "two users of one name"),
        ({"roles": [{"name": "x", "privileges": {"Create": "Local"}}]}, "pattern"),
        ({"roles": [{"name": "x", "privileges": {CREATE: "local"}}]}, "'Local'"),
        ({"role": []}, "no such field"),
    ],
)
async def test_an_invalid_change_changes_nothing(api: Api, patch: dict[str, object], message: str) -> None:
    answer = await api.put(**patch)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert depths(await api.by_oid("ada")) == {CREATE: "Local"}


async def test_a_throttled_answer_has_the_service_protection_code(api: Api) -> None:
    await api.put(
        faults=[
            {"kind": "throttle", "retry_after": "7", "next_calls": 1},
            {"kind": "throttle", "code": "0x80072321", "retry_after": None, "next_calls": 1},
            {"kind": "respond", "status": 401, "next_calls": 1},
            {"kind": "respond", "status": 503, "next_calls": 1},
            {"kind": "html", "status": 200, "next_calls": 1},
        ]
    )
    first, second, *others, last = [await api.by_oid("ada") for _ in range(6)]
    assert (first.status_code, first.headers["Retry-After"]) == (429, "7")
    assert first.json()["error"]["code"] == "0x80072322"
    assert (second.status_code, second.headers.get("Retry-After")) == (429, None)
    assert second.json()["error"]["code"] == "0x80072321"
    assert [other.status_code for other in others] == [401, 503, 200]
    assert others[-1].text.startswith("<html>")
    assert depths(last) == {CREATE: "Local"}


async def test_an_unanswered_call_is_recorded_with_its_query(api: Api) -> None:
    await api.put(faults=[{"kind": "reset_after_reading", "next_calls": 1}])
    with pytest.raises(httpx.HTTPError):
        await api.by_oid("grace")
    (call,) = await api.calls()
    assert (call["object_id"], call["privileges"]) == (str(object_id_of("grace")), [CREATE])
    assert (call["function"], call["status"]) == (BY_OID, None)
    assert api.bearer not in str(call)
