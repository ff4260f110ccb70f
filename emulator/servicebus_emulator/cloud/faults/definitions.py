"""The definition of a fault, and of the content that a fault or a flow answers with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Base64Bytes, Field, JsonValue

from servicebus_emulator.cloud.fields import Definition, HeaderText, Seconds
from servicebus_emulator.cloud.flow_errors import PLATFORM_ANSWERS, PlatformAnswer, PlatformAnswerName

_ANSWERS_BY_KIND: Mapping[str, PlatformAnswer] = {
    "throttle": PLATFORM_ANSWERS["TooManyRequests"],
    **{str(name): answer for name, answer in PLATFORM_ANSWERS.items()},
}


class Content(Definition):
    """A response's content. A string is sent unchanged, any other `body` as JSON, `body_base64` as its bytes."""

    headers: dict[HeaderText, HeaderText] = Field(default_factory=dict)
    content_type: HeaderText | None = None
    body: JsonValue = None
    body_base64: Base64Bytes | None = None

    def payload(self) -> tuple[bytes, str]:
        """Return the content's bytes and its content type."""
        if self.body_base64 is not None:
            return self.body_base64, self.content_type or "application/octet-stream"
        if self.body is None:
            return b"", self.content_type or "text/plain; charset=utf-8"
        if isinstance(self.body, str):
            return self.body.encode(), self.content_type or "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), self.content_type or "application/json; charset=utf-8"


class Fault(Content):
    """A fault that the next `next_calls` calls meet, or every call.

    - `pass`: no fault; with `next_calls` it lets that many calls through before the next fault
    - `respond`: answers with `status`, `headers` and the content instead of the real answer
    - `delay`: sends the real answer `delay_seconds` later (every other kind honours `delay_seconds` as well)
    - `throttle`: 429 with `retry_after`, or with the date `retry_after_seconds` from now
    - `html`: `status` with an HTML page, as proxies send;  `invalid_json`: 200 with half a JSON object
    - `hang`: never answers
    - `reset_before_reading`, `reset_after_reading`: resets the TCP connection
    - `close_midway`: resets the connection half-way through the content
    - `oversize`: a JSON string of `size_bytes`
    - a name from `flow_errors.PLATFORM_ANSWERS`: that answer of the platform, which may come before or after a run
    """

    kind: Literal[
        "pass",
        "respond",
        "delay",
        "throttle",
        "html",
        "invalid_json",
        "hang",
        "reset_before_reading",
        "reset_after_reading",
        "close_midway",
        "oversize",
        PlatformAnswerName,
    ]
    next_calls: int | None = Field(default=None, ge=1)
    share: float = Field(default=1, gt=0, le=1)
    """The fraction of the calls that meets the fault, picked at random; the other calls pass."""
    seed: int = 0
    """The seed of that random choice: the same seed picks the same calls."""
    delay_seconds: Seconds = 0
    status: int = Field(default=502, ge=200, le=599)
    retry_after: HeaderText | None = "1"
    """The header `Retry-After`; null omits it."""
    retry_after_seconds: Seconds | None = None
    """Replaces `retry_after`: the header holds the HTTP date that many seconds ahead, rounded up to whole seconds."""
    size_bytes: int = Field(default=1024 * 1024, ge=2, le=1024**3)
    starts_run: bool = True
    """The flow's run begins and the answer names it. `delay` and the platform's own answers ignore this field, because
    they fix its value."""

    @property
    def platform_answer(self) -> PlatformAnswer | None:
        """The platform's answer that this kind stands for; None for every other kind."""
        return _ANSWERS_BY_KIND.get(self.kind)

    @property
    def precedes_checks(self) -> bool:
        """True if the call fails before the platform checks its bearer and its input."""
        answer = self.platform_answer
        return self.kind == "reset_before_reading" or (answer is not None and not answer.run_started)

    @property
    def begins_run(self) -> bool:
        """True if a call with this fault begins a run nonetheless."""
        return not self.precedes_checks and (
            self.starts_run or self.kind == "delay" or self.platform_answer is not None
        )
