"""What a flow's answer, or the lack of one, means for the request: a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import JsonValue

from contracts.result import FlowError, FlowRun, OutputEncoding, Status, output_of
from worker.errors import CallFailed
from worker.flows.invoker import Answer
from worker.flows.registry import Flow

_MAX_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended. The fields are those of `FlowResult`."""

    status: Status
    error: FlowError | None = None
    output: JsonValue = None
    output_type: str | None = None
    output_encoding: OutputEncoding | None = None
    http_status: int | None = None
    run: FlowRun | None = None


def judge(answer: Answer) -> Verdict:
    """2xx is `succeeded`; anything else is `failed`, with the flow's own error where it has one."""
    run = FlowRun(run_id=answer.run_id, tracking=dict(answer.tracking))
    if answer.body is None:
        error = FlowError(code="output_too_large", message="The flow's answer is larger than the worker reads.")
        status = Status.SUCCEEDED if 200 <= answer.status < 300 else Status.FAILED
        return Verdict(status, error, http_status=answer.status, run=run)
    output, output_type, encoding = output_of(answer.body, answer.content_type)
    if 200 <= answer.status < 300:
        return Verdict(Status.SUCCEEDED, None, output, output_type, encoding, answer.status, run)
    return Verdict(Status.FAILED, _flow_error(answer), output, output_type, encoding, answer.status, run)


def judge_failure(failure: CallFailed, flow: Flow) -> Verdict:
    """No answer: `failed` if the flow cannot have run, or may run again; `unknown` if it may have and may not."""
    certain = not failure.may_have_run or flow.idempotent
    status = Status.FAILED if certain else Status.UNKNOWN
    return Verdict(status, FlowError(code=failure.code, message=failure.message, retryable=certain))


def _flow_error(answer: Answer) -> FlowError:
    code, message = _error_in(answer.body or b"")
    return FlowError(
        code=code or f"http_{answer.status}",
        message=(message or f"The flow answered {answer.status}.")[:_MAX_MESSAGE_CHARACTERS],
        retryable=answer.status == 429,
    )


def _error_in(body: bytes) -> tuple[str | None, str | None]:
    """`error.code` and `error.message` of a Power Automate error body, None where it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return None, None
    code, message = error.get("code"), error.get("message")
    return (code[:200] if isinstance(code, str) else None, message if isinstance(message, str) else None)
