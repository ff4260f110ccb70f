"""Judges a flow's answer, or the lack of one, and decides the request's next step. All functions are pure.

The error code counts before the status, because the platform returns the same code with different statuses. The writer
of an error counts too. An error of the platform from before a run allows another call for any flow. The worker repeats
a call that went out and got no answer only for an idempotent flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from flow_contracts.result import FlowError, FlowRun, OutputEncoding
from flow_worker.clock import retry_after
from flow_worker.errors import CallFailed
from flow_worker.flows import platform
from flow_worker.flows.answer import TOO_LARGE, Answer
from flow_worker.flows.invoker import STATUS_URL_NOT_ALLOWED, STATUS_URL_NOT_SIGNED
from flow_worker.flows.platform import ErrorBody
from flow_worker.flows.registry import Flow
from flow_worker.flows.status_url import PollAccess

_MAX_CODE_CHARACTERS = 200
_MAX_MESSAGE_CHARACTERS = 1000

ACCEPTED_WITHOUT_RESPONSE = "accepted_without_response"
_OUTAGES = frozenset({"flow_unreachable"})
"""The failures of a call that no input can cause. An input can cause a timeout: it may make the flow slow."""
_STATUS_URL_REFUSALS: Mapping[str, str] = {
    STATUS_URL_NOT_ALLOWED: (
        "The flow was started, but its status URL is malformed, or leads to a host or a port that the worker may not "
        "poll: check the flow's run history. If the host is right, add it to the worker's setting 'flow_hosts'."
    ),
    STATUS_URL_NOT_SIGNED: (
        "The flow was started, but its status URL leads to another workflow and carries no signature. The worker sends "
        "its token to the flow's own workflow only: check the flow's run history."
    ),
}
_RUN_NOT_READABLE = frozenset({401, 403, 404, 410})


class VerdictKind(StrEnum):
    """The next step for the request."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Final; the error says how to fix it."""
    RETRY = "retry"
    """Another call or status poll, not before `Verdict.not_before`."""
    ACCEPTED = "accepted"
    """The run continues; a status poll of `Verdict.status_url` will report its end."""
    UNKNOWN = "unknown"
    """The flow may have run and must not be called again."""


class FlowHealth(StrEnum):
    """The evidence of a call for the flow's health, whatever the call means for the request."""

    HEALTHY = "healthy"
    THROTTLED = "throttled"
    UNHEALTHY = "unhealthy"
    """The flow or its host is down."""
    RUN_FAILED = "run_failed"
    """No answer came, and the request's input may be the reason: the calls of other senders may succeed."""
    NEUTRAL = "neutral"
    """No evidence: the worker itself broke off the call."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a call. Most fields are those of `FlowResult`; a RETRY carries them for the last attempt."""

    kind: VerdictKind
    error: FlowError | None = None
    output: JsonValue = field(default=None, repr=False)
    output_type: str | None = None
    output_encoding: OutputEncoding | None = None
    http_status: int | None = None
    run: FlowRun | None = None
    note: str | None = None
    not_before: datetime | None = None
    """For RETRY and ACCEPTED: the time that the answer's Retry-After asks for."""
    fresh_token: bool = False
    """For RETRY: the next call needs a new token that comes from no cache."""
    status_url: str | None = field(default=None, repr=False)
    output_bytes: int = 0
    """A lower bound of the output's size in a result; see `Content.output_bytes`."""
    health: FlowHealth = FlowHealth.HEALTHY


def judge(answer: Answer, flow: Flow, *, now: datetime, fresh_token: bool) -> Verdict:
    """Return the verdict on the answer to a call. `fresh_token`: the call carried a token that came from no cache."""
    if answer.status == 202 and answer.location is not None:
        return _accepted(answer, flow, answer.location, now)
    # A large body comes from the flow: the platform's errors are small.
    if 200 <= answer.status < 300 or answer.content is TOO_LARGE:
        return _flow_answer(answer)
    error = platform.read_error(answer.content)
    if not platform.is_from_platform(answer, error):
        return _flow_error(answer, flow, error, now)
    # Before the status: "NoResponse" and its like come with several statuses, and a run may have begun behind them.
    if platform.may_hide_a_run(answer, error):
        return _unanswered(answer, flow, error, now)
    if answer.status == 429:
        return _retry(answer, error, now, FlowHealth.THROTTLED)
    if answer.status == 401 and platform.may_need_new_token(error):
        return _token_refused(answer, error, now, fresh_token=fresh_token)
    return _platform_error(VerdictKind.FAILED, answer, error, platform.remedy(error, answer.status))


