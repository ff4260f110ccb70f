"""Parses the JSON body of a native Dataverse message, and refuses other formats."""

from __future__ import annotations

from typing import Literal

from flow_contracts import strict_json
from flow_contracts.dataverse.values import Object
from flow_contracts.message import Message
from flow_contracts.request import InvalidRequest, InvalidRequestCode, ReplyAddress, Unanswerable
from flow_contracts.request_body import MAX_BODY_BYTES

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
    None: f"The message's content type is not application/json; if Dataverse sent it, {_SETTING}",
}


def parse_body(message: Message) -> Object:
    """Parse the body's JSON object. Raises `InvalidRequest` or `Unanswerable`: see `unreadable`."""
    if (format_ := _detect_format(message)) != "json":
        raise unreadable("unsupported_format", _WRONG_FORMAT[format_], message)
    if len(message.body) > MAX_BODY_BYTES:
        text = f"The body has {len(message.body)} bytes, more than the {MAX_BODY_BYTES} a request may have."
        raise unreadable("malformed_request", text, message)
    try:
        document = strict_json.parse(message.body, max_values=strict_json.MAX_VALUES)
    except strict_json.NotJson as error:
        raise unreadable("malformed_request", f"The body {error}; it must be one JSON object.", message) from None
    if not isinstance(document, dict):
        raise unreadable("malformed_request", "The body is not the JSON object of an execution context.", message)
    return document


def unreadable(code: InvalidRequestCode, text: str, message: Message) -> InvalidRequest | Unanswerable:
    """Return the error for a body that contains no reply address.

    It is `InvalidRequest` if the broker properties contain one, else `Unanswerable`. The second is the likely case: the
    documentation of Dataverse does not promise a message ID.
    """
    try:
        return InvalidRequest(code, text, address=ReplyAddress.of(message))
    except Unanswerable:
        return Unanswerable(code, text)


def _detect_format(message: Message) -> Format | None:
    """Detect the format by the content type, or without one by the body.

    .NET's binary XML ([MC-NBFX]) begins with the record of a short element, 0x40, which is `@`.
    """
    if message.content_type:
        return _FORMATS.get(message.content_type.partition(";")[0].strip().lower())
    start = message.body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    by_start: dict[bytes, Format] = {b"@": "binary", b"<": "xml"}
    return by_start.get(start, "json")
