"""Reads the reply address from a continuation message that this version cannot read as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from flow_contracts.message import Message, fits_id
from flow_contracts.reply_key import read_reply_key
from flow_contracts.request import MAX_FLOW_NAME_LENGTH, ReplyAddress
from flow_worker.pipeline.job import REPLY_KEY

_MAX_ORIGIN_CHARACTERS = 512
_MAX_QUEUE_NAME_CHARACTERS = 260
_MAX_NUMBER = 2**53


@dataclass(frozen=True, slots=True)
class Fragment:
    """The readable fields of an unreadable continuation, each checked by itself."""

    address: ReplyAddress
    request_queue: str
    """Empty if it is not readable."""
    flow: str | None
    replay_of: str | None
    origin: str | None
    number: int | None

    @classmethod
    def of(cls, message: Message) -> Self | None:
        """Return the readable fields; None if the message does not name a request that can be answered."""
        body = _json_object(message.body)
        message_id = _id(body.get("message_id"))
        if message_id is None:
            return None
        correlation_id = _id(body.get("correlation_id")) or _id(message.correlation_id) or message_id
        session_id = _id(body.get("reply_to_session_id")) or correlation_id
        flow = _text(body.get("flow"), MAX_FLOW_NAME_LENGTH) or _text(message.subject, MAX_FLOW_NAME_LENGTH)
        number = body.get("number")
        reply_key = read_reply_key(message.application_properties.get(REPLY_KEY))
        return cls(
            ReplyAddress(message_id, correlation_id, session_id, _id(body.get("reply_to")), reply_key),
            request_queue=_text(body.get("request_queue"), _MAX_QUEUE_NAME_CHARACTERS) or "",
            flow=flow,
            replay_of=_id(body.get("replay_of")),
            origin=_text(body.get("origin"), _MAX_ORIGIN_CHARACTERS),
            number=number if type(number) is int and 0 <= number < _MAX_NUMBER else None,
        )


def _json_object(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and value and fits_id(value) and _is_utf8(value) else None


def _text(value: object, max_characters: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= max_characters and _is_utf8(value) else None


def _is_utf8(text: str) -> bool:
    """Return whether UTF-8 can express the text: a JSON escape can produce a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