def judge_failure(failure: CallFailed, flow: Flow) -> Verdict:
    """Return the verdict on a call without an answer."""
    may_repeat = flow.idempotent or not failure.may_have_run
    return Verdict(
        VerdictKind.RETRY if may_repeat else VerdictKind.UNKNOWN,
        FlowError(code=failure.code, message=failure.message, retryable=may_repeat),
        health=_health_after(failure),
    )


def _health_after(failure: CallFailed) -> FlowHealth:
    if not failure.counts_against_flow:
        return FlowHealth.NEUTRAL
    return FlowHealth.UNHEALTHY if failure.code in _OUTAGES else FlowHealth.RUN_FAILED


def judge_poll(
    response: Answer | CallFailed, flow: Flow, *, status_url: str, now: datetime, fresh_token: bool
) -> Verdict:
    """Return the verdict on a status poll. Any flow's run may be polled again; only calls must not be repeated.

    A failed poll is no evidence for the flow's health, and opens no circuit breaker. The limit of failed polls per run
    makes sure that polling ends.
    """
    if isinstance(response, CallFailed):
        if response.code in _STATUS_URL_REFUSALS:
            return _status_url_refused(response.code, None)
        error = FlowError(code=response.code, message=response.message)
        return Verdict(VerdictKind.RETRY, error, health=FlowHealth.NEUTRAL)
    verdict = _judge_status(response, flow, status_url, now, fresh_token=fresh_token)
    # The run ID is known from the call; a poll's answer without one must not erase it.
    return verdict if response.run_id is not None else replace(verdict, run=None)


def _judge_status(answer: Answer, flow: Flow, status_url: str, now: datetime, *, fresh_token: bool) -> Verdict:
    if answer.status == 202:
        return _accepted(answer, flow, answer.location or status_url, now)
    if 200 <= answer.status < 300 or answer.content is TOO_LARGE:
        return _flow_answer(answer)
    error = platform.read_error(answer.content)
    if not platform.is_from_platform(answer, error):
        return _flow_answer(answer, error)
    if answer.status == 429 or platform.may_hide_a_run(answer, error):
        return _retry(answer, error, now, FlowHealth.NEUTRAL)
    if answer.status == 401 and not fresh_token:
        return replace(_retry(answer, error, now, FlowHealth.HEALTHY), fresh_token=True)
    if answer.status in _RUN_NOT_READABLE or answer.status < 400:
        advice = "The flow ran, but the worker cannot read how it ended: check its run history."
        return _platform_error(VerdictKind.UNKNOWN, answer, error, f"{advice} {platform.remedy(error, answer.status)}")
    # A status URL returns the response of the run itself. So any other error, even in the platform's form, is the end
    # of the run as the flow wrote it.
    return _flow_answer(answer, error)


# --- the flow's own answers --------------------------------------------------------------------------------------


def _flow_answer(answer: Answer, error: ErrorBody | None = None) -> Verdict:
    """Return the flow's Response, unchanged. An error says why the worker did not read its body."""
    succeeded = 200 <= answer.status < 300
    kind = VerdictKind.SUCCEEDED if succeeded else VerdictKind.FAILED
    if answer.content.unread is not None:
        return _with_output(kind, answer, answer.content.unread)
    verdict = _with_output(kind, answer)
    if not succeeded:
        return replace(verdict, error=_error_of_flow(answer, error or platform.read_error(answer.content)))
    is_empty = answer.status == 202 and answer.content.size == 0
    return replace(verdict, note=ACCEPTED_WITHOUT_RESPONSE) if is_empty else verdict


