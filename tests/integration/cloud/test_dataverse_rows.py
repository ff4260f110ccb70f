"""The rows of Dataverse's tables on the emulator: writing, reading, queries, and what the service refuses."""

import uuid
from collections.abc import Mapping

import httpx
import pytest

from servicebus_emulator.cloud.entra.definitions import MANAGED_IDENTITY_OBJECT_ID
from servicebus_emulator.cloud.entra.issuer import object_id_of
from servicebus_emulator.cloud.web import Web
from tests.support.dataverse_api import WebApi, refusal

ROW = "7b1f0c52-6a3e-5d24-9c1e-0d6f5c7b8a91"
REQUESTS = "new_flowrequests"
ONLY_CREATE = {"If-None-Match": "*"}
ONLY_UPDATE = {"If-Match": "*"}
RETURN_ROW = {"Prefer": "return=representation"}

TABLE = {
    "logical_name": "new_thing",
    "set_name": "new_things",
    "columns": [
        {"name": "new_text", "max_length": 5},
        {"name": "new_count", "type": "Integer", "minimum": 0, "maximum": 10},
        {"name": "new_price", "type": "Decimal", "minimum": 0},
        {"name": "new_done", "type": "Boolean"},
        {"name": "new_on", "type": "DateTime"},
        {"name": "new_kind", "type": "Choice", "options": [1, 2]},
        {"name": "new_user", "type": "Lookup", "target": "systemuser", "navigation_property": "new_User"},
    ],
    "keys": {"text": ["new_text"], "pair": ["new_count", "new_done"]},
}


@pytest.fixture
def api(web: Web, client: httpx.AsyncClient) -> WebApi:
    return WebApi(web, client)


@pytest.fixture
async def things(api: WebApi) -> WebApi:
    """The application user with every privilege, and a table with a column of each type."""
    await api.define(tables=[TABLE], application_privileges=None)
    return api


async def test_an_upsert_creates_and_then_updates(api: WebApi) -> None:
    path = f"{REQUESTS}({ROW})"
    created = await api("PATCH", path, {"new_status": "pending", "new_flow": "create-quote"})
    assert (created.status_code, created.content) == (204, b"")
    assert created.headers["OData-EntityId"] == f"{api.url}/{path}"
    assert (await api("PATCH", path, {"new_status": "succeeded"})).status_code == 204
    answer = await api("GET", f"{path}?$select=new_status,new_flow,_ownerid_value")
    row = answer.json()
    assert row.pop("@odata.context").endswith("#new_flowrequests(new_status,new_flow,_ownerid_value)/$entity")
    assert row.pop("@odata.etag") == answer.headers["ETag"]
    assert row == {
        "new_flowrequestid": ROW,
        "new_status": "succeeded",
        "new_flow": "create-quote",
        "_ownerid_value": str(MANAGED_IDENTITY_OBJECT_ID),
    }


async def test_conditions_limit_an_upsert_to_a_creation_or_an_update(api: WebApi) -> None:
    path = f"{REQUESTS}({ROW})"
    assert refusal(await api("PATCH", path, {}, ONLY_UPDATE)) == (404, "0x80040217")
    assert (await api("PATCH", path, {"new_status": "pending"}, ONLY_CREATE)).status_code == 204
    assert refusal(await api("PATCH", path, {"new_status": "other"}, ONLY_CREATE)) == (412, "0x80040237")
    assert (await api("PATCH", path, {"new_status": "failed"}, ONLY_UPDATE)).status_code == 204
    (row,) = await api.rows(REQUESTS)
    assert row["new_status"] == "failed"


async def test_an_entity_tag_guards_a_row_against_a_lost_update(api: WebApi) -> None:
    path = f"{REQUESTS}({ROW})"
    await api("PATCH", path, {"new_status": "pending"})
    etag = (await api("GET", path)).headers["ETag"]
    assert (await api("GET", path, headers={"If-None-Match": etag})).status_code == 304
    assert (await api("PATCH", path, {"new_status": "failed"}, {"If-Match": etag})).status_code == 204
    assert refusal(await api("PATCH", path, {"new_status": "x"}, {"If-Match": etag})) == (412, "0x80060882")


