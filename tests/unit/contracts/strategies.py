"""Strategies that generate requests and results for property tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from pydantic import JsonValue, SecretStr

from flow_contracts.claim import clean_claim
from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowError, FlowResult, FlowRun, OutputEncoding, Status, Times

json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

ids = st.text(st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=128)

_times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))

requests = st.builds(
    FlowRequest,
    flow=st.text(min_size=1, max_size=128),
    input=json_values,
    claim=st.none() | st.text(min_size=1, max_size=40).filter(clean_claim).map(SecretStr),
    on_behalf_of=st.none() | st.text(min_size=1, max_size=40),
    message_id=ids,
    correlation_id=ids,
    reply_to=st.none() | st.text(min_size=1, max_size=40),
    reply_to_session_id=ids,
    time_to_live=st.none() | st.timedeltas(timedelta(milliseconds=1), timedelta(days=30)),
    traceparent=st.none() | st.just("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
)

_encodings: list[OutputEncoding | None] = [None, "json", "text", "base64"]

results = st.builds(
    FlowResult,
    status=st.sampled_from(Status),
    flow=st.none() | st.text(max_size=40),
    output=json_values,
    output_type=st.none() | st.text(max_size=40),
    output_encoding=st.sampled_from(_encodings),
    http_status=st.none() | st.integers(100, 599),
    error=st.none()
    | st.builds(FlowError, code=st.text(min_size=1, max_size=40), message=st.text(), retryable=st.booleans()),
    attempts=st.integers(0, 1000),
    run=st.none()
    | st.builds(
        FlowRun, run_id=st.none() | st.text(max_size=40), tracking=st.dictionaries(st.text(), st.text(), max_size=3)
    ),
    times=st.builds(Times, accepted=st.none() | _times, started=st.none() | _times, finished=st.none() | _times),
    correlation_id=ids,
    request_message_id=ids,
)
