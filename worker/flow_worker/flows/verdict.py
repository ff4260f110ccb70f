"""What a flow's answer, or the lack of one, means for the request: pure functions.

Errors are judged by their code before their status (the same code comes with different statuses), and by who wrote
them: what the platform refused before a run may be tried again with any flow; what was sent and not answered only
with an idempotent one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from flow_contracts.result import FlowError, FlowRun, OutputEncoding, output_of
from flow_worker.clock import retry_after
from flow_worker.errors import CallFailed
from flow_worker.flows import platform
from flow_worker.flows.invoker import STATUS_URL_NOT_ALLOWED, Answer
from flow_worker.flows.platform import Said
from flow_worker.flows.registry import Flow

_MAX_CODE_CHARACTERS = 200
_MAX_MESSAGE_CHARACTERS = 1000

ACCEPTED_WITHOUT_RESPONSE = "accepted_without_response"
_RUN_NOT_READABLE = frozenset({401, 403, 404, 410})


class VerdictKind(StrEnum):
    """What is to become of the request."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """For good; the error says what to fix."""
    RETRY = "retry"
    """Not before `Verdict.not_before`."""
    ACCEPTED = "accepted"
    """The run goes on; `Verdict.status_url` will tell how it ends."""
    UNKNOWN = "unknown"
    """The flow may have run, and must not be called again."""


class FlowHealth(StrEnum):
    """What an answer says of the flow's health, whatever it means for the request."""

    HEALTHY = "healthy"
    THROTTLED = "throttled"
    UNHEALTHY = "unhealthy"
    NEUTRAL = "neutral"
    """Nothing: it was the worker that broke off."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended. Most fields are those of `FlowResult`; a RETRY has them for when attempts run out."""

    kind: VerdictKind
    error: FlowError | None = None
    output: JsonValue = field(default=None, repr=False)
    output_type: str | None = None
    output_encoding: OutputEncoding | None = None
    http_status: int | None = None
    run: FlowRun | None = None
    note: str | None = None
    not_before: datetime | None = None
    """For RETRY and ACCEPTED: what the answer's Retry-After asks for, if anything."""
    fresh_token: bool = False
    """For RETRY: the next call needs a token from past the cache."""
    status_url: str | None = field(default=None, repr=False)
    health: FlowHealth = FlowHealth.HEALTHY


def judge(answer: Answer, flow: Flow, *, now: datetime, fresh_token: bool) -> Verdict:
    """The verdict on the answer to a call. `fresh_token`: the call was made with a token fetched anew."""
    if answer.status == 202 and answer.location is not None:
        return _accepted(answer, flow, answer.location, now)
    if 200 <= answer.status < 300 or answer.body is None:
        return _own_answer(answer)
    said = platform.read(answer.body)
    if not platform.wrote(answer, said):
        return _own_error(answer, flow, said, now)
    if platform.is_no_answer(answer, said):
        return _unanswered(answer, flow, said, now)
    if answer.status == 429:
        return _retry(answer, said, now, FlowHealth.THROTTLED)
    if answer.status == 401 and said.code not in platform.REMEDIES.keys() - platform.TOKEN_TROUBLE:
        return _token_refused(answer, said, now, fresh_token=fresh_token)
    return _platform(VerdictKind.FAILED, answer, said, platform.remedy(said.code, answer.status))


def judge_failure(failure: CallFailed, flow: Flow) -> Verdict:
    """The verdict on a call that nobody answered."""
    again = flow.idempotent or not failure.may_have_run
    error = FlowError(code=failure.code, message=failure.message, retryable=again)
    return Verdict(
        VerdictKind.RETRY if again else VerdictKind.UNKNOWN,
        error,
        health=FlowHealth.UNHEALTHY if failure.counts_against_flow else FlowHealth.NEUTRAL,
    )


def judge_poll(
    happened: Answer | CallFailed, flow: Flow, *, status_url: str, now: datetime, fresh_token: bool
) -> Verdict:
    """The verdict on a look at a run's status URL. Asking again is safe for every flow; calling again is not.

    A look that failed is no health of anything but itself: looks are counted per run, so that each comes to an end.
    """
    if isinstance(happened, CallFailed):
        if happened.code == STATUS_URL_NOT_ALLOWED:
            return _status_url_not_allowed(None)
        return Verdict(
            VerdictKind.RETRY, FlowError(code=happened.code, message=happened.message), health=FlowHealth.NEUTRAL
        )
    verdict = _judge_status(happened, flow, status_url, now, fresh_token=fresh_token)
    # The run is known from the call; an answer that names none does not make it unknown.
    return verdict if happened.run_id is not None else replace(verdict, run=None)


def _judge_status(answer: Answer, flow: Flow, status_url: str, now: datetime, *, fresh_token: bool) -> Verdict:
    if answer.status == 202:
        return _accepted(answer, flow, answer.location or status_url, now)
    if 200 <= answer.status < 300 or answer.body is None:
        return _own_answer(answer)
    said = platform.read(answer.body)
    if not platform.wrote(answer, said):
        return _own_answer(answer, said)
    if answer.status == 429 or platform.is_no_answer(answer, said):
        return _retry(answer, said, now, FlowHealth.NEUTRAL)
    if answer.status == 401 and not fresh_token:
        return replace(_retry(answer, said, now, FlowHealth.HEALTHY), fresh_token=True)
    if answer.status in _RUN_NOT_READABLE or answer.status < 400:
        advice = "The flow ran, but how it ended cannot be read: look into its run history."
        return _platform(VerdictKind.UNKNOWN, answer, said, f"{advice} {platform.remedy(said.code, answer.status)}")
    return _own_answer(answer, said)


