"""The verdict on each kind of answer, with the error bodies that callers of the direct endpoint report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import JsonValue

from flow_worker.errors import CallFailed
from flow_worker.flows import platform
from flow_worker.flows.answer import TOO_LARGE, Answer, decode_body, unread
from flow_worker.flows.registry import Flow
from flow_worker.flows.status_url import StatusHosts, is_signed
from flow_worker.flows.verdict import FlowHealth, Verdict, VerdictKind, judge, judge_failure, judge_poll

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RUN = "08584"
HOST = "https://x.environment.api.powerplatform.com"
FLOW_URL = f"{HOST}/powerautomate/automations/direct/workflows/4f/triggers/manual/paths/invoke?api-version=1"
STATUS_URL = f"{HOST}/powerautomate/automations/direct/workflows/4f/runs/08584/operations/1?api-version=1"
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
JSON = "application/json; charset=utf-8"
HTML_TYPE = "text/html"

NOT_ENABLED = "Could not execute workflow '4f' trigger 'manual' with state '{}': trigger is not enabled."
BAD_TOKEN = (
    "The provided authorization token is not valid. The request should have a valid authorization header with "
    "'Bearer' scheme."
)
SAS_DISABLED = "The request has SAS authentication scheme while it is disabled under your access control policy."
CLAIMS = "One or more claims either missing or does not match with the open authentication access control policy."
MISMATCH = (
    "The input body for trigger 'manual' of type 'Request' did not match its schema definition. "
    "Error details: 'Invalid type. Expected Object but got String.'."
)
NO_UPSTREAM = "The server did not receive a response from an upstream server."


def flow(*, idempotent: bool = False) -> Flow:
    hosts = StatusHosts(("*.environment.api.powerplatform.com", "*.logic.azure.com"), {"127.0.0.1:5080"})
    return Flow("f", FLOW_URL, "Flow.Invoke", 1.0, idempotent, status_hosts=hosts)


def answer(
    status: int,
    body: JsonValue | bytes = b"",
    content_type: str | None = JSON,
    *,
    run: str | None = None,
    retry_after: str | None = None,
    location: str | None = None,
) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    tracking = {"x-ms-request-id": "westeurope:1"} | ({"x-ms-workflow-run-id": run} if run else {})
    return Answer(status, decode_body(content, content_type), run, tracking, retry_after, location)


def error(code: str, message: str) -> JsonValue:
    return {"error": {"code": code, "message": message}}


def judged(response: Answer, *, idempotent: bool = False, fresh_token: bool = False) -> Verdict:
    return judge(response, flow(idempotent=idempotent), now=NOW, fresh_token=fresh_token)


def polled(response: Answer | CallFailed, *, fresh_token: bool = False) -> Verdict:
    return judge_poll(response, flow(), status_url=STATUS_URL, now=NOW, fresh_token=fresh_token)


def kind_and_code(verdict: Verdict) -> tuple[VerdictKind, str | None]:
    return verdict.kind, verdict.error.code if verdict.error else None


# --- final refusals: the message names the remedy ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "message", "remedy"),
    [
        (400, "TriggerInputSchemaMismatch", MISMATCH, "send what the schema asks for"),
        (400, "WorkflowTriggerIsNotEnabled", NOT_ENABLED.format("Suspended"), "turn it on"),
        (400, "WorkflowTriggerIsNotEnabled", NOT_ENABLED.format("Stopped"), "turn it on"),
        (400, "WorkflowTriggerIsNotEnabled", NOT_ENABLED.format("Deleted"), "new URL"),
        (401, "DirectApiRequestHasMoreThanOneAuthorization", "Only one scheme should be used.", "signature beside"),
        (401, "OAuthAccessPolicyNotFound", "", "signed URLs only"),
        (401, "DirectApiInvalidAuthorizationSignature", "The signature is not valid.", "copy its URL again"),
        (403, "MisMatchingOAuthClaims", CLAIMS, "object ID"),
        (401, "MisMatchingOAuthClaims", CLAIMS, "trailing slash"),
        (403, "MisMatchingOAuthClaims", CLAIMS, "app-only"),
        (403, "AuthorizationFailed", "The client IP address is not in the allowed ranges.", "outbound addresses"),
        (404, "WorkflowNotFound", "The workflow '4f' could not be found.", "copy the URL"),
        (405, "MethodNotAllowed", "The trigger takes GET requests only.", "POST"),
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
def test_a_final_refusal_names_its_remedy(status: int, code: str, message: str, remedy: str, idempotent: bool) -> None:
    verdict = judged(answer(status, error(code, message)), idempotent=idempotent)
    assert (kind_and_code(verdict), verdict.http_status) == ((VerdictKind.FAILED, code), status)
    assert verdict.error is not None
    assert remedy in verdict.error.message
    assert message in verdict.error.message
    assert not verdict.error.retryable
    assert verdict.output == error(code, message)
    assert verdict.health is FlowHealth.HEALTHY


@pytest.mark.parametrize(
    ("status", "remedy"), [(400, "make sense"), (403, "forbids"), (404, "copy the URL"), (405, "POST"), (414, "414")]
)
@pytest.mark.parametrize(("body", "kind"), [(b"", None), (HTML, HTML_TYPE)])
def test_a_refusal_without_a_code_is_judged_by_its_status(
    status: int, remedy: str, body: bytes, kind: str | None
) -> None:
    verdict = judged(answer(status, body, kind))
    assert kind_and_code(verdict) == (VerdictKind.FAILED, f"http_{status}")
    assert verdict.error is not None
    assert remedy in verdict.error.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    verdict = judged(answer(status, location="https://elsewhere.example/"))
    assert kind_and_code(verdict) == (VerdictKind.FAILED, f"http_{status}")


# --- refusals before a run: every flow may be called again -------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        error("TooManyRequests", "The rate limit was exceeded."),
        {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 5 seconds."},
        b"",
        HTML,
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
def test_a_throttled_flow_is_called_again_after_retry_after(body: JsonValue | bytes, idempotent: bool) -> None:
    verdict = judged(answer(429, body, retry_after="7"), idempotent=idempotent)
    assert (verdict.kind, verdict.health, verdict.not_before) == (
        VerdictKind.RETRY,
        FlowHealth.THROTTLED,
        NOW + timedelta(seconds=7),
    )
    assert verdict.error is not None
    assert verdict.error.retryable


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", None),
        ("-5", None),
        ("nonsense", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("1.5", 1.5),
        (" 12 ", 12),
        ("99999999999999999999", 86_400),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), None),
        (format_datetime(NOW + timedelta(days=30), usegmt=True), 86_400),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_is_bounded(
    retry_after: str | None, seconds: float | None
) -> None:
    verdict = judged(answer(429, retry_after=retry_after))
    assert verdict.not_before == (None if seconds is None else NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("DirectApiAuthorizationRequired", "The OAuth authorization scheme is required."),
        ("DirectApiInvalidAuthorizationScheme", BAD_TOKEN),
        ("DirectApiInvalidAuthorizationScheme", SAS_DISABLED),
        ("SomethingNew", "?"),
    ],
)
@pytest.mark.parametrize("idempotent", [True, False])
def test_a_refused_token_is_replaced_once(code: str, message: str, idempotent: bool) -> None:
    first = judged(answer(401, error(code, message)), idempotent=idempotent)
    assert (kind_and_code(first), first.fresh_token) == ((VerdictKind.RETRY, code), True)
    second = judged(answer(401, error(code, message)), idempotent=idempotent, fresh_token=True)
    assert (kind_and_code(second), second.fresh_token) == ((VerdictKind.FAILED, code), False)
    assert second.error is not None
    assert "trigger" in second.error.message


@pytest.mark.parametrize("idempotent", [True, False])
def test_an_unreachable_flow_is_called_again(idempotent: bool) -> None:
    verdict = judge_failure(CallFailed("flow_unreachable", "No.", may_have_run=False), flow(idempotent=idempotent))
    assert (kind_and_code(verdict), verdict.health) == ((VerdictKind.RETRY, "flow_unreachable"), FlowHealth.UNHEALTHY)


# --- calls without an answer: only an idempotent flow is called again --------------------------------------------


DOWN: list[tuple[Answer, str]] = [
    (answer(502, HTML, HTML_TYPE), "http_502"),
    (answer(502, HTML, JSON), "http_502"),
    (answer(504, b"504 GATEWAY TIMEOUT", "text/plain"), "http_504"),
    (answer(503, {"statusCode": 503, "message": "Service Unavailable"}), "http_503"),
    (answer(502, b'{"error": {"code": "NoResponse", "mess', JSON), "http_502"),
]
"""The flow or its host is down."""
RUN_FAILED: list[tuple[Answer, str]] = [
    (answer(502, error("NoResponse", NO_UPSTREAM), run=RUN), "NoResponse"),
    (answer(502, error("NoResponse", NO_UPSTREAM)), "NoResponse"),
    (answer(504, error("NoResponse", NO_UPSTREAM)), "NoResponse"),
    (answer(504, error("GatewayTimeout", "504 GATEWAY TIMEOUT")), "GatewayTimeout"),
    (answer(503, error("GatewayTimeout", "504 GATEWAY TIMEOUT")), "GatewayTimeout"),
    (answer(504, {"statusCode": 504, "message": "The gateway did not receive a response."}), "http_504"),
    (answer(504, json.dumps(error("GatewayTimeout", "No.")).encode(), "text/plain"), "GatewayTimeout"),
    (answer(502, HTML, HTML_TYPE, run=RUN), "http_502"),
    (answer(503, HTML, HTML_TYPE, run=RUN), "http_503"),
    (answer(504, error("GatewayTimeout", "504 GATEWAY TIMEOUT"), run=RUN), "GatewayTimeout"),
    (answer(503, error("ServiceUnavailable", "Not mine."), run=RUN), "ServiceUnavailable"),
    (answer(408, error("RequestTimeout", "The client timed out.")), "RequestTimeout"),
    (answer(408, b"", None, run=RUN), "http_408"),
    (answer(500, error("InternalServerError", "Encountered internal server error.")), "InternalServerError"),
]
"""The input may be the reason."""
UNANSWERED = [(*each, FlowHealth.UNHEALTHY) for each in DOWN] + [(*each, FlowHealth.RUN_FAILED) for each in RUN_FAILED]


@pytest.mark.parametrize(("response", "code", "health"), UNANSWERED)
def test_an_unanswered_call_is_unknown_and_names_the_run(response: Answer, code: str, health: FlowHealth) -> None:
    verdict = judged(response)
    assert (kind_and_code(verdict), verdict.health) == ((VerdictKind.UNKNOWN, code), health)
    assert verdict.run is not None
    assert verdict.run.run_id == response.run_id
    assert verdict.error is not None
    assert "run history" in verdict.error.message
    assert not verdict.error.retryable


@pytest.mark.parametrize(("response", "code", "health"), UNANSWERED)
def test_an_unanswered_call_of_an_idempotent_flow_is_repeated(response: Answer, code: str, health: FlowHealth) -> None:
    verdict = judged(response, idempotent=True)
    assert (kind_and_code(verdict), verdict.health) == ((VerdictKind.RETRY, code), health)


def test_retry_after_of_a_gateway_error_is_respected() -> None:
    verdict = judged(answer(503, b"", None, retry_after="9"), idempotent=True)
    assert verdict.not_before == NOW + timedelta(seconds=9)


@pytest.mark.parametrize(("idempotent", "kind"), [(True, VerdictKind.RETRY), (False, VerdictKind.UNKNOWN)])
@pytest.mark.parametrize(
    ("code", "health"), [("flow_timeout", FlowHealth.RUN_FAILED), ("flow_no_answer", FlowHealth.RUN_FAILED)]
)
def test_a_call_whose_answer_was_lost_is_repeated_only_for_an_idempotent_flow(
    code: str, health: FlowHealth, idempotent: bool, kind: VerdictKind
) -> None:
    verdict = judge_failure(CallFailed(code, "Lost.", may_have_run=True), flow(idempotent=idempotent))
    assert (kind_and_code(verdict), verdict.health) == ((kind, code), health)


def test_a_call_that_the_worker_broke_off_does_not_count_against_the_flow() -> None:
    failure = CallFailed("interrupted", "Stopped.", may_have_run=True, counts_against_flow=False)
    assert judge_failure(failure, flow()).health is FlowHealth.NEUTRAL


# --- the flow's own answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "output", "encoding"),
    [
        ({"id": 7}, JSON, {"id": 7}, "json"),
        (b"", None, None, None),
        (b"", JSON, None, None),
        (b"plain", "text/plain", "plain", "text"),
        (b"{broken", JSON, "{broken", "text"),
        (HTML, HTML_TYPE, HTML.decode(), "text"),
        (b"\xff\x00", None, "/wA=", "base64"),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 204, 206, 299])
def test_any_success_carries_the_flows_output_whatever_its_type(
    status: int, body: JsonValue | bytes, kind: str | None, output: JsonValue, encoding: str | None
) -> None:
    verdict = judged(answer(status, body, kind, run=RUN))
    assert kind_and_code(verdict) == (VerdictKind.SUCCEEDED, None)
    assert (verdict.output, verdict.output_encoding, verdict.http_status) == (output, encoding, status)
    assert verdict.note is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("run", [RUN, None])
def test_an_error_that_the_flow_wrote_is_its_answer_and_is_not_retried(status: int, run: str | None) -> None:
    verdict = judged(answer(status, {"reason": "sold out"}, run=run))
    assert (kind_and_code(verdict), verdict.output) == ((VerdictKind.FAILED, f"http_{status}"), {"reason": "sold out"})
    assert verdict.health is FlowHealth.HEALTHY


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "MisMatchingOAuthClaims"), (400, "TriggerInputSchemaMismatch"), (429, "TooManyRequests"), (502, "SoldOut")],
)
def test_an_error_in_the_platforms_form_is_the_flows_own_if_it_names_a_run(status: int, code: str) -> None:
    verdict = judged(answer(status, error(code, "Mine."), run=RUN))
    assert kind_and_code(verdict) == (VerdictKind.FAILED, code)
    assert verdict.error is not None
    assert verdict.error.message == "Mine."
    assert verdict.output == error(code, "Mine.")


def test_an_idempotent_flow_that_answers_429_itself_is_called_again() -> None:
    verdict = judged(answer(429, {"reason": "busy"}, run=RUN, retry_after="3"), idempotent=True)
    assert (verdict.kind, verdict.not_before) == (VerdictKind.RETRY, NOW + timedelta(seconds=3))
    assert verdict.health is FlowHealth.RUN_FAILED, "the input may have caused it: the other senders' calls go on"


@pytest.mark.parametrize(("status", "kind"), [(200, VerdictKind.SUCCEEDED), (500, VerdictKind.FAILED)])
def test_an_answer_larger_than_the_worker_reads_is_not_a_lost_answer(status: int, kind: VerdictKind) -> None:
    verdict = judged(Answer(status, TOO_LARGE, RUN, {}))
    assert kind_and_code(verdict) == (kind, "output_too_large")


@pytest.mark.parametrize(
    ("status", "run", "kind", "code"),
    [
        (200, None, VerdictKind.SUCCEEDED, "output_encoding_unsupported"),
        (422, RUN, VerdictKind.FAILED, "output_encoding_unsupported"),
        (400, None, VerdictKind.FAILED, "http_400"),
        (500, None, VerdictKind.UNKNOWN, "http_500"),
        (502, RUN, VerdictKind.UNKNOWN, "http_502"),
    ],
)
def test_a_body_that_cannot_be_read_may_be_a_gateways(
    status: int, run: str | None, kind: VerdictKind, code: str
) -> None:
    verdict = judged(Answer(status, unread("output_encoding_unsupported", "No."), run, {}))
    assert kind_and_code(verdict) == (kind, code)


@pytest.mark.parametrize(
    "body", [b'{"error": "text"}', b'{"error": {"code": 7}}', b"[1]", b"null", b"[" * 100_000, b'{"error": null}']
)
def test_an_unusual_error_body_is_still_an_error(body: bytes) -> None:
    verdict = judged(answer(422, body, run=RUN))
    assert kind_and_code(verdict) == (VerdictKind.FAILED, "http_422")


def test_long_codes_and_messages_are_cut() -> None:
    verdict = judged(answer(400, error("C" * 5000, "m" * 5000)))
    assert verdict.error is not None
    assert (len(verdict.error.code), len(verdict.error.message)) == (200, 1000)


# --- 202 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        STATUS_URL,
        STATUS_URL + "&sp=%2Fruns&sv=1.0&sig=abc",
        "https://prod-7.westeurope.logic.azure.com:443/workflows/4f/runs/1/operations/2?sig=a",
        "http://127.0.0.1:5080/runs/1?sig=a",
    ],
)
def test_an_accepted_call_is_polled_at_its_status_url(url: str) -> None:
    verdict = judged(answer(202, location=url, retry_after="20", run=RUN))
    assert (verdict.kind, verdict.status_url, verdict.not_before) == (
        VerdictKind.ACCEPTED,
        url,
        NOW + timedelta(seconds=20),
    )
    assert url not in repr(verdict)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/runs/1",
        "http://x.logic.azure.com/runs/1",
        "https://logic.azure.com.evil.example/",
        "https://user:word@x.logic.azure.com/",
        "https://x.logic.azure.com@evil.example/",
        "http://127.0.0.1:5081/",
        "file:///etc/passwd",
        "//x.logic.azure.com/",
        "https://x.logic.azure.com:port/",
        "https://[::1",
        "",
    ],
)
def test_a_status_url_of_another_host_is_never_polled(url: str) -> None:
    verdict = judged(answer(202, location=url, run=RUN))
    assert kind_and_code(verdict) == (VerdictKind.UNKNOWN, "status_url_not_allowed")
    assert verdict.error is not None
    assert "flow_hosts" in verdict.error.message
    assert not url or url not in verdict.error.message


def test_an_accepted_call_without_a_status_url_has_succeeded() -> None:
    verdict = judged(answer(202, b"", None, run=RUN))
    assert (kind_and_code(verdict), verdict.output, verdict.note) == (
        (VerdictKind.SUCCEEDED, None),
        None,
        "accepted_without_response",
    )


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        (STATUS_URL, False),
        (STATUS_URL + "&sig=a", True),
        (STATUS_URL + "&SIG=a", True),
        (STATUS_URL + "&s%69g=a", True),
        (STATUS_URL + "&sig=", True),
        (STATUS_URL + "&signature=a", False),
        ("https://x.logic.azure.com/sig=a", False),
        ("https://[::1", True),
    ],
)
def test_a_signed_status_url_needs_no_token(url: str, signed: bool) -> None:
    assert is_signed(url) is signed


# --- status polls ------------------------------------------------------------------------------------------------


def test_a_running_flow_is_polled_again_at_the_url_that_it_names() -> None:
    moved = STATUS_URL + "&moved=1"
    assert polled(answer(202)).status_url == STATUS_URL
    assert polled(answer(202, location=moved)).status_url == moved
    assert kind_and_code(polled(answer(202, location="https://evil.example/"))) == (
        VerdictKind.UNKNOWN,
        "status_url_not_allowed",
    )


def test_a_run_that_ended_has_the_result_of_its_response() -> None:
    assert (polled(answer(200, {"id": 7})).kind, polled(answer(200, {"id": 7})).output) == (
        VerdictKind.SUCCEEDED,
        {"id": 7},
    )
    failed = polled(answer(422, error("SoldOut", "No more."), run=RUN))
    assert (kind_and_code(failed), failed.output) == ((VerdictKind.FAILED, "SoldOut"), error("SoldOut", "No more."))
    assert kind_and_code(polled(answer(409, error("SoldOut", "No more.")))) == (VerdictKind.FAILED, "SoldOut")


@pytest.mark.parametrize(
    "response",
    [
        CallFailed("flow_unreachable", "No.", may_have_run=False),
        CallFailed("flow_timeout", "No.", may_have_run=False),
        answer(429, retry_after="3"),
        answer(408),
        answer(500, error("InternalServerError", "?")),
        answer(502, HTML, HTML_TYPE),
        answer(502, error("NoResponse", NO_UPSTREAM), run=RUN),
        answer(503),
        answer(504),
    ],
)
def test_a_failed_poll_is_repeated_for_every_flow(response: Answer | CallFailed) -> None:
    assert polled(response).kind is VerdictKind.RETRY


def test_a_poll_with_a_refused_token_is_repeated_once_with_a_new_one() -> None:
    refusal = answer(401, error("DirectApiInvalidAuthorizationScheme", BAD_TOKEN))
    assert (polled(refusal).kind, polled(refusal).fresh_token) == (VerdictKind.RETRY, True)
    assert polled(refusal, fresh_token=True).kind is VerdictKind.UNKNOWN


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AuthorizationFailed"), (404, "WorkflowRunNotFound"), (410, "Gone"), (403, "MisMatchingOAuthClaims")],
)
def test_a_run_that_cannot_be_polled_is_unknown(status: int, code: str) -> None:
    verdict = polled(answer(status, error(code, "No.")))
    assert kind_and_code(verdict) == (VerdictKind.UNKNOWN, code)
    assert verdict.error is not None
    assert "run history" in verdict.error.message
    assert verdict.run is None  # the run ID of the call is kept


def test_a_status_url_that_is_no_longer_allowed_ends_the_polling() -> None:
    failure = CallFailed("status_url_not_allowed", "No.", may_have_run=False)
    assert kind_and_code(polled(failure)) == (VerdictKind.UNKNOWN, "status_url_not_allowed")


# --- all statuses and bodies -------------------------------------------------------------------------------------


BODIES: Mapping[str, JsonValue | bytes] = {
    "empty": b"",
    "html": HTML,
    "platform": error("X", "y"),
    "flow": {"a": 1},
    "gateway": {"statusCode": 1, "message": "m"},
    **{code: error(code, "y") for code in platform.REMEDIES},
}


@pytest.mark.parametrize("status", range(200, 600))
def test_a_flow_that_is_not_idempotent_is_never_called_again_after_a_run(status: int) -> None:
    for body in BODIES.values():
        for location in (None, STATUS_URL):
            verdict = judged(answer(status, body, run=RUN, location=location))
            assert verdict.kind is not VerdictKind.RETRY, body
            assert (verdict.error is None) == (verdict.kind in {VerdictKind.SUCCEEDED, VerdictKind.ACCEPTED})


def test_lone_surrogates_in_an_error_are_replaced() -> None:
    body = platform.read_error(decode_body(b'{"error": {"code": "Bad\\ud800", "message": "\\udfff!"}}', JSON))
    assert (body.code, body.message) == ("Bad?", "?!")


def test_every_known_code_of_the_platform_has_a_remedy() -> None:
    assert set(platform.REMEDIES) == set(platform.PlatformCode)
