"""The HTTP API of the gateway, on a real socket."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator
from itertools import islice

import httpx
import pytest
import pytest_asyncio

from flow_contracts.request import FlowRequest
from flow_contracts.servicebus import MessageTooLarge, ServiceBusUnavailable
from flow_worker.access.gateway_message_ids import prefix_of
from flow_worker.gateway.headers import _elements
from flow_worker.gateway.store.port import RequestState, StateName, StoredResult
from tests.support.http_gateway import ORIGIN, QUEUE, TENANT, USERS, HttpGateway, running_http_gateway
from tests.support.system import until

START = "/v1/flows/create-quote/requests"


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[HttpGateway]:
    async with running_http_gateway() as running:
        yield running


async def test_a_submission_is_answered_with_202_and_lies_in_the_queue(gateway: HttpGateway) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with gateway.client() as ada:
        answer = await ada.post(START, json={"customer": "Contoso"}, headers={"traceparent": trace})
    assert answer.status_code == 202
    document = answer.json()
    assert answer.headers["Location"] == document["location"] == f"{gateway.url}/v1/requests/{document['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Vary"] == "Origin, Prefer"
    assert (document["status"], document["state"], document["flow"]) == ("pending", "queued", "create-quote")
    request = FlowRequest.from_message(gateway.queue.messages[0])
    assert (request.flow, request.input, request.message_id) == (
        "create-quote",
        {"customer": "Contoso"},
        prefix_of(QUEUE) + document["id"],
    )
    assert request.correlation_id == document["id"]
    async with gateway.client() as ada:  # a message ID from a log or a result leads to the request, too
        assert (await ada.get(f"/v1/requests/{request.message_id}")).json() == document
    assert request.traceparent == trace
    assert request.claim is not None
    assert "ada" not in request.claim.get_secret_value()  # the user's token ended here


async def test_an_empty_body_is_the_input_null(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        assert (await ada.post(START)).status_code == 202
    assert FlowRequest.from_message(gateway.queue.messages[0]).input is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "claim_missing"),
        ({"Authorization": "Basic YWRhOmFkYQ=="}, "claim_missing"),
        ({"Authorization": "Bearer"}, "claim_missing"),
        ({"Authorization": "Bearer nobody"}, "claim_invalid"),
        ({"Authorization": "Bearer claim_expired"}, "claim_expired"),
        ({"Authorization": "Bearer claim_scope"}, "claim_scope"),
    ],
)
async def test_a_caller_without_a_valid_token_gets_401(
    gateway: HttpGateway, headers: dict[str, str], code: str
) -> None:
    async with gateway.client(None) as nobody:
        for method, path in (("POST", START), ("GET", "/v1/requests/abc"), ("GET", "/v1/flows")):
            answer = await nobody.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, code)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.headers["Content-Type"] == "application/problem+json"
    assert gateway.queue.messages == []


async def test_unknown_flows_and_flows_of_others_are_refused_alike(gateway: HttpGateway) -> None:
    answers = []
    async with gateway.client() as ada:
        for flow in ("admin-only", "no-such-flow", "%00", "a" * 200, "..%2f..%2fetc"):
            answer = await ada.post(f"/v1/flows/{flow}/requests", json={"customer": 5})
            document = answer.json()
            answers.append((answer.status_code, document["code"], document["detail"], document["retryable"]))
    assert answers == [(403, "flow_not_allowed", answers[0][2], False)] * len(answers)
    assert gateway.queue.messages == []


async def test_an_input_outside_the_schema_is_refused_at_once(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        answer = await ada.post(START, json={"customer": 5})
    assert (answer.status_code, answer.json()["code"]) == (422, "input_schema_mismatch")
    assert gateway.queue.messages == []


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_request"),
        (b'{"a":1,"a":2}', "application/json", 400, "malformed_request"),
        (b"NaN", "application/json", 400, "malformed_request"),
        (b"\xff", "application/json", 400, "malformed_request"),
        (b"[" * 5000, "application/json", 400, "malformed_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", "application/json; charset=utf-16", 415, "unsupported_media_type"),
        (b"{}", "", 415, "unsupported_media_type"),
        (b" " * (1024 * 1024 + 1), "application/json", 413, "payload_too_large"),
    ],
)
async def test_a_body_that_is_no_input_is_refused(
    gateway: HttpGateway, body: bytes, content_type: str, status: int, code: str
) -> None:
    async with gateway.client() as ada:
        answer = await ada.post(START, content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_compressed_body_is_refused_before_it_grows(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = await ada.post(START, content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415


async def test_a_second_content_coding_is_refused_too(gateway: HttpGateway) -> None:
    for codings in (["identity", "gzip"], ["identity, br"], ["GZIP"]):
        fields = [("Content-Type", "application/json"), *(("Content-Encoding", coding) for coding in codings)]
        async with gateway.client() as ada:
            assert (await ada.post(START, content=b"{}", headers=fields)).status_code == 415


@pytest.mark.parametrize(
    ("preference", "applied"),
    [
        ('foo="a,wait=9", wait=0', "wait=0"),  # a comma within a quoted string separates nothing
        ('foo="a;b", wait=0', "wait=0"),
        (r'foo="\"",wait=0', "wait=0"),
        ('foo="a, wait=9', None),  # the string has no end
        ("wait=0;foo=1, respond-async", "respond-async, wait=0"),
        ('WAIT = "0" ,, handling=lenient', "wait=0"),
        ("wait=0, wait=9", "wait=0"),
        ("wait", None),
        ("wait=-1", None),
        ("wait=NaN", None),
        ("wait=1e9", None),
        ("wait=0.5", None),
    ],
)
async def test_preferences_are_read_as_a_list_of_fields(
    gateway: HttpGateway, preference: str, applied: str | None
) -> None:
    async with gateway.client() as ada:
        answer = await ada.post(START, json={}, headers={"Prefer": preference})
    assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, applied)


def test_the_worst_preferences_cost_little() -> None:
    began = time.perf_counter()
    for field in ('"' * 30_000, '"\\' * 10_000, '\\"' * 10_000, "," * 30_000, ";" * 30_000, 'a"' * 15_000):
        assert len(list(islice(_elements(field), 16))) <= 16
    assert time.perf_counter() - began < 0.5


async def test_a_client_that_claims_to_have_the_result_still_gets_it(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        claimed = {"Last-Event-ID": "result"}
        async with ada.stream("GET", f"{location}/events", headers=claimed) as pending:
            assert pending.status_code == 200
        await gateway.finish(location.rsplit("/", 1)[1])
        assert (await ada.get(f"{location}/events", headers=claimed)).status_code == 204


async def test_the_audit_log_holds_the_beginning_of_a_refused_name(
    gateway: HttpGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with gateway.client() as ada:
        await ada.post(f"/v1/flows/{'x' * 20_000}/requests", json={})
    logged = str([vars(record) for record in caplog.records if record.name.startswith("flow_worker")])
    assert "x" * 100 in logged
    assert "x" * 1000 not in logged


async def test_the_same_key_and_payload_is_the_same_request(gateway: HttpGateway) -> None:
    async with gateway.client() as ada, gateway.client("bob") as bob:
        first = await ada.post(START, json={"customer": "A", "n": 1}, headers={"Idempotency-Key": '"key-1"'})
        again = await ada.post(START, json={"n": 1, "customer": "A"}, headers={"Idempotency-Key": "key-1"})
        other = await ada.post(START, json={"customer": "B"}, headers={"Idempotency-Key": '"key-1"'})
        elsewhere = await ada.post("/v1/flows/free-form/requests", json={}, headers={"Idempotency-Key": '"key-1"'})
        stranger = await bob.post(START, json={"customer": "B"}, headers={"Idempotency-Key": '"key-1"'})
    assert first.json()["id"] == again.json()["id"]
    assert len(gateway.queue.messages) == 2  # one of ada, one of bob
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert elsewhere.status_code == 422
    assert stranger.status_code == 202
    assert stranger.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("key", ['""', "", '"a', 'a"b\x7f', "x" * 256, '"\\x"'])
async def test_a_malformed_key_is_refused(gateway: HttpGateway, key: str) -> None:
    async with gateway.client() as ada:
        answer = await ada.post(START, json={}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


async def test_a_request_that_the_queue_did_not_accept_is_not_accepted(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        gateway.queue.failure = ServiceBusUnavailable("the broker is away, at a secret place")
        failed = await ada.post(START, json={}, headers={"Idempotency-Key": '"k"'})
        gateway.queue.failure = None
        again = await ada.post(START, json={}, headers={"Idempotency-Key": '"k"'})
        gateway.store.is_down = True
        without_store = await ada.post(START, json={})
    for answer in (failed, without_store):
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "unavailable", True)
        assert int(answer.headers["Retry-After"]) >= 1
        assert "secret" not in answer.text
    assert again.status_code == 202
    assert len(gateway.queue.messages) == 1


async def test_an_input_larger_than_the_queue_takes_gets_413(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        gateway.queue.failure = MessageTooLarge("too large")
        assert (await ada.post(START, json={})).status_code == 413
        gateway.queue.failure, gateway.queue.max_bytes = None, 10_000
        assert (await ada.post(START, json={"customer": "x" * 9000})).status_code == 413
    assert gateway.queue.messages == []


async def test_the_keys_of_the_issuer_away_is_503_and_an_internal_error_says_nothing(
    gateway: HttpGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway.client("down") as down, gateway.client("boom") as boom:
        assert (await down.post(START, json={})).status_code == 503
        answer = await boom.post(START, json={}, headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "gateway.internal_error" in {getattr(record, "event", "") for record in caplog.records}


async def test_only_the_owner_reads_a_result(gateway: HttpGateway) -> None:
    async with gateway.client() as ada, gateway.client("bob") as bob:
        location = (await ada.post(START, json={})).headers["Location"]
        request_id = location.rsplit("/", 1)[1]
        pending = await ada.get(location)
        body = await gateway.finish(request_id, "refused")
        done = await ada.get(location)
        stranger, unknown = await bob.get(location), await bob.get("/v1/requests/nothing")
        events = await bob.get(f"{location}/events")
    assert (pending.status_code, pending.headers["Location"]) == (202, location)
    assert (done.status_code, done.content) == (200, body)
    assert done.headers["Content-Type"] == "application/json"
    different = {"instance"}
    texts = [{k: v for k, v in answer.json().items() if k not in different} for answer in (stranger, unknown, events)]
    assert [answer.status_code for answer in (stranger, unknown, events)] == [404, 404, 404]
    assert texts[0] == texts[1] == texts[2]


async def test_a_gone_result_is_410(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        request_id = location.rsplit("/", 1)[1]
        found = gateway.store.requests[request_id]
        gateway.store.requests[request_id] = type(found)(found.record, found.state, None, is_gone=True)
        answer = await ada.get(location)
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")


async def test_an_asserter_starts_for_a_user_and_both_read_the_result() -> None:
    flows = {"quote": {"privilege": "prvCreatenew_quote"}}
    async with running_http_gateway(flows) as gateway, gateway.client("service") as service:
        start = "/v1/flows/quote/requests"
        answer = await service.post(start, json={}, headers={"On-Behalf-Of": USERS["ada"].upper()})
        assert answer.status_code == 202
        assert FlowRequest.from_message(gateway.queue.messages[0]).on_behalf_of == USERS["ada"]
        location = answer.headers["Location"]
        for user, status in (("service", 202), ("ada", 202), ("bob", 404)):
            async with gateway.client(user) as reader:
                assert (await reader.get(location)).status_code == status
        async with gateway.client("ada") as ada:
            refused = await ada.post(start, json={}, headers={"On-Behalf-Of": USERS["bob"]})
        invalid = await service.post(start, json={}, headers={"On-Behalf-Of": "ada"})
    assert (refused.status_code, refused.json()["code"]) == (403, "on_behalf_of_not_allowed")
    assert (invalid.status_code, invalid.json()["code"]) == (400, "on_behalf_of_invalid")


async def test_a_wait_returns_the_result_when_it_comes(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        key = {"Idempotency-Key": '"w"', "Prefer": "respond-async, wait=10"}
        posted = asyncio.create_task(ada.post(START, json={}, headers=key))
        await until(lambda: bool(gateway.queue.messages and gateway.results.waiters.count))
        body = await gateway.finish(str(gateway.queue.messages[0].correlation_id))
        answer = await posted
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["Preference-Applied"] == "wait=10"
        at_once = await ada.get(answer.headers["Location"], params={"wait": "100"})
        assert at_once.status_code == 200


async def test_a_wait_ends_with_202(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        answer = await ada.post(START, json={}, headers={"Prefer": "respond-async, wait=0"})
        assert answer.headers["Preference-Applied"] == "respond-async, wait=0"
        began = time.monotonic()
        pending = await ada.get(answer.headers["Location"], params={"wait": "1"})
        assert pending.status_code == 202
        assert 0.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("wait", ["-1", "x", "101", "1.5", "", "1&wait=2", "٣"])
async def test_a_malformed_wait_is_refused(gateway: HttpGateway, wait: str) -> None:
    async with gateway.client() as ada:
        answer = await ada.get(f"/v1/requests/abc?wait={wait}")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


async def test_a_client_that_disconnects_frees_its_waiter_and_its_submission_goes_on(gateway: HttpGateway) -> None:
    gateway.queue.seconds = 0.3
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        waiting = asyncio.create_task(ada.get(location, params={"wait": "60"}))
        await until(lambda: gateway.results.waiters.count == 1)
        waiting.cancel()
        posting = asyncio.create_task(ada.post(START, json={"customer": "gone"}))
        await until(lambda: gateway.queue.begun == 2)
        posting.cancel()
    async with asyncio.timeout(5):
        await until(lambda: not gateway.results.waiters.count and len(gateway.queue.messages) == 2)


async def test_the_states_can_be_followed_as_events(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        request_id = location.rsplit("/", 1)[1]
        lines: list[str] = []
        async with ada.stream("GET", f"{location}/events") as stream:
            assert stream.headers["Content-Type"] == "text/event-stream"
            found = gateway.store.requests[request_id]
            async for line in stream.aiter_lines():
                lines.append(line)
                if line.startswith("data:") and '"queued"' in line:
                    state = RequestState(StateName.WAITING, found.state.at, found.state.at, "flow_throttled", 1)
                    await gateway.store.put_state(request_id, state)
                    gateway.results.waiters.wake([request_id])
                if line.startswith("data:") and '"waiting"' in line:
                    assert "because Power Automate throttles the flow" in line
                    await gateway.finish(request_id)
        events = [line for line in lines if line.startswith("event:")]
        assert events == ["event: state", "event: state", "event: result"]
        ids = [line[4:] for line in lines if line.startswith("id: ")]
        assert (
            json.loads(next(line for line in reversed(lines) if line.startswith("data:"))[5:])["status"] == "succeeded"
        )
        resumed = await ada.get(f"{location}/events", headers={"Last-Event-ID": ids[1]})
        assert resumed.text.count("event: ") == 1
        assert (await ada.get(f"{location}/events", headers={"Last-Event-ID": ids[2]})).status_code == 204


UNKNOWN = b'{"status":"unknown","settled_by":null}'
SETTLED = b'{"status":"succeeded","settled_by":"flow_run"}'


async def put(gateway: HttpGateway, request_id: str, body: bytes) -> None:
    await gateway.store.put_result(request_id, StoredResult(body, gateway.store.requests[request_id].record.created_at))
    gateway.results.waiters.wake([request_id])


async def test_an_unknown_result_is_read_at_once_and_later_its_settling_one(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        request_id = location.rsplit("/", 1)[1]
        await put(gateway, request_id, UNKNOWN)
        assert (await ada.get(f"{location}?wait=20")).json()["status"] == "unknown"
        waiting = asyncio.create_task(ada.get(f"{location}?wait=20&settled=true"))
        await until(lambda: gateway.results.waiters.count == 1)
        await put(gateway, request_id, SETTLED)
        assert (await waiting).json()["settled_by"] == "flow_run"
        assert (await ada.get(location)).json()["settled_by"] == "flow_run"
        for wrong in ("settled=yes", "settled=true&settled=true", "settled="):
            assert (await ada.get(f"{location}?{wrong}")).status_code == 400


async def test_a_stream_of_events_goes_on_to_the_settling_result(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        request_id = location.rsplit("/", 1)[1]
        await put(gateway, request_id, UNKNOWN)
        plain = await ada.get(f"{location}/events")
        assert [line for line in plain.text.splitlines() if line.startswith("event:")] == ["event: result"]
        lines: list[str] = []
        async with ada.stream("GET", f"{location}/events?settled=true") as stream:
            async for line in stream.aiter_lines():
                lines.append(line)
                if line.startswith("data:") and "unknown" in line:
                    await put(gateway, request_id, SETTLED)
        assert [line for line in lines if line.startswith("event:")] == ["event: result", "event: settled"]
        statuses = {}
        for last, query in itertools.product(("result", "settled"), ("", "?settled=true")):
            answer = await ada.get(f"{location}/events{query}", headers={"Last-Event-ID": last})
            statuses[last, bool(query)] = (answer.status_code, answer.text.count("event: settled"))
        assert statuses == {
            ("result", False): (204, 0),
            ("result", True): (200, 1),
            ("settled", False): (204, 0),
            ("settled", True): (204, 0),
        }


async def test_a_silent_stream_has_heartbeats_and_ends_in_time() -> None:
    async with running_http_gateway(heartbeat_seconds=0.1, max_stream_seconds=1) as gateway, gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        answer = await ada.get(f"{location}/events")
    assert answer.text.count(": still waiting") >= 3
    assert answer.text.startswith("retry: ")
    assert "event: result" not in answer.text


async def test_a_stop_answers_long_polls_and_ends_streams_and_finishes_submissions(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        poll = asyncio.create_task(ada.get(location, params={"wait": "60"}))
        stream = asyncio.create_task(ada.get(f"{location}/events"))
        await until(lambda: gateway.results.waiters.count == 2)
        gateway.queue.seconds = 0.3
        submission = asyncio.create_task(ada.post(START, json={"customer": "last"}))
        await until(lambda: gateway.queue.begun == 2)
        gateway.server.stop()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(poll, stream, submission)
            await gateway.task
        assert [answer.status_code for answer in answers] == [202, 200, 202]
        assert answers[0].headers["Connection"] == "close"
        assert len(gateway.queue.messages) == 2
    async with gateway.client() as ada:
        with pytest.raises(httpx.ConnectError):
            await ada.get(location)


async def test_a_caller_that_floods_gets_429_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running_http_gateway(submissions_per_second=1, submission_burst=3) as gateway,
        gateway.client() as ada,
        gateway.client("bob") as bob,
    ):
        answers = [await ada.post(START, json={}) for _ in range(5)]
        assert [answer.status_code for answer in answers].count(202) == 3
        assert (answers[4].json()["code"], answers[4].headers["Retry-After"]) == ("rate_limited", "1")
        noted = [record.__dict__["fields"] for record in caplog.records if "event" in record.__dict__]
        assert noted == [{"tenant": TENANT, "caller": USERS["ada"]}]  # one line, for an operator who asks who it is
        assert (await bob.post(START, json={})).status_code == 202


async def test_waiters_are_bounded_for_each_caller_and_in_all() -> None:
    async with running_http_gateway(max_waiters_per_caller=1, max_waiters=2) as gateway, gateway.client() as ada:
        location = (await ada.post(START, json={})).headers["Location"]
        waiting = asyncio.create_task(ada.get(location, params={"wait": "60"}))
        await until(lambda: gateway.results.waiters.count == 1)
        assert (await ada.get(location, params={"wait": "60"})).status_code == 202  # at once
        assert (await ada.get(f"{location}/events")).status_code == 429
        waiting.cancel()


async def test_requests_under_way_are_bounded() -> None:
    async with running_http_gateway(max_active_requests=2) as gateway, gateway.client() as ada:
        gateway.queue.seconds = 0.5
        answers = await asyncio.gather(*(ada.post(START, json={}) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 503, 503]
        location = next(answer.headers["Location"] for answer in answers if answer.status_code == 202)
        polls = [asyncio.create_task(ada.get(location, params={"wait": "60"})) for _ in range(3)]
        await until(lambda: gateway.results.waiters.count == 3)
        assert (await ada.get(location)).status_code == 202  # a waiting request does not count
        for poll in polls:
            poll.cancel()


async def test_flows_are_listed_by_role(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        found = (await ada.get("/v1/flows")).json()["flows"]
    assert [(flow["name"], flow["title"], flow["privilege_checked"]) for flow in found] == [
        ("create-quote", "Create a quote", True),
        ("free-form", "free-form", True),
    ]
    assert found[0]["input_schema"]["properties"] == {"customer": {"type": "string"}}


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", START, 405, "POST"),
        ("HEAD", "/v1/requests/abc", 405, "GET"),
        ("DELETE", "/v1/requests/abc", 405, "GET"),
        ("POST", "/v1/flows", 405, "GET"),
        ("GET", "/nothing", 404, None),
        ("GET", "/v1/requests/abc/", 404, None),
        ("PROPFIND", "/v1/flows", 405, "GET"),
        ("BREW", "/v1/flows", 400, None),
    ],
)
async def test_other_methods_and_paths_are_problems(
    gateway: HttpGateway, method: str, path: str, status: int, allow: str | None
) -> None:
    async with gateway.client() as ada:
        answer = await ada.request(method, path)
    assert (answer.status_code, answer.headers.get("Allow")) == (status, allow)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "aiohttp" not in str(answer.headers)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (ORIGIN, True),
        ("https://app.powerapps.example.com", True),
        ("https://a.b.powerapps.example.com", False),
        ("https://powerapps.example.com", False),
        ("https://evilpowerapps.example.com", False),
        ("https://contoso.crm4.dynamics.com.evil.example", False),
        ("http://contoso.crm4.dynamics.com", False),
        ("https://contoso.crm4.dynamics.com:8443", False),
        ("null", False),
        ("*", False),
    ],
)
async def test_only_pages_of_the_origins_in_the_settings_may_call(
    gateway: HttpGateway, origin: str, is_allowed: bool
) -> None:
    asks = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    async with gateway.client(None) as browser, gateway.client() as ada:
        preflight = await browser.options(START, headers=asks)
        answer = await ada.post(START, json={}, headers={"Origin": origin})
    assert preflight.status_code == 204
    allowed = origin if is_allowed else None
    assert preflight.headers.get("Access-Control-Allow-Origin") == allowed
    assert preflight.headers.get("Access-Control-Allow-Methods") == ("POST" if is_allowed else None)
    assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    assert "Access-Control-Allow-Credentials" not in answer.headers
    if is_allowed:
        assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
        assert answer.headers["Access-Control-Expose-Headers"] == "Location, Preference-Applied, Retry-After"


async def test_a_privilege_that_only_the_worker_checks_hides_which_flows_exist() -> None:
    flows: dict[str, dict[str, object]] = {
        "private": {"privilege": "prvCreatenew_quote", "input_schema": False},
        "other": {"role": "Admins"},
    }
    async with running_http_gateway(flows) as gateway, gateway.client() as ada:
        for flow in ("private", "other", "no-such-flow"):
            assert (await ada.post(f"/v1/flows/{flow}/requests", json={})).status_code == 202
        listed = (await ada.get("/v1/flows")).json()["flows"]
    assert [(flow["name"], flow["privilege_checked"]) for flow in listed] == [("private", False)]


async def test_no_token_reaches_the_log(gateway: HttpGateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway.client("bob~SecretRole") as bob, gateway.client("nobody~SecretRole") as nobody:
        await bob.post(START, json={"customer": "SecretInput"})
        await nobody.post(START, json={"customer": "SecretInput"})
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any("Secret" in record.getMessage() + str(record.__dict__.get("fields")) for record in ours)
