"""The rows of Dataverse's `flowruns` that the emulator's flows write, and in-app notifications."""

import asyncio
import json
from collections.abc import Mapping

import httpx
import pytest

from servicebus_emulator.cloud.entra.issuer import object_id_of
from servicebus_emulator.cloud.web import Web
from tests.support.dataverse_api import Json, WebApi, refusal

TRACKING = "5b2f1c9e-correlation"


@pytest.fixture
def api(web: Web, client: httpx.AsyncClient) -> WebApi:
    return WebApi(web, client)


class Flow:
    """A flow that the test calls and redefines."""

    def __init__(self, web: Web, client: httpx.AsyncClient, bearer: Mapping[str, str]) -> None:
        self._web, self._client, self._bearer = web, client, bearer

    async def call(self, tracking: str = TRACKING) -> httpx.Response:
        headers = {**self._bearer, "x-ms-client-tracking-id": tracking}
        return await self._client.post(self._web.flow_url("notify-team"), json={}, headers=headers)

    async def define(self, **patch: object) -> None:
        answer = await self._client.put(f"{self._web.url}/emulator/flows/notify-team", json=patch)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def flow(web: Web, client: httpx.AsyncClient, bearer: Mapping[str, str]) -> Flow:
    return Flow(web, client, bearer)


async def _runs(api: WebApi, tracking: str = TRACKING) -> list[Json]:
    select = "name,status,starttime,endtime,duration,errorcode,errormessage"
    answer = await api("GET", f"flowruns?$select={select}&$filter=clienttrackingid eq '{tracking}'")
    assert answer.status_code == 200, answer.text
    rows: list[Json] = answer.json()["value"]
    return rows


async def test_a_run_is_found_by_its_tracking_id(api: WebApi, flow: Flow) -> None:
    answer = await flow.call()
    (row,) = await _runs(api)
    assert (row["name"], row["status"]) == (answer.headers["x-ms-workflow-run-id"], "Succeeded")
    assert row["starttime"] <= row["endtime"]
    assert (row["errorcode"], row["errormessage"]) == (None, None)
    assert await _runs(api, "another") == []
    await flow.call()
    assert len(await _runs(api)) == 2, "a second call with the same tracking ID has a row of its own"


async def test_a_run_whose_answer_was_lost_has_a_row(api: WebApi, flow: Flow) -> None:
    await flow.define(
        faults=[{"kind": "reset_after_reading", "next_calls": 1}, {"kind": "NoResponse", "next_calls": 1}],
        run_status="Failed",
        run_error={"code": "ActionFailed", "message": "The action 'Create row' failed."},
    )
    with pytest.raises(httpx.HTTPError):
        await flow.call()
    assert (await flow.call()).status_code == 502
    assert [(row["status"], row["errorcode"], row["errormessage"]) for row in await _runs(api)] == [
        ("Failed", "ActionFailed", "The action 'Create row' failed.")
    ] * 2


async def test_a_refused_call_and_a_flow_outside_of_a_solution_have_no_row(api: WebApi, flow: Flow) -> None:
    await flow.define(in_solution=False)
    assert (await flow.call()).status_code == 202
    await flow.define(in_solution=True, state="Stopped")
    assert (await flow.call()).status_code == 400
    await flow.define(state="Enabled")
    await api.define(flow_runs={"enabled": False})
    assert (await flow.call()).status_code == 202
    assert await _runs(api) == []


async def test_a_row_appears_after_the_ingestion_delay_in_the_given_spelling(api: WebApi, flow: Flow) -> None:
    await api.define(flow_runs={"delay_seconds": 0.3, "spellings": {"cancelled": "CANCELED"}})
    await flow.define(run_status="Cancelled")
    await flow.call()
    assert await _runs(api) == []
    async with asyncio.timeout(10):
        while not (rows := await _runs(api)):  # noqa: ASYNC110 - the table can only be queried
            await asyncio.sleep(0.05)
    assert [(row["status"], row["endtime"] is None) for row in rows] == [("CANCELED", False)]


