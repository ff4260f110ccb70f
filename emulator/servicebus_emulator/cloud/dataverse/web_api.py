"""Dataverse's Web API, limited to `WhoAmI` and the two functions that return privileges.

Sources: Microsoft Learn, Web API function reference (`RetrieveAadUserSetOfPrivilegesByNames`,
`RetrieveUserPrivilegeByPrivilegeName`), "Service protection API limits", "Web service error codes". No document shows
how the first function takes its collection, so the emulator accepts every form that OData allows.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.dataverse import odata, privilege_query
from servicebus_emulator.cloud.dataverse.definitions import DataverseDefinition, DataverseFault, ServiceProtectionCode
from servicebus_emulator.cloud.dataverse.directory import Directory, PrivilegeGrant, privilege_id
from servicebus_emulator.cloud.dataverse.privilege_query import PrivilegeQuery
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.faults.injection import inject, retry_after_header, sends_status_line
from servicebus_emulator.cloud.faults.schedule import FaultSchedule
from servicebus_emulator.servicebus.access.entra import InvalidToken

API_PATH = f"{urls.DATAVERSE_PATH}/api/data/v9.2"
MAX_RECORDS = 10_000
"""The calls that the emulator keeps; it drops the oldest beyond that."""

_BAD_REQUEST = "0x0"
_NO_SUCH_ROW = "0x80040217"
_NO_SUCH_SEGMENT = "0x80060888"
_NOT_A_MEMBER = "0x80072560"
_UNAUTHENTICATED = "0x80040204"
_LIMITS: Mapping[ServiceProtectionCode, str] = {
    "0x80072322": "Number of requests exceeded the limit of 6000 over time window of 300 seconds.",
    "0x80072321": "Combined execution time of incoming requests exceeded the limit of 1,200,000 milliseconds over time "
    "window of 300 seconds.",
    "0x80072326": "Number of concurrent requests exceeded the limit of 52.",
}


@dataclass(slots=True)
class WebApiCall:
    """The record of a call that reached the Web API. It never contains the bearer."""

    time: str
    """ISO 8601, UTC."""
    path: str
    """The URL after the version, decoded, with its query."""
    function: str | None = None
    """None: the call is none of the three functions."""
    object_id: str | None = None
    system_user_id: str | None = None
    privileges: tuple[str, ...] = ()
    caller: str | None = None
    """The object ID in the bearer; None if a fault came first or the bearer was not valid."""
    status: int | None = None
    """The status of the answer; None while there is no answer."""
    forbidden: bool = False
    """True if the call could have created a user in a real organization."""


class _WebApiError(Exception):
    """An error answer of the Web API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class DataverseHost:
    """The Web API of one organization."""

    def __init__(self, url: str, definition: DataverseDefinition, issuer: Issuer, identity: IdentityDefinition) -> None:
        """`url` is the organization's, without a trailing slash; it is also the audience of its tokens."""
        self.url = url
        self._issuer = issuer
        self._identity = identity
        self._directory = Directory(definition)
        self._faults = FaultSchedule(definition.faults)
        self._calls: deque[WebApiCall] = deque(maxlen=MAX_RECORDS)

    @property
    def directory(self) -> Directory:
        """The current users and their privileges."""
        return self._directory

    def put(self, patch: Mapping[str, JsonValue]) -> None:
        """Merge fields into the organization's definition. Raise `pydantic.ValidationError` on a mistake."""
        current = self._directory.definition.model_dump(mode="json")
        definition = DataverseDefinition.model_validate(current | dict(patch), by_name=True, by_alias=False)
        self._directory = Directory(definition)
        if "faults" in patch:
            self._faults.replace(definition.faults)

    def calls(self) -> list[dict[str, object]]:
        """Return the recorded calls, oldest first."""
        return [asdict(call) for call in self._calls]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET {url}/api/data/v9.2/…`."""
        call = WebApiCall(datetime.now(UTC).isoformat(), request.rel_url.path_qs.removeprefix(f"{API_PATH}/"))
        self._calls.append(call)
        # Before the fault, so that the record shows the query of an unanswered call too.
        query = None if _asks_who_am_i(request, call) else _parse(request, call)
        fault = self._faults.next_fault()
        response = await _inject(request, fault) if fault else None
        if response is None:
            response = self._answer(request, call, query)
        if sends_status_line(fault):
            call.status = response.status
        return response

    def _answer(
        self, request: web.Request, call: WebApiCall, query: PrivilegeQuery | _WebApiError | None
    ) -> web.Response:
        try:
            call.caller = self._admit(request)
            if query is None:
                return self._who_am_i(call.caller)
            if isinstance(query, _WebApiError):
                raise query
            return self._privileges(query)
        except _WebApiError as error:
            return _error(error.status, error.code, error.message)

    def _admit(self, request: web.Request) -> str:
        """Return the caller's object ID. Raise `_WebApiError` unless the caller is an application user."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _WebApiError(401, _UNAUTHENTICATED, "The request has no bearer token.")
        try:
            claims = self._issuer.verify(token)
        except InvalidToken as error:
            raise _WebApiError(401, _UNAUTHENTICATED, f"The bearer token is not valid: {error}.") from None
        if claims.get("aud") not in {self.url, f"{self.url}/"}:
            raise _WebApiError(401, _UNAUTHENTICATED, "The bearer token is for another audience.")
        caller = str(claims.get("oid", ""))
        if caller not in self._application_users():
            raise _WebApiError(403, _NOT_A_MEMBER, "The user is not a member of the organization.")
        return caller

    def _application_users(self) -> set[str]:
        configured = self._directory.definition.application_users
        users = (self._identity.managed_identity.object_id,) if configured is None else configured
        return {str(user) for user in users}

    def _who_am_i(self, caller: str) -> web.Response:
        """Return the answer of the function `WhoAmI`: the caller's row, its business unit, and the organization."""
        definition = self._directory.definition
        body = {
            "@odata.context": f"{self.url}/api/data/v9.2/$metadata#{privilege_query.NAMESPACE}WhoAmIResponse",
            "BusinessUnitId": str(definition.business_unit_id),
            "UserId": caller,
            "OrganizationId": str(definition.organization_id),
        }
        return _json(body)

    def _privileges(self, query: PrivilegeQuery) -> web.Response:
        body = {
            "@odata.context": f"{self.url}/api/data/v9.2/$metadata#{privilege_query.NAMESPACE}{query.function}Response",
            "RolePrivileges": [self._row(grant) for grant in self._grants(query)],
        }
        return _json(body)

    def _grants(self, query: PrivilegeQuery) -> list[PrivilegeGrant]:
        """Return the grants of the queried user. Raise `_WebApiError` if the user does not exist."""
        directory = self._directory
        if query.object_id is not None:
            user = directory.by_object_id(query.object_id)
        else:
            user = directory.by_system_user_id(query.system_user_id)
        if user is not None:
            return directory.grants(user, query.privileges, exclude_team_basic=query.exclude_team_basic)
        if query.object_id is not None and directory.definition.unknown_object_id == "empty":
            return []
        missing = query.object_id or query.system_user_id
        raise _WebApiError(404, _NO_SUCH_ROW, f"systemuser With Id = {missing} Does Not Exist")

    def _row(self, grant: PrivilegeGrant) -> dict[str, str]:
        return {
            "Depth": grant.depth,
            "PrivilegeId": str(privilege_id(grant.privilege)),
            "BusinessUnitId": str(self._directory.definition.business_unit_id),
            "PrivilegeName": grant.privilege,
        }


def _asks_who_am_i(request: web.Request, call: WebApiCall) -> bool:
    asks = request.rel_url.raw_path.removeprefix(API_PATH) in {"/WhoAmI", "/WhoAmI()"}
    call.function = "WhoAmI" if asks else None
    return asks


def _parse(request: web.Request, call: WebApiCall) -> PrivilegeQuery | _WebApiError:
    """Return the query and record it; or the error that even an admitted caller would get."""
    try:
        query = privilege_query.parse(request, API_PATH)
    except odata.MalformedUrl as error:
        return _WebApiError(400, _BAD_REQUEST, str(error))
    except privilege_query.UserCreatingQuery:
        call.forbidden = True
        message = "A GET by azureactivedirectoryobjectid can create a user. Query the user by another key."
        return _WebApiError(400, _BAD_REQUEST, message)
    except privilege_query.UnknownSegment as error:
        return _WebApiError(404, _NO_SUCH_SEGMENT, str(error))
    call.function, call.privileges = query.function, query.privileges
    call.object_id = None if query.object_id is None else str(query.object_id)
    call.system_user_id = None if query.system_user_id is None else str(query.system_user_id)
    return query


async def _inject(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    """Inject a fault; a `throttle` gets Dataverse's own body instead of Power Automate's."""
    if fault.kind != "throttle" or not isinstance(fault, DataverseFault):
        return await inject(request, fault, {})
    await asyncio.sleep(fault.delay_seconds)
    return _error(429, fault.code, _LIMITS[fault.code], retry_after_header(fault))


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return _json({"error": {"code": code, "message": message}}, status, {**challenge, **(headers or {})})


def _json(body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    content_type = "application/json; odata.metadata=minimal; charset=utf-8"
    defaults = {"OData-Version": "4.0", "Content-Type": content_type}
    return web.Response(body=json.dumps(body).encode(), status=status, headers={**defaults, **(headers or {})})
