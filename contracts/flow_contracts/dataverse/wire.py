"""The body of a native Dataverse message, as far as it is common JSON, and how one is refused that is not."""

from __future__ import annotations

from typing import Literal

from flow_contracts import jsontext
from flow_contracts.dataverse.values import Object
from flow_contracts.message import Message
from flow_contracts.request import MAX_BODY_BYTES, InvalidRequest, InvalidRequestCode, ReplyAddress, Unanswerable

Format = Literal["json", "binary", "xml"]

_FORMATS: dict[str, Format] = {
    "application/json": "json",
    "application/msbin1": "binary",
    "application/xml": "xml",
    "text/xml": "xml",
}
_SETTING = (
    "edit the service endpoint in the Plug-in Registration Tool and set its Message Format to JSON (the column "
    "messageformat of its serviceendpoint row to 2)."
)
_WRONG_FORMAT: dict[Format | None, str] = {
    "binary": f"The message is in .NET's binary form: {_SETTING}",
    "xml": f"The message is in .NET's XML form: {_SETTING}",
    None: f"The message's content type is not one of JSON; if Dataverse sent it, {_SETTING}",
}


def document_of(message: Message) -> Object:
    """The body's JSON object. Raises `InvalidRequest` and `Unanswerable`: see `unread`."""
    if (found := _format_of(message)) != "json":
        raise unread("unsupported_format", _WRONG_FORMAT[found], message)
    if len(message.body) > MAX_BODY_BYTES:
        text = f"The body has {len(message.body)} bytes, more than the {MAX_BODY_BYTES} a request may have."
        raise unread("malformed_request", text, message)
    try:
        document = jsontext.parse(message.body)
    except jsontext.NotJson as error:
        raise unread("malformed_request", f"The body {error}; it must be one JSON object.", message) from None
    if not isinstance(document, dict):
        raise unread("malformed_request", "The body is not the JSON object of an execution context.", message)
    return document


def unread(code: InvalidRequestCode, text: str, message: Message) -> InvalidRequest | Unanswerable:
    """What to raise where the body does not tell whose answer this is; Dataverse is not known to set a message ID."""
    try:
        return InvalidRequest(code, text, address=ReplyAddress.of(message))
    except Unanswerable:
        return Unanswerable(code, text)


def _format_of(message: Message) -> Format | None:
    """By the content type, and without one by the body: .NET's binary XML begins with a short element, `@`."""
    if message.content_type:
        return _FORMATS.get(message.content_type.partition(";")[0].strip().lower())
    start = message.body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    by_start: dict[bytes, Format] = {b"@": "binary", b"<": "xml"}
    return by_start.get(start, "json")