async def test_a_post_creates_a_row_and_returns_it_on_request(api: WebApi) -> None:
    created = await api("POST", REQUESTS, {"new_flow": "a"})
    assert created.status_code == 204
    assert uuid.UUID(created.headers["OData-EntityId"].rpartition("(")[2][:-1])
    answer = await api("POST", f"{REQUESTS}?$select=new_flow", {"new_flow": "b"}, RETURN_ROW)
    assert (answer.status_code, answer.json()["new_flow"]) == (201, "b")
    assert answer.headers["Preference-Applied"] == "return=representation"
    answer = await api("PATCH", f"{REQUESTS}({answer.json()['new_flowrequestid']})", {"new_flow": "c"}, RETURN_ROW)
    assert (answer.status_code, answer.json()["new_flow"]) == (200, "c")
    body = {"new_flowrequestid": answer.json()["new_flowrequestid"]}
    assert refusal(await api("POST", REQUESTS, body)) == (412, "0x80040237")


async def test_a_row_is_deleted_once(things: WebApi) -> None:
    await things("PATCH", f"new_things({ROW})", {})
    assert (await things("DELETE", f"new_things({ROW})")).status_code == 204
    assert refusal(await things("DELETE", f"new_things({ROW})")) == (404, "0x80040217")
    assert refusal(await things("GET", f"new_things({ROW})")) == (404, "0x80040217")


UNSUITABLE_VALUES: list[tuple[object, str]] = [
    ({"new_text": "123456"}, "0x80044331"),
    ({"new_text": "1234\N{GRINNING FACE}"}, "0x80044331"),
    ({"new_text": 5}, "0x80048d19"),
    ({"new_count": "5"}, "0x80048d19"),
    ({"new_count": True}, "0x80048d19"),
    ({"new_count": 2**31}, "0x80048d19"),
    ({"new_count": 11}, "0x8004432f"),
    ({"new_price": -0.5}, "0x80044330"),
    ({"new_kind": 3}, "0x8004431a"),
    ({"new_done": "true"}, "0x80048d19"),
    ({"new_on": "yesterday"}, "0x80048d19"),
    ({"new_on": "0001-01-01T00:00:00+14:00"}, "0x80048d19"),
    ({"new_none": 1}, "0x80048d19"),
    ({"new_user": ROW}, "0x80048d19"),
    ({"new_user@odata.bind": f"/systemusers({ROW})"}, "0x80048d19"),
    ({"new_User@odata.bind": f"/accounts({ROW})"}, "0x80048d19"),
    ([], "0x80048d19"),
]


async def test_a_value_that_its_column_cannot_hold_is_refused_with_dataverses_code(things: WebApi) -> None:
    for body, code in UNSUITABLE_VALUES:
        assert refusal(await things("PATCH", f"new_things({ROW})", body)) == (400, code), body
    assert await things.rows("new_things") == []


async def test_values_are_stored_as_dataverse_stores_them(things: WebApi) -> None:
    ada = things.row_of("ada")
    body = {"new_text": "1234\u00e9", "new_on": "2026-11-30T19:00:00.987+02:00", "new_User@odata.bind": None} | {
        "new_User@odata.bind": f"{things.url}/systemusers({ada})",
        "new_price@odata.type": "Edm.Decimal",
    }
    row = (await things("PATCH", f"new_things({ROW})", body, RETURN_ROW)).json()
    assert (row["new_text"], row["new_on"], row["_new_user_value"]) == ("1234\u00e9", "2026-11-30T17:00:00Z", ada)
    assert row["new_price"] is None


