"""Dataverse's Web API as far as it tells which privileges a user holds.

Sources: Microsoft Learn, Web API function reference (`RetrieveAadUserSetOfPrivilegesByNames`,
`RetrieveUserPrivilegeByPrivilegeName`), "Service protection API limits", "Web service error codes". How the first of
them takes its collection is shown nowhere, so each form that OData allows is taken.
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
from servicebus_emulator.cloud.dataverse.directory import Holding, Organization, privilege_id
from servicebus_emulator.cloud.dataverse.privilege_query import Question
from servicebus_emulator.cloud.definitions import DataverseDefinition, DataverseFault, Fault, IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.faults import Faults, answers, inflict, retry_after
from servicebus_emulator.servicebus.access.entra import InvalidToken

API = f"{urls.DATAVERSE}/api/data/v9.2"
REMEMBERED = 10_000
"""Calls; older ones are forgotten."""

_BAD_REQUEST = "0x0"
_NO_SUCH_ROW = "0x80040217"
_NO_SUCH_SEGMENT = "0x80060888"
_NOT_A_MEMBER = "0x80072560"
_UNAUTHENTICATED = "0x80040204"
_LIMITS: Mapping[str, str] = {
    "0x80072322": "Number of requests exceeded the limit of 6000 over time window of 300 seconds.",
    "0x80072321": "Combined execution time of incoming requests exceeded the limit of 1,200,000 milliseconds over time "
    "window of 300 seconds.",
    "0x80072326": "Number of concurrent requests exceeded the limit of 52.",
}


@dataclass(slots=True)
class Record:
    """A call that reached the Web API; never with its bearer."""

    time: str
    """ISO 8601, UTC."""
    path: str
    """What follows the version, decoded, and with its query."""
    function: str | None = None
    """None: neither of the two that tell privileges."""
    object_id: str | None = None
    system_user_id: str | None = None
    privileges: tuple[str, ...] = ()
    caller: str | None = None
    """The object ID in the bearer, if that was good and was looked at."""
    status: int | None = None
    """What was answered; None: nothing, or nothing yet."""
    forbidden: bool = False
    """It could have created a user in a real organization."""


class _Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class DataverseHost:
    """The Web API of one organization."""

    def __init__(self, url: str, definition: DataverseDefinition, issuer: Issuer, identity: IdentityDefinition) -> None:
        """`url`: the organization's, which is the audience of its tokens, too; without a slash."""
        self.url = url
        self._issuer = issuer
        self._identity = identity
        self._organization = Organization(definition)
        self._faults = Faults(definition.faults)
        self._records: deque[Record] = deque(maxlen=REMEMBERED)

    @property
    def organization(self) -> Organization:
        """Who is in it and who holds what, at present."""
        return self._organization

    def put(self, patch: Mapping[str, JsonValue]) -> None:
        """Merge fields into the organization's definition. Raises `pydantic.ValidationError`."""
        now = self._organization.definition.model_dump(mode="json")
        definition = DataverseDefinition.model_validate(now | dict(patch), by_name=True, by_alias=False)
        self._organization = Organization(definition)
        if "faults" in patch:
            self._faults.put(definition.faults)

    def calls(self) -> list[dict[str, object]]:
        """The calls so far, the oldest first."""
        return [asdict(record) for record in self._records]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """`GET {url}/api/data/v9.2/…`."""
        record = Record(datetime.now(UTC).isoformat(), request.rel_url.path_qs.removeprefix(f"{API}/"))
        self._records.append(record)
        asked = _read(request, record)  # first, so that what a fault leaves unanswered is on record, too
        fault = self._faults.strike()
        instead = await _struck(request, fault) if fault else None
        answer = self._own(request, record, asked) if instead is None else instead
        if answers(fault):
            record.status = answer.status
        return answer

    def _own(self, request: web.Request, record: Record, asked: Question | _Refused) -> web.Response:
        try:
            record.caller = self._admitted(request)
            if isinstance(asked, _Refused):
                raise asked
            return self._privileges(asked)
        except _Refused as refused:
            return _error(refused.status, refused.code, refused.message)

    def _admitted(self, request: web.Request) -> str:
        """The caller's object ID. Raises `_Refused`."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _Refused(401, _UNAUTHENTICATED, "No bearer was sent.")
        try:
            claims = self._issuer.verify(token)
        except InvalidToken as error:
            raise _Refused(401, _UNAUTHENTICATED, f"The bearer does not hold: {error}.") from None
        if claims.get("aud") not in {self.url, f"{self.url}/"}:
            raise _Refused(401, _UNAUTHENTICATED, "The bearer is for another audience.")
        caller = str(claims.get("oid", ""))
        if caller not in self._application_users():
            raise _Refused(403, _NOT_A_MEMBER, "The user is not a member of the organization.")
        return caller

    def _application_users(self) -> set[str]:
        allowed = self._organization.definition.application_users
        users = (self._identity.managed_identity.object_id,) if allowed is None else allowed
        return {str(user) for user in users}

    def _privileges(self, asked: Question) -> web.Response:
        body = {
            "@odata.context": f"{self.url}/api/data/v9.2/$metadata#{privilege_query.NAMESPACE}{asked.function}Response",
            "RolePrivileges": [self._row(holding) for holding in self._held(asked)],
        }
        return _json(body)

    def _held(self, asked: Question) -> list[Holding]:
        """Raises `_Refused` for a user that there is not."""
        organization = self._organization
        if asked.object_id is not None:
            user = organization.by_object_id(asked.object_id)
        else:
            user = organization.by_system_user_id(asked.system_user_id)
        if user is not None:
            return organization.held(user, asked.privileges, exclude_team_basic=asked.exclude_team_basic)
        if asked.object_id is not None and organization.definition.unknown_object_id == "empty":
            return []
        missing = asked.object_id or asked.system_user_id
        raise _Refused(404, _NO_SUCH_ROW, f"systemuser With Id = {missing} Does Not Exist")

    def _row(self, holding: Holding) -> dict[str, str]:
        return {
            "Depth": holding.depth,
            "PrivilegeId": str(privilege_id(holding.privilege)),
            "BusinessUnitId": str(self._organization.definition.business_unit_id),
            "PrivilegeName": holding.privilege,
        }


def _read(request: web.Request, record: Record) -> Question | _Refused:
    """What is asked, which goes on record; or why it gets no answer, whoever asks."""
    try:
        asked = privilege_query.read(request, API)
    except odata.Malformed as error:
        return _Refused(400, _BAD_REQUEST, str(error))
    except privilege_query.CouldCreateUser:
        record.forbidden = True
        return _Refused(400, _BAD_REQUEST, "A GET by azureactivedirectoryobjectid can create a user: never ask so.")
    except privilege_query.NoSuchSegment as error:
        return _Refused(404, _NO_SUCH_SEGMENT, str(error))
    record.function, record.privileges = asked.function, asked.privileges
    record.object_id = None if asked.object_id is None else str(asked.object_id)
    record.system_user_id = None if asked.system_user_id is None else str(asked.system_user_id)
    return asked


async def _struck(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    if fault.kind != "throttle" or not isinstance(fault, DataverseFault):
        return await inflict(request, fault, {})
    await asyncio.sleep(fault.delay_seconds)
    return _error(429, fault.code, _LIMITS[fault.code], retry_after(fault))


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return _json({"error": {"code": code, "message": message}}, status, {**challenge, **(headers or {})})


def _json(body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    content_type = "application/json; odata.metadata=minimal; charset=utf-8"
    own = {"OData-Version": "4.0", "Content-Type": content_type}
    return web.Response(body=json.dumps(body).encode(), status=status, headers={**own, **(headers or {})})
