"""A request's row: its ID, its content, and what each answer of Dataverse means for the delivery."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest

from flow_contracts.result import FlowError, FlowRun, Status
from flow_worker.delivery.column_text import length
from flow_worker.delivery.dataverse_row import DataverseRowSink, Fallback, RowRules
from flow_worker.delivery.port import Asker, Attempt, Delivered, Delivery, GiveUp, Postponed, RetryLater
from flow_worker.delivery.row_content import RowTable
from flow_worker.delivery.row_ids import row_id
from flow_worker.settings.sinks import RowSinkFields
from tests.support.scripted_dataverse import CREATED, NOW, OID, OWN_ROW, ROW, ScriptedDataverse, delivery, error, result

OTHER = "a1b2c3d4-0000-4000-8000-0000000b0b00"
FORBIDDEN = ("0x80040220", "SecLib::AccessCheckEx failed, missing prvActOnBehalfOfAnotherUser")


def sink(
    dataverse: ScriptedDataverse,
    fields: RowSinkFields | None = None,
    *,
    impersonates: bool = False,
    fallback: Fallback = "retry",
    url: str | None = None,
) -> DataverseRowSink:
    fields = fields or RowSinkFields()
    table = RowTable(fields.set_name, fields.column_names, fields.status_choices, fields.max_output_characters)
    rules = RowRules(table, writes_pending=True, impersonates=impersonates, fallback=fallback)
    return DataverseRowSink("rows", dataverse.organizations(url), rules)


async def attempt(dataverse: ScriptedDataverse, what: Delivery | None = None, **options: Any) -> Attempt:
    return await sink(dataverse, **options).deliver(what or delivery(result()))


async def written(what: Delivery, fields: RowSinkFields | None = None) -> dict[str, Any]:
    dataverse = ScriptedDataverse()
    assert await sink(dataverse, fields).deliver(what) == (CREATED if what.result is None else Delivered())
    return dataverse.content()


# --- the ID -----------------------------------------------------------------------------------------------------------


async def test_the_row_has_the_documented_id_of_the_request_and_a_replay_has_the_same() -> None:
    namespace = uuid.UUID("c67bed8d-dbe4-5568-93a0-a712f4ed7ff3")
    assert row_id("m-1") == str(uuid.uuid5(namespace, "m-1"))
    dataverse = ScriptedDataverse()
    rows = sink(dataverse)
    await rows.deliver(delivery(result()))
    await rows.deliver(delivery(result(), message_id="replay-1", replay_of="m-1"))
    assert {request.url.path for request in dataverse.writes} == {
        f"/api/data/v9.2/new_flowrequests({row_id('m-1')})",
    }
    assert dataverse.content()["new_messageid"] == "m-1"
    assert dataverse.content()["new_replayedas"] == "replay-1"


def test_an_id_of_odd_characters_has_a_row_too() -> None:
    assert len({row_id("a"), row_id("A"), row_id("ä/%'()"), row_id("\ud800")}) == 4


# --- pending and end --------------------------------------------------------------------------------------------------


async def test_a_pending_row_is_created_and_never_replaces_an_end() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(error(412, "0x80060891"))
    assert await attempt(dataverse, delivery()) == Delivered(note="exists")
    (write,) = dataverse.writes
    assert (write.method, write.headers["if-none-match"]) == ("PATCH", "*")
    content = dataverse.content()
    assert content["new_status"] == "pending"
    assert content["new_acceptedon"] == "2026-11-30T17:00:00Z"
    assert content["new_asker"] == OID
    assert "new_output" not in content


async def test_an_end_is_written_whatever_the_row_held() -> None:
    dataverse = ScriptedDataverse()
    assert await attempt(dataverse) == Delivered()
    assert "if-none-match" not in dataverse.writes[0].headers
    content = dataverse.content()
    assert content["new_status"] == "succeeded"
    assert {content["new_code"], content["new_message"], content["new_output"]} == {None}, "an earlier end is cleared"


async def test_a_refusal_without_a_journal_entry_replaces_nothing() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(error(412))
    refused = result(Status.REFUSED, flow=None, error=FlowError(code="message_id_conflict", message="no"))
    assert await attempt(dataverse, delivery(refused, is_owner=False)) == Delivered(note="exists")
    assert dataverse.writes[0].headers["if-none-match"] == "*"


@pytest.mark.parametrize("status", list(Status))
async def test_each_status_is_a_text_or_the_choice_of_the_settings(status: Status) -> None:
    assert (await written(delivery(result(status))))["new_status"] == status.value
    names = ["pending", *(each.value for each in Status)]
    fields = RowSinkFields(status_choices={name: 100000000 + n for n, name in enumerate(names)})  # type: ignore[misc]
    assert (await written(delivery(result(status)), fields))["new_status"] == 100000000 + names.index(status.value)
    assert (await written(delivery(), fields))["new_status"] == 100000000


async def test_the_end_has_all_that_the_result_says_and_nothing_secret() -> None:
    run = FlowRun(run_id="08585", tracking={"x-ms-request-id": "secret-tracking"})
    error_ = FlowError(code="http_500", message="The flow failed.")
    found = result(Status.FAILED, error=error_, http_status=500, attempts=3, run=run, note="n")
    content = await written(delivery(found))
    assert content == {
        "new_name": "create-quote c-1",
        "new_messageid": "m-1",
        "new_correlationid": "c-1",
        "new_flow": "create-quote",
        "new_asker": OID,
        "new_replayedas": None,
        "new_acceptedon": "2026-11-30T17:00:00Z",
        "new_finishedon": "2026-11-30T17:00:00Z",
        "new_status": "failed",
        "new_code": "http_500",
        "new_message": "The flow failed.",
        "new_output": None,
        "new_outputtype": None,
        "new_outputencoding": None,
        "new_httpstatus": 500,
        "new_attempts": 3,
        "new_note": "n",
        "new_runid": "08585",
        "new_runurl": None,
        "new_settledby": None,
    }


async def test_columns_can_be_renamed_and_left_out() -> None:
    fields = RowSinkFields.model_validate(
        {
            "publisher_prefix": "cr1",
            "table": "cr1_quote",
            "entity_set": "cr1_quotes",
            "columns": {"status": "cr1_state", "output": "", "asker": ""},
        }
    )
    dataverse = ScriptedDataverse()
    await sink(dataverse, fields).deliver(delivery(result(output={"a": 1}, output_encoding="json")))
    content = dataverse.content()
    assert dataverse.writes[0].url.path.startswith("/api/data/v9.2/cr1_quotes(")
    assert content["cr1_state"] == "succeeded"
    assert not {"cr1_output", "cr1_asker", "new_status"} & content.keys()
    assert content["cr1_code"] is None, "an output that nobody wants is not too large"


async def test_a_flow_that_the_sender_may_not_learn_of_is_not_named() -> None:
    refused = result(Status.REFUSED, flow=None, error=FlowError(code="flow_not_allowed", message="no"))
    content = await written(delivery(refused, flow="secret-flow"))
    assert "secret-flow" not in json.dumps(content)
    assert not {"new_flow", "new_name"} & content.keys(), "what the pending row says stays"


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "encoding", "text"),
    [
        ({"a": [1, None, "ä"]}, "json", '{"a":[1,null,"ä"]}'),
        ("text", "json", '"text"'),
        ("text", "text", "text"),
        ("aGk=", "base64", "aGk="),
        (None, "json", "null"),
        (0, "json", "0"),
        # Dataverse refuses characters that XML lacks. JSON can escape them; text cannot.
        ({"a": "\x00\x1b\ud800\uffff\U0001f600"}, "json", '{"a":"\\u0000\\u001b\\ud800\\uffff\U0001f600"}'),
        ("a\x00b\x0b\ud800\ufffe\t\r\n", "text", "a\ufffdb\ufffd\ufffd\ufffd\t\r\n"),
    ],
)
async def test_an_output_is_text_that_a_column_accepts(output: Any, encoding: str, text: str) -> None:
    content = await written(delivery(result(output=output, output_encoding=encoding)))
    assert content["new_output"] == text
    assert content["new_outputencoding"] == encoding
    if encoding == "json":
        assert json.loads(text) == output


async def test_odd_characters_of_every_other_text_are_replaced_and_long_texts_are_cut() -> None:
    said = FlowError(code="http_500", message="\x01" + "\U0001f600" * 3000)
    content = await written(
        delivery(result(Status.FAILED, error=said, correlation_id="c"), correlation_id="\ud800c\x00")
    )
    assert content["new_correlationid"] == "\ufffdc\ufffd"
    assert content["new_message"].startswith("\ufffd\U0001f600")
    assert length(content["new_message"]) <= 2000
    assert content["new_message"].endswith("\U0001f600…"), "no half of a character"


@pytest.mark.parametrize(("limit", "fits"), [(4, True), (3, False), (0, False)])
async def test_an_output_beyond_its_column_is_left_out_with_the_contracts_code(limit: int, fits: bool) -> None:
    fields = RowSinkFields(max_output_characters=limit)
    content = await written(delivery(result(output="\U0001f600\U0001f600", output_encoding="text")), fields)
    assert content["new_output"] == ("\U0001f600\U0001f600" if fits else None)
    assert content["new_code"] == (None if fits else "output_too_large")
    assert content["new_status"] == "succeeded"


async def test_an_output_of_a_mebibyte_fits_and_another_error_stays() -> None:
    long = "x" * 1_048_576
    assert (await written(delivery(result(output=long, output_encoding="text"))))["new_output"] == long
    said = FlowError(code="http_500", message="The flow failed.")
    found = result(Status.FAILED, output=long + "x", output_encoding="text", error=said)
    content = await written(delivery(found))
    assert (content["new_output"], content["new_code"]) == (None, "http_500")


@pytest.mark.parametrize("answer", [error(400, "0x80044331", "The length of 'new_output' …"), httpx.Response(413)])
async def test_a_column_that_is_shorter_than_the_settings_say_gets_the_row_without_output(
    answer: httpx.Response,
) -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(answer)
    found = result(output="secret output", output_encoding="text")
    assert await attempt(dataverse, delivery(found)) == Delivered()
    assert dataverse.content()["new_code"] == "output_too_large"
    dataverse.script(answer, answer)
    given_up = await attempt(dataverse, delivery(found))
    assert isinstance(given_up, GiveUp)
    assert "secret output" not in given_up.cause


# --- answers ----------------------------------------------------------------------------------------------------------


def page(status: int) -> httpx.Response:
    return httpx.Response(status, html="<html>Sign in to your account</html>")


@pytest.mark.parametrize(
    ("answer", "code", "is_outage"),
    [
        (error(403, *FORBIDDEN), "dataverse_forbidden", False),
        (
            error(404, "0x80060888", "Resource not found for the segment."),
            "dataverse_not_found",
            False,
        ),
        (error(500, "0x80040216"), "dataverse_unavailable", False),
        (error(503), "dataverse_unavailable", True),
        (page(502), "dataverse_unavailable", True),
        (page(504), "dataverse_unavailable", True),
        (page(200), "dataverse_unexpected", True),
        (httpx.Response(200, content=b'{"cut":'), "dataverse_unexpected", True),
        (httpx.Response(200, content=b"[" * 100_000), "dataverse_unexpected", True),
        (httpx.Response(200, content=b"x" * (2 << 20)), "dataverse_unexpected", True),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""), "dataverse_unexpected", True),
        (httpx.Response(302, headers={"location": "https://evil.example"}), "dataverse_unexpected", True),
        (page(405), "dataverse_unexpected", False),
        (httpx.ReadTimeout("secret"), "dataverse_unavailable", True),
        (httpx.RemoteProtocolError("secret"), "dataverse_unavailable", True),
        (OSError("secret"), "dataverse_unavailable", True),
    ],
)
async def test_what_an_operator_or_time_can_mend_is_tried_again(
    answer: httpx.Response | Exception, code: str, is_outage: bool
) -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(answer)
    found = await attempt(dataverse)
    assert isinstance(found, RetryLater)
    assert (found.code, found.is_outage) == (code, is_outage)
    assert "secret" not in found.cause
    assert "contoso" not in found.cause
    assert await attempt(dataverse) == Delivered()


@pytest.mark.parametrize(
    "answer",
    [
        error(400, "0x80048d19", "Cannot convert the literal 'secret' to the expected type 'Edm.Int32'."),
        error(400, "0x80040265", "ISV code aborted the operation: secret"),
        error(400, "not <a> code", "secret"),
        error(412, "0x80060892", "A record with matching key values already exists: secret"),
        page(400),
    ],
)
async def test_what_dataverse_refuses_for_good_is_given_up_without_repeating_its_text(answer: httpx.Response) -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(answer)
    found = await attempt(dataverse)
    assert isinstance(found, GiveUp)
    assert found.code == "dataverse_invalid"
    assert "new_flowrequests" in found.cause
    assert "secret" not in found.cause
    assert "<a>" not in found.cause


async def test_a_column_that_the_table_lacks_is_named_and_can_be_added() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(
        error(400, "0x0", "The property 'new_asker' does not exist on type 'Microsoft.Dynamics.CRM.new_flowrequest'.")
    )
    found = await attempt(dataverse)
    assert isinstance(found, RetryLater)
    assert found.code == "dataverse_column_unknown"
    assert "'new_asker'" in found.cause


async def test_a_refused_token_is_renewed_once() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(httpx.Response(401))
    assert await attempt(dataverse) == Delivered()
    assert dataverse.tokens == [False, True]
    dataverse.script(httpx.Response(401), httpx.Response(401))
    found = await attempt(dataverse)
    assert isinstance(found, RetryLater)
    assert found.code == "dataverse_unauthorized"


async def test_a_429_names_the_next_attempt_and_holds_back_every_other_request_until_then() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(error(429, "0x80072322", **{"retry-after": "30"}))
    rows = sink(dataverse)
    until = NOW + timedelta(seconds=30)
    for _ in range(2):
        found = await rows.deliver(delivery(result()))
        assert isinstance(found, RetryLater)
        assert (found.code, found.is_outage, found.not_before) == ("dataverse_throttled", True, until)
    assert len(dataverse.requests) == 1
    dataverse.now = until
    assert await rows.deliver(delivery(result())) == Delivered()


async def test_deliveries_leave_a_part_of_the_limit_to_the_queries_for_privileges() -> None:
    dataverse = ScriptedDataverse(max_requests=2)
    rows = sink(dataverse)
    assert [await rows.deliver(delivery(result())) for _ in range(2)] == [Delivered()] * 2
    until = NOW + timedelta(seconds=300)
    later = [await rows.deliver(delivery(result())) for _ in range(3)]
    assert later == [Postponed(until), Postponed(until), Postponed(until + timedelta(seconds=300))], "in turn"
    assert len(dataverse.requests) == 2
    answer = await dataverse.clients[0].get("/WhoAmI", is_urgent=True)
    assert answer.status == 200
    dataverse.now = until
    assert await rows.deliver(delivery(result())) == Delivered()


# --- impersonation ----------------------------------------------------------------------------------------------------


async def test_the_row_is_written_for_the_asker() -> None:
    dataverse = ScriptedDataverse()
    rows = sink(dataverse, impersonates=True)
    assert await rows.deliver(delivery(result())) == Delivered()
    assert await rows.deliver(delivery(result(), asker=Asker("organization", None, ROW))) == Delivered()
    headers = [request.headers for request in dataverse.writes]
    assert (headers[0]["callerobjectid"], headers[1]["mscrmcallerid"]) == (OID, ROW)
    assert "mscrmcallerid" not in headers[0]


@pytest.mark.parametrize(
    "answer",
    [
        error(403, *FORBIDDEN),
        error(403, "0x80072560"),
        error(400, "0x80040225"),
        error(401, "0x80072560"),
        error(404, "0x80040217"),
    ],
)
async def test_a_refused_impersonation_waits_for_an_administrator_and_writes_nothing_else(
    answer: httpx.Response,
) -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(answer, answer)
    found = await attempt(dataverse, impersonates=True)
    assert isinstance(found, RetryLater)
    assert found.code == "dataverse_impersonation_refused"
    assert "prvActOnBehalfOfAnotherUser" in found.cause
    assert all("callerobjectid" in request.headers for request in dataverse.writes)


@pytest.mark.parametrize("asker", [Asker("tenant", None), Asker("tenant", "x\r\nevil: 1"), Asker("t", None, "row")])
async def test_an_asker_without_an_id_cannot_be_impersonated(asker: Asker) -> None:
    dataverse = ScriptedDataverse()
    found = await attempt(dataverse, delivery(result(), asker=asker), impersonates=True)
    assert isinstance(found, RetryLater)
    assert dataverse.requests == []


async def test_a_row_id_of_another_organization_is_nobody() -> None:
    dataverse = ScriptedDataverse()
    known_by_row = delivery(result(), asker=Asker("organization", None, ROW))
    found = await attempt(dataverse, known_by_row, impersonates=True, url="https://copy.crm4.dynamics.com")
    assert isinstance(found, RetryLater)
    assert dataverse.requests == []


@pytest.mark.parametrize(("owner", "may"), [(OWN_ROW, True), (ROW.upper(), True), (OTHER, False), ("garbage", False)])
async def test_without_impersonation_the_worker_changes_only_its_own_row_and_the_askers(owner: str, may: bool) -> None:
    dataverse = ScriptedDataverse(owner=owner)
    dataverse.script(error(403, *FORBIDDEN), error(412))
    found = await attempt(dataverse, impersonates=True, fallback="own")
    assert (found == Delivered()) == may
    assert len(dataverse.writes) == (3 if may else 2)
    if not may:
        assert isinstance(found, GiveUp)
        assert found.code == "dataverse_row_of_another"


async def test_without_impersonation_the_worker_creates_the_row() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(error(403, *FORBIDDEN))
    assert await attempt(dataverse, impersonates=True, fallback="own") == CREATED
    assert dataverse.writes[-1].headers["if-none-match"] == "*"
    assert "callerobjectid" not in dataverse.writes[-1].headers
