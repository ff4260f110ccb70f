"""Custom APIs on the emulator: privilege, message and response; the limit of requests; pages of other origins."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from flow_contracts.dataverse import ExecutionContext
from flow_contracts.request import InvalidRequest
from servicebus_emulator import config
from servicebus_emulator.cloud.dataverse.service_protection import RequestCounter, RequestLimit
from servicebus_emulator.cloud.entra.issuer import object_id_of
from servicebus_emulator.host import Emulator, Endpoints, running_emulator
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.web_callers import WebCallers
from tests.support.dataverse_api import Json, WebApi, refusal
from tests.support.native_messages import QUEUE, received

API = "new_StartQuote"
BODY = {"customer": "Contoso", "amount": 12.5}
PAGE = "http://forms.test:8080"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    endpoints = Endpoints(amqp_port=0, http_port=0, callers=WebCallers.parse([], [PAGE]))
    async with running_emulator(config.load(), endpoints) as running:
        yield running


@pytest.fixture
def as_ada(emulator: Emulator, client: httpx.AsyncClient) -> WebApi:
    return WebApi(emulator.web, client, "ada")


@pytest.fixture
def as_application(emulator: Emulator, client: httpx.AsyncClient) -> WebApi:
    return WebApi(emulator.web, client)


async def _redefine(api: WebApi, **changes: object) -> None:
    definition = {
        "unique_name": API,
        "parameters": [{"name": "customer"}, {"name": "amount", "type": "Decimal"}],
        "responses": {"CorrelationId": "correlation_id", "RequestId": "request_id"},
    }
    await api.define(custom_apis=[definition | changes])


def _count(emulator: Emulator) -> int:
    return emulator.broker.counts()[QUEUE]["active"]


async def test_a_call_posts_natively_and_returns_the_correlation_id(emulator: Emulator, as_ada: WebApi) -> None:
    answer = await as_ada("POST", API, BODY)
    assert answer.status_code == 200, answer.text
    assert answer.json()["@odata.context"].endswith(f"#Microsoft.Dynamics.CRM.{API}Response")
    message = await received(emulator.connection_string)
    assert message.application_properties["http://schemas.microsoft.com/xrm/2011/Claims/RequestName"] == API
    context = ExecutionContext.from_message(message)
    assert (context.message_name, context.input) == (API, BODY)
    assert context.initiating_user_oid == str(object_id_of("ada"))
    assert context.initiating_user_id == as_ada.row_of("ada")
    assert context.correlation_id == answer.json()["CorrelationId"]
    assert context.message_id == f"dataverse/{context.organization_id}/job/{context.operation_id}"
    (call,) = await as_ada.calls()
    assert (call["function"], call["caller"]) == (API, str(object_id_of("ada")))


async def test_a_caller_without_the_privilege_is_refused_and_nothing_is_posted(
    emulator: Emulator, client: httpx.AsyncClient, as_application: WebApi
) -> None:
    answer = await WebApi(emulator.web, client, "bob")("POST", API, BODY)
    assert refusal(answer) == (403, "0x80040220")
    assert "prvCreatenew_quote" in answer.text
    stranger = await WebApi(emulator.web, client, "mallory")("POST", API, BODY)
    assert refusal(stranger) == (403, "0x80072560")
    for_ada = {"CallerObjectId": str(object_id_of("ada"))}
    assert refusal(await as_application("POST", API, BODY, for_ada)) == (403, "0x80040220"), "both need the privilege"
    assert _count(emulator) == 0


UNSUITABLE_BODIES: list[Json] = [
    {"customer": "Contoso"},
    {"customer": "Contoso", "amount": "12"},
    {"customer": 1, "amount": 1},
    BODY | {"other": 1},
    [],
]


async def test_a_call_with_unsuitable_parameters_is_refused(emulator: Emulator, as_ada: WebApi) -> None:
    for body in UNSUITABLE_BODIES:
        assert refusal(await as_ada("POST", API, body)) == (400, "0x80048d19"), body
    assert _count(emulator) == 0


async def test_parameters_of_every_type_arrive_in_their_plain_form(emulator: Emulator, as_ada: WebApi) -> None:
    kinds = ("String", "Integer", "Boolean", "Guid", "DateTime", "Float", "StringArray", "Entity")
    await _redefine(
        as_ada,
        parameters=[{"name": kind, "type": kind, "optional": True} for kind in kinds],
        responses={},
    )
    body: dict[str, Json] = {
        "String": "a/b \N{SNOWMAN}",
        "Integer": -1,
        "Boolean": False,
        "Guid": "3d4a8c5e-1f2b-4711-810a-e0071b6a82d1",
        "DateTime": "2026-11-30T17:00:00Z",
        "Float": 0.5,
        "StringArray": ["x", "y"],
        "Entity": {"@odata.type": "Microsoft.Dynamics.CRM.expando", "lines": 2},
    }
    assert (await as_ada("POST", API, body)).status_code == 204
    given = ExecutionContext.from_message(await received(emulator.connection_string)).input
    assert given.pop("Entity") == {"@id": None, "@logicalName": None, "lines": 2}
    del body["Entity"]
    assert given == body | {"DateTime": "2026-11-30T17:00:00.000Z"}
    assert (await as_ada("POST", API)).status_code == 204, "all parameters are optional"


async def test_an_application_user_has_no_object_id_in_the_message(emulator: Emulator, as_application: WebApi) -> None:
    await _redefine(as_application)
    assert (await as_application("POST", API, BODY)).status_code == 200
    context = ExecutionContext.from_message(await received(emulator.connection_string))
    assert context.initiating_user_oid is None
    await _redefine(as_application)
    for_grace = {"CallerObjectId": str(object_id_of("grace"))}
    await as_application("POST", API, BODY, for_grace)
    context = ExecutionContext.from_message(await received(emulator.connection_string))
    assert context.initiating_user_oid == str(object_id_of("grace"))


async def test_a_synchronous_step_has_no_job_and_fails_with_its_post(emulator: Emulator, as_ada: WebApi) -> None:
    await _redefine(as_ada, synchronous=True)
    await as_ada("POST", API, BODY)
    context = ExecutionContext.from_message(await received(emulator.connection_string))
    assert (context.mode, context.operation_id) == (0, None)
    await _redefine(as_ada, synchronous=True, queue="none-such")
    assert refusal(await as_ada("POST", API, BODY))[0] == 500


async def test_a_system_job_can_post_twice_under_one_id(emulator: Emulator, as_ada: WebApi) -> None:
    await _redefine(as_ada, repeats=1, delay_seconds=0.05)
    await as_ada("POST", API, BODY)
    assert _count(emulator) == 0
    first, second = [
        ExecutionContext.from_message(await received(emulator.connection_string)).message_id for _ in range(2)
    ]
    assert first == second


async def test_a_system_job_posts_again_until_the_queue_accepts(emulator: Emulator, as_ada: WebApi) -> None:
    await _redefine(as_ada, queue="later")
    assert (await as_ada("POST", API, BODY)).status_code == 200
    await _redefine(as_ada)
    emulator.broker.create(QueueSettings("later"))
    await received(emulator.connection_string, "later")


async def test_a_large_call_is_posted_without_its_input(emulator: Emulator, as_ada: WebApi) -> None:
    assert (await as_ada("POST", API, BODY | {"customer": "x" * 200_000})).status_code == 200
    message = await received(emulator.connection_string)
    with pytest.raises(InvalidRequest, match="192 KB"):
        ExecutionContext.from_message(message)


async def test_a_custom_api_without_a_step_only_answers(emulator: Emulator, as_ada: WebApi) -> None:
    await _redefine(as_ada, queue=None)
    answer = (await as_ada("POST", API, BODY)).json()
    assert len(answer["RequestId"]) == len(answer["CorrelationId"]) == 36
    assert _count(emulator) == 0
    assert refusal(await as_ada("GET", API))[0] == 404


INVALID_APIS: list[tuple[Mapping[str, object], str]] = [
    ({"unique_name": "StartQuote"}, "unique_name"),
    ({"execute_privilege_name": "Create"}, "execute_privilege_name"),
    ({"parameters": [{"name": "a"}, {"name": "a"}]}, "two parameters named 'a'"),
    ({"responses": {"Id": "operation_id"}}, "'correlation_id' or 'request_id'"),
]


async def test_an_invalid_custom_api_is_refused(emulator: Emulator, client: httpx.AsyncClient) -> None:
    for change, message in INVALID_APIS:
        patch = {"custom_apis": [{"unique_name": API, **change}]}
        answer = await client.put(f"{emulator.web.url}/emulator/dataverse", json=patch)
        assert (answer.status_code, message in answer.text) == (400, True), answer.text


async def test_a_user_asks_who_they_are_and_holds_no_more_than_their_roles(as_ada: WebApi) -> None:
    assert (await as_ada("GET", "WhoAmI")).json()["UserId"] == as_ada.row_of("ada")
    assert refusal(await as_ada("GET", "systemusers")) == (403, "0x80040220")


async def test_a_page_acts_by_its_session_without_a_token(emulator: Emulator) -> None:
    origin, url = emulator.web.url, f"{emulator.web.dataverse_url}/api/data/v9.2"
    async with httpx.AsyncClient(headers={"Origin": origin}) as browser:
        assert (await browser.get(f"{url}/WhoAmI")).status_code == 401
        unknown = await browser.post(f"{origin}/emulator/dataverse/sessions", json={"user": "mallory"})
        assert unknown.status_code == 404
        signed_in = await browser.post(f"{origin}/emulator/dataverse/sessions", json={"user": "ada"})
        assert signed_in.status_code == 201
        cookie = signed_in.headers["Set-Cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/dataverse"))
        assert (await browser.get(f"{url}/WhoAmI")).json()["UserId"] == signed_in.json()["user_id"]
        assert (await browser.post(f"{url}/{API}", json=BODY)).status_code == 200
        invalid = await browser.get(f"{url}/WhoAmI", headers={"Authorization": "Bearer x"})
        assert invalid.status_code == 401, "a token counts before the session"
        foreign = await browser.get(f"{url}/WhoAmI", headers={"Origin": "http://other.test"})
        assert foreign.status_code == 403
        browser.cookies.clear()
        ended = await browser.get(f"{url}/WhoAmI", headers={"Cookie": "CrmOwinAuth=none"})
        assert (ended.status_code, "session has ended" in ended.text) == (401, True)
    context = ExecutionContext.from_message(await received(emulator.connection_string))
    assert context.initiating_user_oid == str(object_id_of("ada"))


async def test_a_web_resource_is_served_at_the_origin_of_the_web_api(
    emulator: Emulator, client: httpx.AsyncClient
) -> None:
    put = f"{emulator.web.url}/emulator/dataverse/webresources"
    stored = await client.put(f"{put}/new_form.js", content=b"export const x = 1;")
    assert stored.json() == {"url": f"{emulator.web.dataverse_url}/WebResources/new_form.js"}
    served = await client.get(stored.json()["url"])
    assert (served.text, served.headers["Content-Type"]) == ("export const x = 1;", "text/javascript; charset=utf-8")
    assert (await client.get(f"{emulator.web.dataverse_url}/WebResources/none.js")).status_code == 404
    assert (await client.put(f"{put}/new_form.exe", content=b"")).status_code == 400
    assert (await client.put(f"{put}/new_form.css", content=b"x" * (5 * 1024 * 1024 + 1))).status_code == 400


async def test_requests_beyond_the_limit_are_throttled_per_caller(as_ada: WebApi, as_application: WebApi) -> None:
    await as_ada.define(request_limit={"requests": 2, "window_seconds": 60})
    assert [(await as_ada("GET", "WhoAmI")).status_code for _ in range(3)] == [200, 200, 429]
    throttled = await as_ada("GET", "WhoAmI")
    assert refusal(throttled) == (429, "0x80072322")
    assert 50 < int(throttled.headers["Retry-After"]) <= 60
    assert "limit of 2 over time window of 60 seconds" in throttled.text
    assert (await as_application("GET", "WhoAmI")).status_code == 200


def test_a_window_of_requests_slides() -> None:
    times = iter((0.0, 4.0, 5.0, 10.5, 11.0))
    counter, limit = RequestCounter(lambda: next(times)), RequestLimit(requests=2, window_seconds=10)
    assert [counter.wait_seconds("a", limit) for _ in range(5)] == [None, None, 5, None, 3]


async def test_a_page_of_an_allowed_origin_may_use_the_web_api(client: httpx.AsyncClient, as_ada: WebApi) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "if-match"}
    preflight = await client.options(f"{as_ada.url}/new_flowrequests", headers=asked)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert preflight.headers["Access-Control-Allow-Headers"] == "if-match"
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    answer = await as_ada("GET", "WhoAmI", headers={"Origin": PAGE})
    assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["Vary"]) == (PAGE, "Origin")
    foreign = await as_ada("GET", "WhoAmI", headers={"Origin": "http://other.test"})
    assert (foreign.status_code, "Access-Control-Allow-Origin" in foreign.headers) == (403, False)
    assert "Access-Control-Allow-Origin" not in (await as_ada("GET", "WhoAmI")).headers


async def test_calls_at_the_same_time_create_one_row(as_application: WebApi) -> None:
    path = "new_flowrequests(7b1f0c52-6a3e-5d24-9c1e-0d6f5c7b8a91)"
    calls = (as_application("PATCH", path, {}, {"If-None-Match": "*"}) for _ in range(10))
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*calls))
    assert statuses == [204] + [412] * 9
