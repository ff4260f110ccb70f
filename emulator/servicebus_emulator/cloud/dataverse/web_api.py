"""Dataverse's Web API, limited to `WhoAmI`, the two functions that return privileges, and the rows of tables.

Sources: Microsoft Learn, Web API function reference (`RetrieveAadUserSetOfPrivilegesByNames`,
`RetrieveUserPrivilegeByPrivilegeName`), "Service protection API limits", "Web service error codes". No document shows
how the first function takes its collection, so the emulator accepts every form that OData allows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.dataverse import cors, notifications, odata, privilege_query
from servicebus_emulator.cloud.dataverse.custom_apis import CustomApis, Enqueue
from servicebus_emulator.cloud.dataverse.definitions import DataverseDefinition, DataverseFault, ServiceProtectionCode
from servicebus_emulator.cloud.dataverse.directory import Directory, PrivilegeGrant, privilege_id
from servicebus_emulator.cloud.dataverse.flow_runs import FlowRuns
from servicebus_emulator.cloud.dataverse.members import Members, Rights
from servicebus_emulator.cloud.dataverse.privilege_query import PrivilegeQuery
from servicebus_emulator.cloud.dataverse.service_protection import RequestCounter
from servicebus_emulator.cloud.dataverse.sign_in import SignIn
from servicebus_emulator.cloud.dataverse.table_calls import TableCalls
from servicebus_emulator.cloud.dataverse.table_definitions import APP_NOTIFICATIONS
from servicebus_emulator.cloud.dataverse.tables import Tables
from servicebus_emulator.cloud.dataverse.web_api_errors import (
    BAD_REQUEST,
    WebApiError,
    empty_response,
    error_response,
    json_response,
    no_such_row,
    no_such_segment,
    not_emulated,
)
from servicebus_emulator.cloud.dataverse.web_resources import WebResources
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.faults.injection import inject, retry_after_header, sends_status_line
from servicebus_emulator.cloud.faults.schedule import FaultSchedule

VERSION_PATH = "/api/data/v9.2"
API_PATH = f"{urls.DATAVERSE_PATH}{VERSION_PATH}"
MAX_RECORDS = 10_000
"""The calls that the emulator keeps; it drops the oldest beyond that."""


def _too_many_requests(limit: int, window_seconds: float) -> str:
    return f"Number of requests exceeded the limit of {limit} over time window of {window_seconds:g} seconds."


_LIMITS: Mapping[ServiceProtectionCode, str] = {
    "0x80072322": _too_many_requests(6000, 300),
    "0x80072321": "Combined execution time of incoming requests exceeded the limit of 1,200,000 milliseconds over time "
    "window of 300 seconds.",
    "0x80072326": "Number of concurrent requests exceeded the limit of 52.",
}
Operation = Callable[[Rights, bytes], web.Response]
"""Answers an admitted call with this body. Raises `WebApiError`."""


@dataclass(slots=True)
class WebApiCall:
    """The record of a call that reached the Web API. It never contains the bearer or the body."""

    time: str
    """ISO 8601, UTC."""
    method: str
    path: str
    """The URL after the version, decoded, with its query."""
    function: str | None = None
    """None: the call calls no function or action."""
    object_id: str | None = None
    system_user_id: str | None = None
    privileges: tuple[str, ...] = ()
    table: str | None = None
    """The entity set; None: the call reads and writes no rows."""
    caller: str | None = None
    """The object ID in the bearer; None if a fault came first or the bearer was not valid."""
    on_behalf_of: str | None = None
    """The object ID of the impersonated user."""
    status: int | None = None
    """The status of the answer; None while there is no answer."""
    forbidden: bool = False
    """True if the call could have created a user in a real organization."""


class DataverseHost:
    """The Web API of one organization."""

    def __init__(
        self,
        url: str,
        definition: DataverseDefinition,
        issuer: Issuer,
        identity: IdentityDefinition,
        enqueue: Enqueue,
    ) -> None:
        """`url` is the organization's, without a trailing slash; it is also the audience of its tokens."""
        self.url = url
        self._application_user = identity.managed_identity.object_id
        self._directory = Directory(definition)
        self._members = Members(self._directory, self._application_user)
        self.sign_in = SignIn(url, issuer)
        """Identifies callers."""
        self.web_resources = WebResources()
        """The files of the organization's pages."""
        self._faults = FaultSchedule(definition.faults)
        self._calls: deque[WebApiCall] = deque(maxlen=MAX_RECORDS)
        self.tables = Tables(definition.tables)
        """The tables and their rows."""
        self.flow_runs = FlowRuns(self.tables, lambda: self._directory.definition.flow_runs)
        """Takes note of the flows' runs."""
        self._requests = RequestCounter()
        self._custom_apis = CustomApis(f"{url}{VERSION_PATH}", lambda: self._directory, enqueue)
        self._table_calls = TableCalls(f"{url}{VERSION_PATH}", self.tables, lambda: self._members)

    @property
    def directory(self) -> Directory:
        """The current users and their privileges."""
        return self._directory

    @property
    def members(self) -> Members:
        """The current members."""
        return self._members

    def put(self, patch: Mapping[str, JsonValue]) -> None:
        """Merge fields into the organization's definition. Raise `pydantic.ValidationError` on a mistake."""
        current = self._directory.definition.model_dump(mode="json")
        definition = DataverseDefinition.model_validate(current | dict(patch), by_name=True, by_alias=False)
        self._directory = Directory(definition)
        self._members = Members(self._directory, self._application_user)
        if "faults" in patch:
            self._faults.replace(definition.faults)
        if "tables" in patch:
            self.tables.redefine(definition.tables)

    def calls(self) -> list[dict[str, object]]:
        """Return the recorded calls, oldest first."""
        return [asdict(call) for call in self._calls]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a call of `{url}/api/data/v9.2/…`."""
        if request.method == "OPTIONS":
            return cors.preflight(request)
        path = request.rel_url.path_qs.removeprefix(f"{API_PATH}/")
        call = WebApiCall(datetime.now(UTC).isoformat(), request.method, path)
        self._calls.append(call)
        # Before the fault, so that the record shows the query of an unanswered call too.
        operation = self._parse(request, call)
        fault = self._faults.next_fault(lambda fault: fault.applies(request.method, path))
        real = await self._answer(request, call, operation) if fault is None or fault.takes_effect else None
        response = await _inject(request, fault) if fault else None
        response = response or real or await self._answer(request, call, operation)
        if sends_status_line(fault):
            call.status = response.status
        return cors.share(request, response)

    def _parse(self, request: web.Request, call: WebApiCall) -> Operation | WebApiError:
        """Return the operation and record it; or the error that even an admitted caller would get."""
        try:
            return self._operation(request, call)
        except WebApiError as error:
            return error
        except odata.MalformedUrl as error:
            return WebApiError(400, BAD_REQUEST, str(error))
        except privilege_query.UserCreatingQuery:
            call.forbidden = True
            message = "A GET by azureactivedirectoryobjectid can create a user. Query the user by another key."
            return WebApiError(400, BAD_REQUEST, message)

    def _operation(self, request: web.Request, call: WebApiCall) -> Operation:
        if request.method == "GET" and request.rel_url.raw_path.removeprefix(API_PATH) in {"/WhoAmI", "/WhoAmI()"}:
            call.function = "WhoAmI"
            return lambda rights, _: self._who_am_i(rights)
        query = privilege_query.parse(request, API_PATH)
        if query is not None and request.method == "GET":
            call.function, call.privileges = query.function, query.privileges
            call.object_id = None if query.object_id is None else str(query.object_id)
            call.system_user_id = None if query.system_user_id is None else str(query.system_user_id)
            return lambda _, __: self._privileges(query)
        segments = odata.segments(request.rel_url.raw_path.removeprefix(API_PATH))
        if request.method == "POST" and segments == [notifications.ACTION]:
            call.function = notifications.ACTION
            return self._send_notification
        api = self._custom_apis.find(segments[0]) if request.method == "POST" and len(segments) == 1 else None
        if api is not None:
            call.function = api.unique_name
            return lambda rights, body: self._custom_apis.call(api, rights, body)
        literals = odata.aliases(request.rel_url.raw_query_string)
        row_request = self._table_calls.parse(request, segments[0], literals) if len(segments) == 1 else None
        if row_request is None:
            raise not_emulated("batches") if segments[0] == "$batch" else no_such_segment(segments[0])
        call.table = row_request.table.set_name
        return lambda rights, body: self._table_calls.carry_out(row_request, rights, body)

    async def _answer(
        self, request: web.Request, call: WebApiCall, operation: Operation | WebApiError
    ) -> web.StreamResponse:
        try:
            rights = self._admit(request, call)
            limit = self._directory.definition.request_limit
            wait = None if limit is None else self._requests.wait_seconds(str(rights.caller.object_id), limit)
            if limit is not None and wait is not None:
                message = _too_many_requests(limit.requests, limit.window_seconds)
                return error_response(429, "0x80072322", message, {"Retry-After": str(wait)})
            if isinstance(operation, WebApiError):
                raise operation
            return operation(rights, await request.read())
        except WebApiError as error:
            return error.response()

    def _admit(self, request: web.Request, call: WebApiCall) -> Rights:
        """Return the rights of the call. Raise `WebApiError` unless the caller is a member of the organization."""
        members = self._members
        caller = members.admit(self.sign_in.object_id(request))
        call.caller = str(caller.object_id)
        user = members.impersonated(request.headers, caller)
        rights = Rights(caller, user)
        call.on_behalf_of = None if rights.delegate is None else str(user.object_id)
        return rights

    def _who_am_i(self, rights: Rights) -> web.Response:
        """Return the answer of the function `WhoAmI`: the caller's row, its business unit, and the organization."""
        definition = self._directory.definition
        body = {
            "@odata.context": f"{self.url}{VERSION_PATH}/$metadata#{privilege_query.NAMESPACE}WhoAmIResponse",
            "BusinessUnitId": str(definition.business_unit_id),
            "UserId": str(rights.user.row),
            "OrganizationId": str(definition.organization_id),
        }
        return json_response(body)

    def _send_notification(self, rights: Rights, body: bytes) -> web.Response:
        rights.require(notifications.PRIVILEGE)
        table = self.tables.by_name(APP_NOTIFICATIONS.logical_name)
        if table is None:
            raise no_such_segment(notifications.ACTION)
        self._table_calls.create(table, rights, notifications.to_row(body))
        return empty_response()

    def _privileges(self, query: PrivilegeQuery) -> web.Response:
        context = f"{self.url}{VERSION_PATH}/$metadata#{privilege_query.NAMESPACE}{query.function}Response"
        rows = [self._row(grant) for grant in self._grants(query)]
        return json_response({"@odata.context": context, "RolePrivileges": rows})

    def _grants(self, query: PrivilegeQuery) -> list[PrivilegeGrant]:
        """Return the grants of the queried user. Raise `_WebApiError` if the user does not exist."""
        directory = self._directory
        if query.object_id is not None:
            user = directory.by_object_id(query.object_id)
        else:
            user = directory.by_system_user_id(query.system_user_id)
        if user is not None:
            return directory.grants(user, query.privileges, exclude_team_basic=query.exclude_team_basic)
        if (application := self._members.application(query.object_id or query.system_user_id)) is not None:
            return application.grants(query.privileges)
        if query.object_id is not None and directory.definition.unknown_object_id == "empty":
            return []
        missing = query.object_id or query.system_user_id
        raise no_such_row("systemuser", missing)

    def _row(self, grant: PrivilegeGrant) -> dict[str, str]:
        return {
            "Depth": grant.depth,
            "PrivilegeId": str(privilege_id(grant.privilege)),
            "BusinessUnitId": str(self._directory.definition.business_unit_id),
            "PrivilegeName": grant.privilege,
        }


async def _inject(request: web.Request, fault: DataverseFault) -> web.StreamResponse | None:
    """Inject a fault; a `throttle` gets Dataverse's own body instead of Power Automate's."""
    if fault.kind != "throttle":
        return await inject(request, fault, {})
    await asyncio.sleep(fault.delay_seconds)
    return error_response(429, fault.code, _LIMITS[fault.code], retry_after_header(fault))
