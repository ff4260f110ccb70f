"""Checks that the worker's identity may do in Dataverse what each sink needs. They write nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from flow_worker import clock
from flow_worker.access.build import Access
from flow_worker.access.privileges import DataversePrivileges
from flow_worker.access.user import User
from flow_worker.dataverse.client import DATAVERSE_UNAVAILABLE, DataverseClient
from flow_worker.delivery.port import GiveUp, RetryLater
from flow_worker.delivery.users import UserQueryRefused, Users
from flow_worker.delivery.web_api_attempts import Write, attempt_of
from flow_worker.doctor.causes import with_proxy
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.doctor.worker_role import NeededPrivilege, needed_by, urls_of
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import DeliverySettings, Settings

_ROLE_REMEDY = "Add them to the security role of the worker's application user; see deploy/dataverse."
_UNREACHABLE_REMEDY = "Make the worker's identity an application user of the organization."


def checks(settings: Settings, access: Access) -> list[Check]:
    """Return the checks of all sinks, for each organization that they write to."""
    found = []
    for name, sink in settings.delivery.items():
        urls = urls_of(name, settings)
        if not urls:
            found.append(Check("delivery", name, _unused))
        for url in urls:
            organization = access.organizations[url]
            if sink.kind == "dataverse_row":
                found.append(Check("delivery", f"{name}: table at {url}", partial(_table, sink, organization.client)))
            privileges = partial(_privileges, list(needed_by(sink)), organization)
            found.append(Check("delivery", f"{name}: privileges at {url}", privileges))
    return found


async def _unused() -> Result:
    return unseen("no request queue or flow delivers to it", "Name it in deliver_to of a request queue or a flow.")


async def _table(sink: DeliverySettings, client: DataverseClient) -> Result:
    """Read the columns of at most one row. An empty table answers too, and a missing column is named."""
    columns = tuple(sink.column_names.values())
    try:
        answer = await client.get(f"/{sink.set_name}?$select={','.join(columns)}&$top=1")
    except TemporarilyUnavailable as error:
        return _unavailable(error, client.url)
    if answer.status == 200:
        return _readable(answer.body, sink)
    attempt = attempt_of(answer, Write(sink.set_name, f"prvRead{sink.table_name} to the worker's role", columns))
    cause = attempt.cause if isinstance(attempt, RetryLater | GiveUp) else f"Dataverse answered {answer.status}"
    detail, _, remedy = cause.partition("; ")
    return failed(detail, _sentence(remedy or _UNREACHABLE_REMEDY))


def _readable(body: bytes, sink: DeliverySettings) -> Result:
    if not body.startswith(b"{"):
        return failed("the answer is none of Dataverse's Web API", "Check the URL, and any proxy on the way to it.")
    return ok(f"'{sink.table_name}' has the {len(sink.column_names)} columns of the sink")


async def _privileges(needed: Iterable[NeededPrivilege], organization: DataversePrivileges) -> Result:
    users = Users(organization.client, clock.now)
    try:
        own = User(None, await users.own_row())
        held = [(each, await organization.depth(own, each.name)) for each in needed]
    except TemporarilyUnavailable as error:
        return _unavailable(error, organization.client.url)
    except UserQueryRefused as error:
        return failed(str(error), _UNREACHABLE_REMEDY)
    missing = [each.shown for each, depth in held if depth is None or depth < each.depth]
    if missing:
        return failed(f"the worker's role lacks {', '.join(missing)}", _ROLE_REMEDY)
    return ok(f"the worker holds {', '.join(each.shown for each, _ in held)}")


def _unavailable(error: TemporarilyUnavailable, url: str) -> Result:
    remedy = _UNREACHABLE_REMEDY if error.code == DATAVERSE_UNAVAILABLE else f"See the line 'token: Dataverse {url}'."
    return failed(error.message, with_proxy(remedy, url))


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."
