"""Builds example messages from the models, so that the examples always fit the schemas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from flow_contracts.message import Message
from flow_contracts.request import FlowRequest
from flow_contracts.result import SETTLED_BY_FLOW_RUN, FlowError, FlowResult, FlowRun, Status, Times

_MESSAGE_ID = "0d3c9a1e-7f0b-4a53-9d0c-3e6f0a8b5c21"
_CORRELATION_ID = "6f1f7d5e-9a44-4f0f-8a3e-2f6f4b1c9d77"
_REPLY_KEY = SecretStr("an-example-key-and-no-secret-0123456789")
_ACCEPTED = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def requests() -> dict[str, Message]:
    """Return request messages by name."""
    return {
        "a request with a claim": FlowRequest(
            flow="create-quote",
            input={"customer": "Contoso", "amount": 1250},
            claim=SecretStr("a token for the worker's own audience"),
            message_id=_MESSAGE_ID,
            correlation_id=_CORRELATION_ID,
            reply_to="flow-replies",
            reply_to_session_id=_CORRELATION_ID,
            time_to_live=timedelta(minutes=10),
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            reply_key=_REPLY_KEY,
        ).to_message(),
        "a request with the required fields only": FlowRequest(
            flow="notify-team",
            message_id=_MESSAGE_ID,
            correlation_id=_MESSAGE_ID,
            reply_to_session_id=_MESSAGE_ID,
        ).to_message(),
    }


def results() -> dict[str, Message]:
    """Return result messages by name."""
    return {
        name: result.to_message(_CORRELATION_ID, timedelta(days=1), reply_key=_REPLY_KEY)
        for name, result in _results().items()
    }


def _results() -> dict[str, FlowResult]:
    return {
        "a flow that responded": FlowResult(
            status=Status.SUCCEEDED,
            flow="create-quote",
            output={"quote": "Q-1001", "total": 1250},
            output_type="application/json; charset=utf-8",
            output_encoding="json",
            http_status=200,
            attempts=1,
            run=FlowRun(
                run_id="08584272193745028741193724650CU27",
                tracking={"x-ms-client-tracking-id": _CORRELATION_ID},
            ),
            times=Times(
                accepted=_ACCEPTED,
                started=_ACCEPTED + timedelta(milliseconds=40),
                finished=_ACCEPTED + timedelta(milliseconds=900),
            ),
            correlation_id=_CORRELATION_ID,
            request_message_id=_MESSAGE_ID,
        ),
        "a sender without the role": FlowResult(
            status=Status.REFUSED,
            flow="create-quote",
            error=FlowError(
                code="flow_not_allowed",
                message="This sender may start no flow of this name. Check the name, or ask an administrator.",
            ),
            times=Times(accepted=_ACCEPTED, finished=_ACCEPTED + timedelta(milliseconds=20)),
            correlation_id=_CORRELATION_ID,
            request_message_id=_MESSAGE_ID,
        ),
        "a call without a response": FlowResult(
            status=Status.UNKNOWN,
            flow="create-quote",
            error=FlowError(code="flow_no_answer", message="The worker called the flow, but got no response."),
            attempts=1,
            times=Times(accepted=_ACCEPTED, started=_ACCEPTED, finished=_ACCEPTED + timedelta(minutes=2)),
            correlation_id=_CORRELATION_ID,
            request_message_id=_MESSAGE_ID,
        ),
        "a settling result": FlowResult(
            status=Status.SUCCEEDED,
            flow="create-quote",
            note="settled_without_output",
            attempts=1,
            run=FlowRun(run_id="08584272193745028741193724650CU27"),
            times=Times(accepted=_ACCEPTED, started=_ACCEPTED, finished=_ACCEPTED + timedelta(minutes=12)),
            correlation_id=_CORRELATION_ID,
            request_message_id=_MESSAGE_ID,
            settled_by=SETTLED_BY_FLOW_RUN,
            run_url="https://make.powerautomate.com/environments/e/flows/f/runs/08584272193745028741193724650CU27",
        ),
    }
