"""A large answer is decoded in a thread, in steps: the event loop waits for one step at most."""

from __future__ import annotations

import base64
import time
from itertools import pairwise

import pytest

from flow_worker.flows.answer import decode_body
from flow_worker.flows.rests import Rests

SIZE = 4 * 2**20
MAX_STEP_SECONDS = 0.1
"""Of the thread's own processor time, which other programs do not prolong. The steps take a tenth of it."""
JSON, TEXT, BYTES = "application/json", "text/plain", "application/x-any"


def filled(unit: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + unit * ((SIZE - len(before) - len(after)) // len(unit)) + after


BODIES = {
    "digits": filled(b"1"),
    "digits with a sign": filled(b"1", b"-"),
    "a long fraction": filled(b"1", b"0."),
    "a long exponent": filled(b"1", b"1e"),
    "long integers": filled(b"1" * 308 + b",", b"[", b"1]"),
    "very many integers of 80 digits": filled(b"1" * 80 + b",", b"[", b"1]"),
    "a string": filled(b"a", b'"', b'"'),
    "a string of brackets": filled(b"[", b'"', b'"'),
    "a string of escapes": filled(b"\\u0041", b'"', b'"'),
    "a string of pairs of escapes": filled(b"\\ud83d\\ude00", b'"', b'"'),
    "a name": filled(b"a", b'{"', b'":1}'),
    "wide characters": filled("😀".encode(), b'"', b'"'),
    "spaces": filled(b" "),
    "spaces before": filled(b" ", b"", b"1"),
    "spaces after": filled(b" ", b"1"),
    "spaces inside": filled(b" ", b"[", b"1]"),
    "byte order marks": filled(b"\xef\xbb\xbf", b"", b"1"),
    "depth": filled(b"["),
    "depth of objects": filled(b'{"":'),
    "empty arrays": filled(b"[],", b"[", b"0]"),
    "commas": filled(b","),
    "quotes": filled(b'"'),
    "zeros": bytes(SIZE),
    "base64": base64.b64encode(bytes(range(256)) * (SIZE * 3 // 4 // 256)),
    "utf-16": filled(b"1\0,\0", b"[\0", b"1\0]\0"),
}


@pytest.mark.parametrize("kind", [JSON, TEXT, BYTES])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_step_of_decoding_a_large_answer_takes_long(body: bytes, kind: str) -> None:
    steps = [time.thread_time()]
    decode_body(body, kind, token="eyJ" + "A" * 900, rest=lambda: steps.append(time.thread_time()))
    steps.append(time.thread_time())
    assert max(end - start for start, end in pairwise(steps)) < MAX_STEP_SECONDS
    assert len(steps) > 5


def test_a_thread_rests_only_after_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[float] = []
    monkeypatch.setattr(time, "sleep", rested.append)
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rest = Rests()
    for now[0] in (0.001, 0.002, 0.01, 0.011, 0.02):
        rest()
    assert len(rested) == 2
