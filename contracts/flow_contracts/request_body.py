"""Finds the JSON object in the body of a request, in the forms in which the SDKs of other languages send it.

| form | sender |
|---|---|
| UTF-8, UTF-16 or UTF-32, with or without a byte order mark | .NET's `Encoding.Unicode`, PowerShell |
| gzip or deflate, named by `Content-Encoding`; gzip also without a name | proxies, REST senders |
| .NET's binary XML of a string or of bytes | `new BrokeredMessage(text)` of the older .NET SDK |
| a JSON string that contains the object | `JSON.stringify` with the JavaScript SDK, which encodes the text once more |

A request is one object, so none of these forms has a second meaning. Any other form is refused by its name.
"""

from __future__ import annotations

import json
import re
from typing import Final

from pydantic import JsonValue

from flow_contracts import strict_json
from flow_contracts.content_encoding import (
    GZIP_MAGIC,
    BodyTooLarge,
    Encoding,
    IncompleteBody,
    UnsupportedEncoding,
    decompress,
    encoding_of,
)
from flow_contracts.dotnet_xml import DamagedText, NotText, text_of
from flow_contracts.message import Message

MAX_BODY_BYTES = 1 << 20
"""The largest body of a request: the message size that Service Bus accepts by default in the Premium tier."""

_WIDEST = 4
"""The bytes of a character in UTF-32."""
_ENCODING_NAMES: Final = frozenset({"content-encoding", "contentencoding", "content_encoding"})
_BASE64_OF_AN_OBJECT = re.compile(rb"e[ywzA-D][A-Za-z0-9+/_=-]{2,}")
"""`{` is 0x7B, so the first letter is `e`, and the second one depends on the character after it."""
_JSON_START = re.compile(rb'(?:[ \t\r\n\0]|\xef\xbb\xbf|\xff\xfe|\xfe\xff)*[{"]')
_DOTNET = b"@"
"""The first byte of .NET's binary XML."""
_DOTNET_HEADER_BYTES = 100
_SEND = "send the JSON object as the bytes of the message"


class NotOneObject(ValueError):
    """The body does not hold one JSON object. The message begins with "The body", and quotes no value."""


def parse_object(message: Message) -> dict[str, JsonValue]:
    """Return the object in the body. Raises `NotOneObject`."""
    data = _text(message)
    document = _parse(data)
    if isinstance(document, str):
        document = _parse_string(document)
    if isinstance(document, dict):
        return document
    kinds = {list: "an array", str: "a string inside a string", bool: "a boolean", type(None): "null"}
    kind = kinds.get(type(document), "a number")
    remedy = "send its element alone" if isinstance(document, list) and len(document) == 1 else "send the object"
    raise NotOneObject(f"The body must be a JSON object with at least the field 'flow', but is {kind}; {remedy}.")


def is_compressed(message: Message) -> bool:
    """Return whether the body may become much larger when it is read."""
    body = message.body
    if body.startswith(GZIP_MAGIC) or (body.startswith(_DOTNET) and GZIP_MAGIC in body[:_DOTNET_HEADER_BYTES]):
        return True
    return bool(_content_encoding(message))


def _text(message: Message) -> bytes:
    """Return the body's text in UTF-8. Raises `NotOneObject`."""
    data = message.body
    _require_size(data, _WIDEST * MAX_BODY_BYTES)
    is_wrapped = data.startswith(_DOTNET)
    if is_wrapped:
        data = _unwrapped(data)
    data = _decompressed(data, _content_encoding(message))
    if data.startswith(_DOTNET) and not is_wrapped:
        data = _unwrapped(data)
    if data.startswith(GZIP_MAGIC):
        raise NotOneObject("The body is compressed twice; compress it once, or not at all.")
    data = _as_utf8(data)
    _require_size(data, MAX_BODY_BYTES)
    return data


def _unwrapped(data: bytes) -> bytes:
    """Return the string or the bytes in .NET's binary XML. Raises `NotOneObject`."""
    try:
        return text_of(data)
    except DamagedText:
        raise NotOneObject(
            "The body is .NET's binary XML of a string or of bytes, but cut off or damaged; send it whole."
        ) from None
    except NotText:
        if _is_plain_text(data):
            return data  # as of a command that sends the name of a file instead of its content
        raise NotOneObject(
            f"The body is .NET's binary XML of an object, not JSON; {_SEND}, for example with "
            "Azure.Messaging.ServiceBus, or as a Stream with BrokeredMessage."
        ) from None


