"""An in-app notification: who gets it, what it says, and that a repeated attempt makes no second one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from flow_contracts.result import FlowError, Status
from flow_worker.delivery.in_app_notification import InAppNotificationSink, NotificationRules
from flow_worker.delivery.notification_content import NotificationTexts
from flow_worker.delivery.port import Asker, Delivered, RetryLater
from flow_worker.delivery.row_ids import notification_id, row_id
from flow_worker.settings.sinks import NotificationSinkFields
from tests.support.scripted_dataverse import CREATED, OID, ROW, ScriptedDataverse, delivery, error, result

EVERY = [status.value for status in Status]
TEXTS = NotificationTexts({}, {}, "timed", 60, "Open", {"create-quote": "Create a quote"})


def sink(dataverse: ScriptedDataverse, *, url: str | None = None, **changes: Any) -> InAppNotificationSink:
    rules = replace(NotificationRules(EVERY, TEXTS, "new_flowrequest"), **changes)
    return InAppNotificationSink("bell", dataverse.organizations(url), rules)


async def test_the_asker_gets_one_notification_under_an_id_that_follows_from_the_request() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(httpx.ReadError("the answer is lost"), error(412))
    bell = sink(dataverse)
    assert isinstance(await bell.deliver(delivery(result())), RetryLater)
    assert await bell.deliver(delivery(result())) == Delivered(note="exists")
    assert dataverse.content(0) == dataverse.content(1)
    assert {request.method for request in dataverse.writes} == {"POST"}
    assert len(dataverse.requests) == 3, "the user is looked up once"
    assert dataverse.content() == {
        "appnotificationid": notification_id("m-1", "ended", Asker(None, OID)),
        "title": "Create a quote is done",
        "body": "The flow succeeded.",
        "ownerid@odata.bind": f"/systemusers({ROW})",
        "icontype": 100000001,
        "toasttype": 200000000,
        "ttlinseconds": 60,
        "data": json.dumps(
            {
                "actions": [
                    {
                        "title": "Open",
                        "data": {
                            "type": "url",
                            "url": f"?pagetype=entityrecord&etn=new_flowrequest&id={row_id('m-1')}",
                            "navigationTarget": "newWindow",
                        },
                    }
                ]
            },
            separators=(",", ":"),
        ),
    }


async def test_each_end_each_replay_and_each_user_has_a_notification_of_its_own() -> None:
    dataverse = ScriptedDataverse(users={OID: ROW, OID.replace("6b", "7b"): ROW})
    bell = sink(dataverse)
    await bell.deliver(delivery(result(Status.UNKNOWN)))
    await bell.deliver(delivery(result(), state="settled"))
    await bell.deliver(delivery(result(), message_id="replay", replay_of="m-1"))
    # A second sender that uses the message ID of the first gets a refusal.
    other = Asker("tenant", OID.replace("6b", "7b"))
    await bell.deliver(delivery(result(Status.REFUSED), asker=other, is_owner=False))
    assert len({dataverse.content(number)["appnotificationid"] for number in range(4)}) == 4


async def test_a_late_attempt_at_the_first_end_and_the_attempt_at_its_settlement_tell_it_once() -> None:
    dataverse = ScriptedDataverse()
    bell = sink(dataverse)
    settled = result(settled_by="flow_run")
    await bell.deliver(delivery(settled, state="ended"))
    await bell.deliver(delivery(settled, state="settled"))
    assert len({dataverse.content(number)["appnotificationid"] for number in range(2)}) == 1


async def test_a_status_that_is_not_chosen_does_not_notify_although_the_delivery_was_opened_for_another() -> None:
    dataverse = ScriptedDataverse()
    bell = sink(dataverse, statuses=frozenset({"unknown"}))
    assert await bell.deliver(delivery(result(settled_by="flow_run"), state="ended")) == Delivered()
    assert dataverse.writes == []


async def test_the_user_is_found_by_a_filter_because_the_key_would_create_one() -> None:
    dataverse = ScriptedDataverse()
    await sink(dataverse).deliver(delivery(result()))
    query = dataverse.requests[0].url
    assert query.path.endswith("/systemusers")
    assert query.params["$filter"] == f"azureactivedirectoryobjectid eq {OID}"


@pytest.mark.parametrize("asker", [Asker("t", OID.replace("6b", "7b")), Asker("t", None), Asker("t", "x")])
async def test_an_asker_who_is_no_user_gets_none(asker: Asker) -> None:
    dataverse = ScriptedDataverse()
    assert await sink(dataverse).deliver(delivery(result(), asker=asker)) == Delivered(note="no_recipient")
    assert dataverse.writes == []


async def test_a_row_is_a_recipient_only_in_the_organization_that_named_it() -> None:
    dataverse = ScriptedDataverse()
    found = delivery(result(), asker=Asker("organization", None, ROW))
    assert await sink(dataverse).deliver(found) == CREATED
    elsewhere = sink(dataverse, url="https://copy.crm4.dynamics.com")
    assert await elsewhere.deliver(found) == Delivered(note="no_recipient")


@pytest.mark.parametrize("status", list(Status))
async def test_each_status_has_a_text_and_an_icon(status: Status) -> None:
    dataverse = ScriptedDataverse()
    said = None if status is Status.SUCCEEDED else FlowError(code="code", message="The cause.")
    await sink(dataverse).deliver(delivery(result(status, error=said)))
    content = dataverse.content()
    assert content["title"].startswith("Create a quote")
    assert content["body"] == ("The flow succeeded." if said is None else "The cause.")
    assert content["icontype"] in {100000001, 100000002, 100000003}


async def test_texts_are_those_of_the_settings_and_nothing_in_a_result_can_break_them() -> None:
    dataverse = ScriptedDataverse()
    texts = replace(TEXTS, titles={"failed": "{flow}: {code}"}, bodies={"failed": "{{{message}}} {correlation_id}"})
    said = FlowError(code="code", message="{flow.__class__}\x00\ud800" + "x" * 900)
    await sink(dataverse, texts=texts).deliver(delivery(result(Status.FAILED, error=said)))
    content = dataverse.content()
    assert content["title"] == "Create a quote: code"
    assert content["body"].startswith("{{flow.__class__}\ufffd\ufffdxxx")
    assert len(content["body"]) == 500


async def test_a_notification_without_a_row_has_no_action_and_a_hidden_flow_no_name() -> None:
    dataverse = ScriptedDataverse()
    await sink(dataverse, table=None).deliver(delivery(result(Status.REFUSED, flow=None), flow="secret-flow"))
    assert "data" not in dataverse.content()
    assert dataverse.content()["title"] == "The request was refused"
    assert "secret-flow" not in str(dataverse.content())


def test_only_chosen_statuses_notify_and_pending_never_does() -> None:
    bell = sink(ScriptedDataverse(), statuses=frozenset({"failed"}))
    assert bell.wants(delivery(result(Status.FAILED)))
    assert not bell.wants(delivery(result()))
    assert not sink(ScriptedDataverse()).wants(delivery())


async def test_a_missing_privilege_is_named() -> None:
    dataverse = ScriptedDataverse()
    dataverse.script(error(403, "0x80040220", "secret"))
    found = await sink(dataverse).deliver(delivery(result()))
    assert isinstance(found, RetryLater)
    assert "'appnotification'" in found.cause
    assert "secret" not in found.cause


@pytest.mark.parametrize("text", ["{input}", "{flow", "{}", "{0}", "{flow!r}", "{flow:>9}", "{flow.x}", "x" * 101])
def test_a_text_that_names_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        NotificationSinkFields.model_validate({"titles": {"failed": text}})
