"""Message properties in HTTP headers and in the JSON of a batch.

Source: Microsoft Learn, "Message headers and properties" of the Service Bus REST API. That page defines the types of
values, the forms of timestamps and times to live, and that the service ignores unknown properties. The page does not
list the header names that are no properties: `RESERVED` is the emulator's list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from math import isfinite
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_pascal

from servicebus_emulator.amqp import Long, Timestamp
from servicebus_emulator.servicebus.duration import MAX_SECONDS
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError
from servicebus_emulator.validation import explain

BROKER_PROPERTIES = "BrokerProperties"
RESERVED = frozenset(
    """accept accept-charset accept-encoding accept-language allow authorization baggage brokerproperties cache-control
    connection content-disposition content-encoding content-language content-length content-location content-range
    content-type cookie correlation-context date dnt etag expect expires forwarded from host if-match if-modified-since
    if-none-match if-range if-unmodified-since keep-alive last-modified location max-forwards origin pragma
    proxy-authenticate proxy-authorization proxy-connection range referer request-id retry-after server
    servicebusauthorization servicebusdlqsupplementaryauthorization servicebussupplementaryauthorization set-cookie
    strict-transport-security te traceparent tracestate trailer transfer-encoding upgrade user-agent via warning
    www-authenticate""".split()  # noqa: SIM905 - a list would take sixty lines
)
"""Headers that are no properties, in lower case. Names that start with one of `_RESERVED_PREFIXES` are none either."""
_RESERVED_PREFIXES = ("x-ms-", "x-forwarded-", "sec-")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HTTP_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_SPAN = re.compile(r"(?:(\d{1,8})\.)?(\d{1,2}):(\d{1,2}):(\d{1,2}(?:\.\d{1,7})?)", re.ASCII)
_ESCAPED = re.compile(r'\\(["\\])')
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


class BrokerProperties(BaseModel):
    """The broker properties that a sender may set. A time to live is in seconds or a .NET time span."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="ignore", strict=True, allow_inf_nan=False)

    message_id: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    partition_key: str | None = None
    via_partition_key: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    to: str | None = None
    label: str | None = None
    time_to_live: float | None = Field(default=None, gt=0)
    time_to_live_time_span: str | None = None
    scheduled_enqueue_time_utc: str | None = None

    def ttl_seconds(self) -> float | None:
        """Return the time to live in seconds; None if the message lives as long as the queue allows.

        Raises `ServiceBusError` for a malformed time span.
        """
        seconds = self.time_to_live
        if seconds is None and self.time_to_live_time_span is not None:
            seconds = _span(self.time_to_live_time_span)
        return None if seconds is None or seconds >= MAX_SECONDS else seconds

    def scheduled_at(self) -> datetime | None:
        """Return the time to enqueue the message, or None. Raises `ServiceBusError` for a malformed date."""
        text = self.scheduled_enqueue_time_utc
        if not text:
            return None
        try:
            moment = parsedate_to_datetime(text) if text[0].isalpha() else datetime.fromisoformat(text)
        except ValueError:
            raise _invalid("ScheduledEnqueueTimeUtc: must be a date as in 'Sun, 06 Nov 1994 08:49:37 GMT'") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_broker_properties(header: str | None) -> BrokerProperties:
    """Read the header of a single message. Raises `ServiceBusError` if it is malformed."""
    try:
        return BrokerProperties.model_validate_json(header or "{}", by_alias=True)
    except ValidationError as error:
        raise _invalid(explain(error)) from None


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, object]:
    """Return the application properties among the headers of a request. Raises `ServiceBusError`, naming the header."""
    properties: dict[str, object] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        if not _is_reserved(name):
            properties[name] = _infer(name, _decode(raw_value).strip())
    return properties


def read_json(given: Mapping[str, JsonValue]) -> dict[str, object]:
    """Return the application properties of a message in a batch. Raises `ServiceBusError`, naming the property."""
    for name, value in given.items():
        if isinstance(value, dict | list):
            raise ServiceBusError(ARGUMENT_ERROR, f"UserProperties.{name}: must be a text, a number, true or false.")
    return {name: _long(name, value) if type(value) is int else value for name, value in given.items()}


def write_headers(properties: Mapping[object, object]) -> dict[str, str]:
    """Return application properties as headers. Properties without an HTTP form are omitted, as by the service."""
    headers = {str(name): _format(value) for name, value in properties.items()}
    return {
        name: value
        for name, value in headers.items()
        if value is not None and _TOKEN.fullmatch(name) and not _is_reserved(name)
    }


def write_broker_properties(properties: Mapping[str, object]) -> str:
    """Return the header of a received message. Members are in alphabetical order; None is omitted."""
    members = {name: value for name, value in sorted(properties.items()) if value is not None}
    return json.dumps(members, separators=(",", ":"))


def http_date(seconds: float) -> str:
    """Return seconds since the epoch as an HTTP date, clamped to the years 1 to 9999."""
    return format_datetime(_EPOCH + timedelta(seconds=int(min(max(seconds, _FIRST_SECOND), _LAST_SECOND))), usegmt=True)


def _infer(name: str, value: str) -> object:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return _unquote(value[1:-1])
    if value in ("true", "false"):
        return value == "true"
    if _WHOLE.fullmatch(value):
        return _long(name, int(value))
    if _DECIMAL.fullmatch(value):
        return float(value)
    text = "a text goes in quotation marks; without them it must be true, false or a number"
    raise ServiceBusError(ARGUMENT_ERROR, f"The value of the HTTP header {name} is invalid: {text}.")


def _unquote(value: str) -> object:
    if _HTTP_DATE.fullmatch(value):
        try:
            return Timestamp(int(parsedate_to_datetime(value).timestamp() * 1000))
        except ValueError:
            return value
    return _ESCAPED.sub(r"\1", value)


def _long(name: str, value: int) -> Long:
    if not -(2**63) <= value < 2**63:
        raise ServiceBusError(ARGUMENT_ERROR, f"{name}: {value} is no 64-bit number; write it as a text.")
    return Long(value)


def _format(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case Timestamp():
            return f'"{http_date(value / 1000)}"'
        case int() | float() if isfinite(value):
            return repr(value + 0)
        case str() | UUID():
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{_CONTROL.sub(" ", escaped)}"'
        case _:
            return None


def _is_reserved(name: str) -> bool:
    return name.lower() in RESERVED or name.lower().startswith(_RESERVED_PREFIXES)


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _span(text: str) -> float:
    parts = _SPAN.fullmatch(text)
    seconds = 0.0
    if parts is not None:
        days, hours, minutes, rest = parts.groups(default="0")
        seconds = int(days) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + float(rest)
    if seconds <= 0:
        raise _invalid("TimeToLiveTimeSpan: must be a time span as in '0.00:00:40'")
    return seconds


def _invalid(fault: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"{BROKER_PROPERTIES} is invalid: {fault}.")