def _with_output(kind: VerdictKind, answer: Answer, error: FlowError | None = None) -> Verdict:
    content = answer.content
    return Verdict(
        kind,
        error,
        content.output,
        content.output_type,
        content.encoding,
        answer.status,
        _run(answer),
        output_bytes=content.output_bytes,
    )


def _flow_error(answer: Answer, flow: Flow, error: ErrorBody, now: datetime) -> Verdict:
    """Return the flow's error as its answer. Only the 429 of an idempotent flow is a request to retry."""
    verdict = _flow_answer(answer, error)
    if answer.status == 429 and flow.idempotent:
        not_before = retry_after(answer.retry_after, now)
        # The platform did not write this 429, and the input may have caused it: it must not pause the other senders.
        return replace(verdict, kind=VerdictKind.RETRY, not_before=not_before, health=FlowHealth.RUN_FAILED)
    return verdict


def _error_of_flow(answer: Answer, error: ErrorBody) -> FlowError:
    return _error(error.code or _status_code(answer), error.message or f"The flow answered {answer.status}.")


# --- the platform's answers --------------------------------------------------------------------------------------


def _accepted(answer: Answer, flow: Flow, status_url: str, now: datetime) -> Verdict:
    access = flow.status_hosts.access(status_url, flow.url)
    if access is PollAccess.REFUSED:
        return _status_url_refused(STATUS_URL_NOT_ALLOWED, answer)
    if access is PollAccess.NOT_SIGNED:
        return _status_url_refused(STATUS_URL_NOT_SIGNED, answer)
    return Verdict(
        VerdictKind.ACCEPTED,
        http_status=answer.status,
        run=_run(answer),
        not_before=retry_after(answer.retry_after, now),
        status_url=status_url,
    )


def _status_url_refused(code: str, answer: Answer | None) -> Verdict:
    error = _error(code, _STATUS_URL_REFUSALS[code])
    if answer is None:
        return Verdict(VerdictKind.UNKNOWN, error)
    return Verdict(VerdictKind.UNKNOWN, error, http_status=answer.status, run=_run(answer))


def _token_refused(answer: Answer, error: ErrorBody, now: datetime, *, fresh_token: bool) -> Verdict:
    """Call once more with a new token, as the cached one may be outdated. A second refusal is final."""
    if fresh_token:
        return _platform_error(VerdictKind.FAILED, answer, error, platform.remedy(error, answer.status))
    return replace(_retry(answer, error, now, FlowHealth.HEALTHY), fresh_token=True)


def _unanswered(answer: Answer, flow: Flow, error: ErrorBody, now: datetime) -> Verdict:
    health = FlowHealth.UNHEALTHY if platform.is_down(answer, error) else FlowHealth.RUN_FAILED
    if flow.idempotent:
        return _retry(answer, error, now, health)
    check = "The flow may have run, or still be running: check its run history before you send the request again."
    advice = f"{check} {platform.remedy(error, answer.status)}"
    return replace(_platform_error(VerdictKind.UNKNOWN, answer, error, advice), health=health)


def _retry(answer: Answer, error: ErrorBody, now: datetime, health: FlowHealth) -> Verdict:
    advice = platform.remedy(error, answer.status)
    verdict = _platform_error(VerdictKind.RETRY, answer, error, advice, retryable=True)
    return replace(verdict, not_before=retry_after(answer.retry_after, now), health=health)


def _platform_error(
    kind: VerdictKind, answer: Answer, error: ErrorBody, advice: str, *, retryable: bool = False
) -> Verdict:
    """Return a verdict on the platform's error. It keeps the body, since the body's writer is never certain."""
    message = f"{advice} (Power Automate: {error.message})" if error.message else advice
    return _with_output(kind, answer, _error(error.code or _status_code(answer), message, retryable=retryable))


def _error(code: str, message: str, *, retryable: bool = False) -> FlowError:
    return FlowError(code=code[:_MAX_CODE_CHARACTERS], message=message[:_MAX_MESSAGE_CHARACTERS], retryable=retryable)


def _status_code(answer: Answer) -> str:
    return f"http_{answer.status}"


def _run(answer: Answer) -> FlowRun:
    return FlowRun(run_id=answer.run_id, tracking=dict(answer.tracking))