async def test_a_lookup_of_an_absent_row_is_404(things: WebApi) -> None:
    body = {"new_User@odata.bind": f"/systemusers({ROW})"}
    assert refusal(await things("PATCH", f"new_things({ROW})", body)) == (404, "0x80040217")


async def test_an_alternate_key_finds_creates_and_stays_unique(things: WebApi) -> None:
    assert refusal(await things("GET", "new_things(new_text='a''b')")) == (404, "0x80060891")
    assert (await things("PATCH", "new_things(new_text='a''b')", {"new_count": 1})).status_code == 204
    assert (await things("PATCH", "new_things(new_text='A''B')", {"new_done": True})).status_code == 204
    (row,) = await things.rows("new_things")
    assert (row["new_text"], row["new_count"], row["new_done"]) == ("a'b", 1, True)
    assert refusal(await things("POST", "new_things", {"new_text": "a'b"})) == (412, "0x80060892")
    answer = await things("GET", "new_things(new_count=1,new_done=true)")
    assert answer.status_code == 400, "the emulator takes text and integers in keys"
    assert refusal(await things("GET", "new_things(new_price=1)"))[0] == 400


async def test_a_key_value_with_a_character_that_breaks_urls_is_refused(things: WebApi) -> None:
    for number, character in enumerate("/<>*%&:\\?", start=1):
        await things("POST", "new_things", {"new_text": f"a{character}b"})
        path = f"new_things(new_text='a%{ord(character):02X}b')"
        assert (await things("GET", path)).status_code == 400, character
        assert (await things("PATCH", path, {})).status_code == 400, character
        assert len(await things.rows("new_things")) == number


async def test_a_key_value_is_free_again_after_a_change_and_a_deletion(things: WebApi) -> None:
    path = f"new_things({ROW})"
    await things("PATCH", path, {"new_text": "a"})
    await things("PATCH", path, {"new_text": "b"})
    assert refusal(await things("GET", "new_things(new_text='a')")) == (404, "0x80060891")
    assert (await things("POST", "new_things", {"new_text": "A"})).status_code == 204
    assert refusal(await things("PATCH", path, {"new_text": "a"})) == (412, "0x80060892")
    await things("DELETE", path)
    assert (await things("POST", "new_things", {"new_text": "B"})).status_code == 204
    for _ in range(2):  # rows without a value of the key are no duplicates
        assert (await things("POST", "new_things", {})).status_code == 204
    await things.define(tables=[TABLE | {"keys": {"count": ["new_count"]}}])
    assert len(await things.rows("new_things")) == 4, "a new definition keeps the rows"
    assert (await things("POST", "new_things", {"new_text": "b"})).status_code == 204


async def _fill(api: WebApi) -> None:
    for number, text in enumerate(("Ann", "ben", "Cid", None)):
        body = {"new_text": text, "new_count": number, "new_done": number > 1, "new_on": f"2026-11-0{number + 1}"}
        assert (await api("POST", "new_things", body)).status_code == 204


QUERIES: list[tuple[str, list[int]]] = [
    ("$filter=new_text eq 'ANN'", [0]),
    ("$filter=new_text ne 'ann' and new_text ne null", [1, 2]),
    ("$filter=startswith(new_text,'B') or contains(new_text,'i')", [1, 2]),
    ("$filter=new_count ge 1 and new_count lt 3&$orderby=new_count desc", [2, 1]),
    ("$filter=not (new_done eq true)", [0, 1]),
    ("$filter=new_text eq null", [3]),
    ("$filter=new_on gt 2026-11-02T00:00:00Z and new_on le 2026-11-04T00:00:00%2B00:00", [2, 3]),
    ("$filter=(new_count+eq+0)+or+(new_count+eq+3)", [0, 3]),
    ("$orderby=new_text desc&$top=2", [2, 1]),
    ("$orderby=new_done,new_count desc", [1, 0, 3, 2]),
    (f"$filter=_new_user_value eq {ROW}", []),
]