# --- the flow's own answers --------------------------------------------------------------------------------------


def _own_answer(answer: Answer, said: Said | None = None) -> Verdict:
    """The flow's Response, as it is. A body larger than the worker reads is left out, and said to be."""
    succeeded = 200 <= answer.status < 300
    kind = VerdictKind.SUCCEEDED if succeeded else VerdictKind.FAILED
    if answer.body is None:
        error = FlowError(code="output_too_large", message="The flow's answer is larger than the worker reads.")
        return Verdict(kind, error, http_status=answer.status, run=_run(answer))
    output, output_type, encoding = output_of(answer.body, answer.content_type)
    return Verdict(
        kind,
        None if succeeded else _own_words(answer, said or platform.read(answer.body)),
        output,
        output_type,
        encoding,
        answer.status,
        _run(answer),
        note=ACCEPTED_WITHOUT_RESPONSE if answer.status == 202 and not answer.body else None,
    )


def _own_error(answer: Answer, flow: Flow, said: Said, now: datetime) -> Verdict:
    """An error the flow wrote is its answer; only 'not now' is taken as a wish, where calling again does no harm."""
    verdict = _own_answer(answer, said)
    if answer.status == 429 and flow.idempotent:
        return replace(
            verdict,
            kind=VerdictKind.RETRY,
            not_before=retry_after(answer.retry_after, now),
            health=FlowHealth.THROTTLED,
        )
    return verdict


def _own_words(answer: Answer, said: Said) -> FlowError:
    return _error(said.code or _status_code(answer), said.message or f"The flow answered {answer.status}.")


# --- the platform's answers --------------------------------------------------------------------------------------


def _accepted(answer: Answer, flow: Flow, status_url: str, now: datetime) -> Verdict:
    if not flow.status_hosts.allow(status_url):
        return _status_url_not_allowed(answer)
    return Verdict(
        VerdictKind.ACCEPTED,
        http_status=answer.status,
        run=_run(answer),
        not_before=retry_after(answer.retry_after, now),
        status_url=status_url,
    )


def _status_url_not_allowed(answer: Answer | None) -> Verdict:
    error = _error(
        STATUS_URL_NOT_ALLOWED,
        "The flow was started, but its status URL leads to a host that the worker may not ask: look into the flow's "
        "run history; if the host is right, name it in the worker's setting 'flow_hosts'.",
    )
    if answer is None:
        return Verdict(VerdictKind.UNKNOWN, error)
    return Verdict(VerdictKind.UNKNOWN, error, http_status=answer.status, run=_run(answer))


def _token_refused(answer: Answer, said: Said, now: datetime, *, fresh_token: bool) -> Verdict:
    """Worth one more call with a token from past the cache; a second refusal is for good."""
    if fresh_token:
        return _platform(VerdictKind.FAILED, answer, said, platform.remedy(said.code, answer.status))
    return replace(_retry(answer, said, now, FlowHealth.HEALTHY), fresh_token=True)


def _unanswered(answer: Answer, flow: Flow, said: Said, now: datetime) -> Verdict:
    if flow.idempotent:
        return _retry(answer, said, now, FlowHealth.UNHEALTHY)
    look = "The flow may have run, or still be running: look into its run history before sending the request again."
    advice = f"{look} {platform.remedy(said.code, answer.status)}"
    return replace(_platform(VerdictKind.UNKNOWN, answer, said, advice), health=FlowHealth.UNHEALTHY)


def _retry(answer: Answer, said: Said, now: datetime, health: FlowHealth) -> Verdict:
    verdict = _platform(VerdictKind.RETRY, answer, said, platform.remedy(said.code, answer.status), retryable=True)
    return replace(verdict, not_before=retry_after(answer.retry_after, now), health=health)


def _platform(kind: VerdictKind, answer: Answer, said: Said, advice: str, *, retryable: bool = False) -> Verdict:
    """An end by the platform's error. Its body is kept: nobody is certain who wrote it."""
    words = f"{advice} (Power Automate: {said.message})" if said.message else advice
    error = _error(said.code or _status_code(answer), words, retryable=retryable)
    output, output_type, encoding = output_of(answer.body or b"", answer.content_type)
    return Verdict(kind, error, output, output_type, encoding, answer.status, _run(answer))


def _error(code: str, message: str, *, retryable: bool = False) -> FlowError:
    return FlowError(code=code[:_MAX_CODE_CHARACTERS], message=message[:_MAX_MESSAGE_CHARACTERS], retryable=retryable)


def _status_code(answer: Answer) -> str:
    return f"http_{answer.status}"


def _run(answer: Answer) -> FlowRun:
    return FlowRun(run_id=answer.run_id, tracking=dict(answer.tracking))
