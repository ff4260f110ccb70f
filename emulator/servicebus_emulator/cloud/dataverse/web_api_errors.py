"""Error answers and JSON answers of Dataverse's Web API.

Source of the codes: Microsoft Learn, "Web service error codes". Where no document shows the answer to a mistake, the
comment beside its code says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

BAD_REQUEST = "0x0"
DUPLICATE_KEY_VALUES = "0x80060892"
DUPLICATE_ROW = "0x80040237"
INTEGER_OUT_OF_RANGE = "0x8004432f"
INVALID_ARGUMENT = "0x80040203"
INVALID_PAYLOAD = "0x80048d19"
MISSING_PRIVILEGE = "0x80040220"
NO_ACCESS_TO_ROW = "0x80048306"
NO_SUCH_KEY_VALUES = "0x80060891"
NO_SUCH_ROW = "0x80040217"
NO_SUCH_SEGMENT = "0x80060888"
NOT_A_MEMBER = "0x80072560"
NUMBER_OUT_OF_RANGE = "0x80044330"
OPTION_OUT_OF_RANGE = "0x8004431a"
TEXT_TOO_LONG = "0x80044331"
UNAUTHENTICATED = "0x80040204"
UNKNOWN_PROPERTY = "0x80060888"
USER_DISABLED = "0x80040225"
VERSION_MISMATCH = "0x80060882"

_CONTENT_TYPE = "application/json; odata.metadata=minimal; charset=utf-8"


class WebApiError(Exception):
    """An error answer of the Web API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def response(self) -> web.Response:
        """Return the answer."""
        return error_response(self.status, self.code, self.message)


def invalid_payload(table: str, reason: str) -> WebApiError:
    """Return the answer to a body that does not fit its table."""
    text = (
        f"Error identified in Payload provided by the user for Entity :'{table}', For more information on this error "
        "please follow this help link https://go.microsoft.com/fwlink/?linkid=2195293  ---->  InnerException : "
        f"Microsoft.OData.ODataException: {reason}"
    )
    return WebApiError(400, INVALID_PAYLOAD, text)


def no_such_row(table: str, row: object) -> WebApiError:
    """Return the answer to a call for a row that does not exist."""
    return WebApiError(404, NO_SUCH_ROW, f"{table} With Id = {row} Does Not Exist")


def no_such_segment(segment: str) -> WebApiError:
    """Return the answer to a URL that names nothing."""
    return WebApiError(404, NO_SUCH_SEGMENT, f"Resource not found for the segment '{segment[:300]}'.")


def not_emulated(what: str) -> WebApiError:
    """Return the answer to a request that Dataverse understands and the emulator does not."""
    return WebApiError(501, BAD_REQUEST, f"The emulator does not support {what[:300]}.")


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error answer."""
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return json_response({"error": {"code": code, "message": message}}, status, {**challenge, **(headers or {})})


def json_response(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer with a JSON body."""
    defaults = {"OData-Version": "4.0", "Content-Type": _CONTENT_TYPE}
    return web.Response(body=json.dumps(body).encode(), status=status, headers={**defaults, **(headers or {})})


def empty_response(headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a 204."""
    return web.Response(status=204, headers={"OData-Version": "4.0", **(headers or {})})