async def test_a_query_selects_and_orders_rows(things: WebApi) -> None:
    await _fill(things)
    for query, counts in QUERIES:
        answer = await things("GET", f"new_things?$select=new_count&{query}")
        assert answer.status_code == 200, answer.text
        assert [row["new_count"] for row in answer.json()["value"]] == counts, query
        assert all(set(row) == {"@odata.etag", "new_count", "new_thingid"} for row in answer.json()["value"])


REFUSED_QUERIES = [
    ("$select=new_none", 400),
    ("$filter=new_none eq 1", 400),
    ("$orderby=new_none", 400),
    (f"$filter=new_text eq {ROW}", 400),
    (f"$filter=new_thingid eq '{ROW}'", 400),
    ("$filter=new_count eq '1'", 400),
    ("$filter=new_count eq", 400),
    ("$filter=new_count 1", 400),
    ("$filter=new_text eq 'a", 400),
    ("$filter=(new_count eq 1", 400),
    ("$filter=upper(new_text) eq 'A'", 400),
    ("$filter=" + "(" * 5000, 400),
    ("$filter=new_count eq " + "9" * 5000, 400),
    ("$filter=new_on gt 0001-01-01T00:00:00%2B14:00", 400),
    ("$top=many", 400),
    ("$top=1&$top=2", 400),
    ("$format=json", 400),
    ("$expand=new_User", 501),
]


async def test_a_query_that_dataverse_refuses_is_refused(things: WebApi) -> None:
    for query, status in REFUSED_QUERIES:
        assert (await things("GET", f"new_things?{query}")).status_code == status, query


async def test_pages_of_rows_follow_each_other(things: WebApi) -> None:
    await _fill(things)
    path, found = "new_things?$select=new_count&$filter=new_count ge 1&$orderby=new_count desc&$count=true", []
    for _ in range(2):
        answer = (await things("GET", path, headers={"Prefer": "odata.maxpagesize=2"})).json()
        assert answer["@odata.count"] == 3
        found += [row["new_count"] for row in answer["value"]]
        path = answer.get("@odata.nextLink", "").removeprefix(f"{things.url}/")
    assert (found, path) == ([3, 2, 1], "")


async def test_users_are_found_by_object_id(api: WebApi) -> None:
    ada = object_id_of("ada")
    path = f"systemusers?$select=systemuserid,isdisabled&$filter=azureactivedirectoryobjectid eq {ada}"
    (user,) = (await api("GET", path)).json()["value"]
    assert (user["systemuserid"], user["isdisabled"]) == (api.row_of("ada"), False)
    own = f"systemusers({MANAGED_IDENTITY_OBJECT_ID})?$select=azureactivedirectoryobjectid,applicationid"
    assert (await api("GET", own)).json()["applicationid"] == str(MANAGED_IDENTITY_OBJECT_ID)
    assert (await api("PATCH", f"systemusers({ROW})", {})).status_code == 501


async def test_a_notification_is_created_once_for_another_user(api: WebApi) -> None:
    path, ada = f"appnotifications({ROW})", api.row_of("ada")
    body = {
        "title": "create-quote succeeded",
        "body": "Quote Q-1",
        "ownerid@odata.bind": f"/systemusers({ada})",
        "icontype": 100000001,
        "toasttype": 200000000,
        "ttlinseconds": 1_209_600,
        "data": '{"actions": []}',
    }
    assert refusal(await api("PATCH", path, body | {"title": None}, ONLY_CREATE)) == (400, "0x80040203")
    assert refusal(await api("PATCH", path, body | {"data": "x" * 5001}, ONLY_CREATE)) == (400, "0x80044331")
    assert refusal(await api("PATCH", path, body | {"icontype": 6}, ONLY_CREATE)) == (400, "0x8004431a")
    assert (await api("PATCH", path, body, ONLY_CREATE)).status_code == 204
    assert refusal(await api("PATCH", path, body, ONLY_CREATE)) == (412, "0x80040237")
    (row,) = await api.rows("appnotifications")
    assert (row["ownerid"], row["title"], row["ttlinseconds"]) == (ada, body["title"], 1_209_600)
    await api.define(application_privileges={"prvCreateappnotification": "Basic"})
    other = f"appnotifications({uuid.uuid4()})"
    assert refusal(await api("PATCH", other, body)) == (403, "0x80048306"), "Basic covers the caller's own rows only"