def _is_plain_text(data: bytes) -> bool:
    return data.isascii() and data.decode("ascii").rstrip().isprintable()


def _require_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise NotOneObject(f"The body has {len(data)} bytes, more than the {MAX_BODY_BYTES} a request may have.")


# --- compression --------------------------------------------------------------------------------------------------


def _content_encoding(message: Message) -> str:
    if message.content_encoding:
        return message.content_encoding
    for name, value in message.application_properties.items():
        if len(name) in (15, 16) and name.lower() in _ENCODING_NAMES:
            return str(value or "")
    return ""


def _decompressed(data: bytes, named: str) -> bytes:
    """Return the body without its content encoding. Raises `NotOneObject`."""
    is_gzip = data.startswith(GZIP_MAGIC)
    if not named and not is_gzip:
        return data
    try:
        encoding = Encoding.GZIP if is_gzip else encoding_of([named])
        return decompress(data, encoding, _WIDEST * MAX_BODY_BYTES)
    except UnsupportedEncoding:
        raise NotOneObject(
            "The body has a content encoding other than gzip and deflate; send it with one of these, or without."
        ) from None
    except IncompleteBody:
        if _JSON_START.match(data) and not is_gzip:
            return data  # a proxy may have decompressed it, and left the name
        raise NotOneObject("The body is compressed, but cut off or damaged; send it whole.") from None
    except BodyTooLarge:
        raise NotOneObject(
            f"The body has, decompressed, more than the {MAX_BODY_BYTES} bytes a request may have."
        ) from None


# --- text ----------------------------------------------------------------------------------------------------------


def _as_utf8(data: bytes) -> bytes:
    """Return UTF-8; the zeros among the first bytes show the other encodings (RFC 4627, section 3)."""
    if b"\0" not in data[:4] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return data
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError:
        name = encoding.upper().replace("UTF-8-SIG", "UTF-8")
        raise NotOneObject(f"The body is not JSON: it begins like {name}, and is not valid {name}.") from None


def _parse(data: bytes) -> JsonValue:
    try:
        # One level more than `input` may have: the body is the object around it.
        return strict_json.parse(data, max_depth=strict_json.MAX_DEPTH + 1, max_values=strict_json.MAX_VALUES)
    except strict_json.NotJson as error:
        raise NotOneObject(_other_format(data) or f"The body {error}; it must be one JSON object.") from None


def _parse_string(text: str) -> JsonValue:
    """Return the value in a JSON string that contains JSON. Raises `NotOneObject`."""
    inner = text.encode()
    try:
        return strict_json.parse(inner, max_depth=strict_json.MAX_DEPTH + 1, max_values=strict_json.MAX_VALUES)
    except strict_json.NotJson as error:
        if inner.lstrip()[:1] == b"{":
            raise NotOneObject(
                f"The body is JSON inside a JSON string, which {error}; send the object itself."
            ) from None
        other = _other_format(inner)
        raise NotOneObject(other or "The body must be a JSON object, but is a string; send the object.") from None


def _other_format(data: bytes) -> str | None:
    """Return the sentence for a body in a format that is known, and no JSON."""
    start = data.replace(b"\xef\xbb\xbf", b"").lstrip()[:60]
    if not start:
        return f"The body is not JSON: it is empty; {_SEND}."
    if start.startswith("ï»¿".encode()):
        return "The body is not JSON: its UTF-8 text was read as Latin-1 and encoded once more; encode it once."
    if start.startswith(_DOTNET):
        return f"The body is a text that begins with '@', as the name of a file does, not JSON; {_SEND}."
    if start.startswith(b"<"):
        return f"The body is XML, not JSON; {_SEND}."
    if start.startswith((b"{'", b'b"{', b"b'{")):
        return "The body is the text of a Python object, not JSON; send json.dumps(…)."
    if start.startswith((b"flow=", b"input=")):
        return f"The body is a form, not JSON; {_SEND}."
    if _BASE64_OF_AN_OBJECT.fullmatch(start):
        return f"The body is JSON in Base64, not JSON; {_SEND}."
    return None