async def test_a_running_run_has_a_row_if_configured(api: WebApi, flow: Flow) -> None:
    await api.define(flow_runs={"shows_running": True})
    await flow.define(delay_seconds=0.3)
    await flow.call()
    (row,) = await _runs(api)
    assert (row["status"], row["endtime"]) == ("Running", None)
    async with asyncio.timeout(10):
        while (await _runs(api))[0]["status"] != "Succeeded":  # noqa: ASYNC110 - the table can only be queried
            await asyncio.sleep(0.05)
    assert len(await _runs(api)) == 1


async def test_reading_runs_needs_the_privilege(web: Web, client: httpx.AsyncClient, api: WebApi, flow: Flow) -> None:
    await flow.call()
    assert refusal(await WebApi(web, client, "ada")("GET", "flowruns")) == (403, "0x80040220")
    await api.define(application_privileges={"prvReadflowrun": "Basic"})
    assert await _runs(api) == [], "the runs belong to the flow's owner, and Basic covers the caller's own rows"


def _notification(recipient: str) -> dict[str, Json]:
    url = "?pagetype=entityrecord&etn=new_flowrequest&id=1"
    expando = "#Microsoft.Dynamics.CRM.expando"
    return {
        "Title": "create-quote succeeded",
        "Recipient": f"/systemusers({recipient})",
        "Body": "Quote Q-1",
        "IconType": 100000001,
        "Actions": {
            "@odata.type": expando[1:],
            "actions@odata.type": f"#Collection({expando[1:]})",
            "actions": [
                {"title": "Open", "data": {"@odata.type": expando, "type": "url", "url": url}},
            ],
        },
    }


async def test_the_action_creates_a_notification_each_time(api: WebApi) -> None:
    ada = api.row_of("ada")
    for _ in range(2):
        assert (await api("POST", "SendAppNotification", _notification(ada))).status_code == 204
    first, second = await api.rows("appnotifications")
    assert first["appnotificationid"] != second["appnotificationid"]
    assert (first["ownerid"], first["title"], first["icontype"], first["ttlinseconds"]) == (
        ada,
        "create-quote succeeded",
        100000001,
        1_209_600,
    )
    (action,) = json.loads(first["data"])["actions"]
    assert action["data"] == {"type": "url", "url": "?pagetype=entityrecord&etn=new_flowrequest&id=1"}
    assert (await api.calls())[-1]["function"] == "SendAppNotification"


async def test_the_action_needs_its_privilege_and_the_tables(api: WebApi) -> None:
    body = _notification(api.row_of("ada"))
    create, send = "prvCreateappnotification", "prvSendAppNotification"
    for held, missing in (({create: "Global"}, send), ({send: "Global"}, create)):
        await api.define(application_privileges=held)
        answer = await api("POST", "SendAppNotification", body)
        assert refusal(answer) == (403, "0x80040220")
        assert missing in answer.text
    await api.define(application_privileges={send: "Global", create: "Basic"})
    assert refusal(await api("POST", "SendAppNotification", body)) == (403, "0x80048306")


REFUSED_NOTIFICATIONS: list[tuple[dict[str, Json], tuple[int, str]]] = [
    ({"Title": None}, (400, "0x80048d19")),
    ({"Title": 1}, (400, "0x80048d19")),
    ({"Title": "x" * 257}, (400, "0x80044331")),
    ({"Text": "x"}, (400, "0x80048d19")),
    ({"IconType": 1}, (400, "0x8004431a")),
    ({"Recipient": f"/systemusers({object_id_of('ada')})"}, (404, "0x80040217")),
    ({"Recipient": "/teams(1)"}, (400, "0x80048d19")),
    ({"OverrideContent": {"title": "x" * 5000}}, (400, "0x80044331")),
]


async def test_a_notification_that_dataverse_refuses_is_refused(api: WebApi) -> None:
    for change, expected in REFUSED_NOTIFICATIONS:
        body = _notification(api.row_of("ada")) | change
        assert refusal(await api("POST", "SendAppNotification", body)) == expected, change
    assert await api.rows("appnotifications") == []