async def test_a_row_belongs_to_the_impersonated_user(web: Web, client: httpx.AsyncClient, api: WebApi) -> None:
    ada, as_ada = api.row_of("ada"), {"CallerObjectId": str(object_id_of("ada"))}
    path = f"{REQUESTS}({ROW})"
    assert (await api("PATCH", path, {"new_status": "pending"}, as_ada)).status_code == 204
    assert (await api("PATCH", path, {"new_status": "failed"}, {"MSCRMCallerID": ada})).status_code == 204
    (row,) = await api.rows(REQUESTS)
    assert (row["ownerid"], row["createdby"], row["modifiedby"]) == (ada, ada, ada)
    assert row["createdonbehalfby"] == str(MANAGED_IDENTITY_OBJECT_ID)
    assert [call["on_behalf_of"] for call in await api.calls()] == [str(object_id_of("ada"))] * 2
    her = WebApi(web, client, "ada")
    assert (await her("GET", f"{path}?$select=new_status")).json()["new_status"] == "failed"
    assert len((await her("GET", REQUESTS)).json()["value"]) == 1
    bob = WebApi(web, client, "bob")
    assert refusal(await bob("GET", path)) == (403, "0x80048306")
    assert (await bob("GET", REQUESTS)).json()["value"] == []
    assert refusal(await bob("PATCH", path, {"new_status": "x"})) == (403, "0x80048306")
    assert refusal(await bob("DELETE", path)) == (403, "0x80040220")


REFUSED_IMPERSONATIONS: list[tuple[Mapping[str, str], tuple[int, str]]] = [
    ({"CallerObjectId": ROW}, (403, "0x80072560")),
    ({"MSCRMCallerID": ROW}, (404, "0x80040217")),
    ({"CallerObjectId": "ada"}, (400, "0x0")),
    ({"CallerObjectId": str(object_id_of("jean"))}, (403, "0x80040225")),
    ({"CallerObjectId": str(object_id_of("mary"))}, (403, "0x80040220")),
]


async def test_an_impersonation_that_dataverse_refuses_is_refused(api: WebApi) -> None:
    await api.define(users=[{"name": "jean", "is_disabled": True}, {"name": "mary"}])
    for headers, expected in REFUSED_IMPERSONATIONS:
        assert refusal(await api("PATCH", f"{REQUESTS}({ROW})", {}, headers)) == expected, headers
    assert await api.rows(REQUESTS) == []


async def test_impersonation_grants_no_more_than_the_caller_holds(api: WebApi) -> None:
    as_ada = {"CallerObjectId": str(object_id_of("ada"))}
    await api.define(application_privileges={"prvCreatenew_flowrequest": "Global"})
    answer = await api("PATCH", f"{REQUESTS}({ROW})", {}, as_ada)
    assert refusal(answer) == (403, "0x80040220")
    assert "prvActOnBehalfOfAnotherUser" in answer.text
    await api.define(application_privileges={"prvActOnBehalfOfAnotherUser": "Global"})
    answer = await api("PATCH", f"{REQUESTS}({ROW})", {}, as_ada)
    assert refusal(answer) == (403, "0x80040220")
    assert "prvCreatenew_flowrequest" in answer.text


async def test_a_lookup_needs_the_privileges_to_append(api: WebApi) -> None:
    body = {"new_RequestedBy@odata.bind": f"/systemusers({api.row_of('ada')})"}
    create = {"prvCreatenew_flowrequest": "Global"}
    await api.define(application_privileges=create)
    assert "prvAppendnew_flowrequest" in (await api("PATCH", f"{REQUESTS}({ROW})", body)).text
    await api.define(application_privileges=create | {"prvAppendnew_flowrequest": "Global"})
    assert "prvAppendToUser" in (await api("PATCH", f"{REQUESTS}({ROW})", body)).text


async def test_a_fault_meets_the_calls_of_its_path_only(api: WebApi) -> None:
    path = f"{REQUESTS}({ROW})"
    await api.define(
        faults=[
            {"kind": "throttle", "path": "new_flowrequests", "method": "PATCH", "retry_after": "3", "next_calls": 1},
            {"kind": "respond", "status": 503, "path": "APPNOTIFICATIONS"},
        ]
    )
    assert (await api("GET", "WhoAmI")).status_code == 200
    assert (await api("GET", REQUESTS)).status_code == 200
    throttled = await api("PATCH", path, {})
    assert (refusal(throttled), throttled.headers["Retry-After"]) == ((429, "0x80072322"), "3")
    assert (await api("PATCH", path, {})).status_code == 204
    assert [(await api("POST", "appnotifications", {})).status_code for _ in range(2)] == [503, 503]


async def test_a_fault_can_take_the_answer_of_a_call_that_was_carried_out(api: WebApi) -> None:
    await api.define(faults=[{"kind": "reset_after_reading", "takes_effect": True, "next_calls": 1}])
    with pytest.raises(httpx.HTTPError):
        await api("PATCH", f"{REQUESTS}({ROW})", {"new_status": "pending"})
    (row,) = await api.rows(REQUESTS)
    assert row["new_status"] == "pending"
    assert [call["status"] for call in await api.calls()] == [None]


async def test_the_control_api_puts_and_deletes_rows(web: Web, client: httpx.AsyncClient, api: WebApi) -> None:
    rows = f"{web.url}/emulator/dataverse/rows"
    put = await client.put(f"{rows}/flowruns/{ROW}", json={"name": "0858", "starttime": "2026-11-30T17:00:00Z"})
    assert (put.status_code, put.json()["name"], put.json()["status"]) == (200, "0858", None)
    answer = await api("GET", "flowruns?$filter=name eq '0858'&$select=starttime")
    assert [row["starttime"] for row in answer.json()["value"]] == ["2026-11-30T17:00:00Z"]
    wrong = await client.put(f"{rows}/flowruns/{ROW}", json={"names": 1})
    assert (wrong.status_code, wrong.json()["error"]["message"].partition(":")[0]) == (400, "names")
    assert (await client.delete(f"{rows}/flowruns/first")).status_code == 400
    assert (await client.delete(f"{rows}/flowruns/{ROW}")).json() == {"deleted": 1}
    assert (await client.delete(f"{rows}/flowruns")).json() == {"deleted": 0}
    assert (await client.get(f"{rows}/none")).status_code == 404


INVALID_TABLES: list[tuple[dict[str, object], str]] = [
    ({"logical_name": "flowrun", "set_name": "others"}, "two tables named 'flowrun'"),
    ({"columns": [{"name": "a"}, {"name": "a"}]}, "two columns named 'a'"),
    ({"columns": [{"name": "a", "type": "Choice"}]}, "a Choice needs options"),
    ({"columns": [{"name": "a", "type": "Lookup", "target": "account"}]}, "no table named 'account'"),
    ({"columns": [{"name": "a", "type": "Integer", "max_length": 5}]}, "only a String"),
    ({"keys": {"k": ["new_none"]}}, "unknown column 'new_none'"),
]


async def test_an_invalid_table_is_refused(web: Web, client: httpx.AsyncClient) -> None:
    for table, message in INVALID_TABLES:
        definition = {"logical_name": "new_a", "set_name": "new_as"} | table
        answer = await client.put(f"{web.url}/emulator/dataverse", json={"tables": [definition]})
        assert (answer.status_code, message in answer.text) == (400, True), answer.text
