"""Checks that the worker's identity may do in Dataverse what each sink needs. They write nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from flow_contracts.guid import NIL_GUID
from flow_worker import clock
from flow_worker.access.build import Access
from flow_worker.access.privileges import DataversePrivileges
from flow_worker.access.user import User
from flow_worker.dataverse.client import DATAVERSE_UNAVAILABLE, DataverseClient
from flow_worker.delivery.port import GiveUp, RetryLater
from flow_worker.delivery.run_records import COLUMNS
from flow_worker.delivery.users import UserQueryRefused, Users
from flow_worker.delivery.web_api_attempts import Write, attempt_of
from flow_worker.doctor.causes import with_proxy
from flow_worker.doctor.finding import Check, Outcome, Result, failed, ok, unseen
from flow_worker.doctor.worker_role import RUN_RECORDS, NeededPrivilege, needed_by, urls_of
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import DeliverySettings, Settings
from flow_worker.settings.sinks import RowField

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
    return found + _run_record_checks(settings, access)


def _run_record_checks(settings: Settings, access: Access) -> list[Check]:
    url = settings.run_records.url_for(settings.flows, settings.dataverse)
    if url is None:
        return []
    organization = access.organizations[url]
    return [
        Check("run records", f"table at {url}", partial(_run_records, organization.client)),
        Check("run records", f"privileges at {url}", partial(_privileges, [RUN_RECORDS], organization)),
    ]


async def _unused() -> Result:
    return unseen("no request queue or flow delivers to it", "Name it in deliver_to of a request queue or a flow.")


async def _table(sink: DeliverySettings, client: DataverseClient) -> Result:
    """Read the columns of at most one row. An empty table answers too, and a missing column is named."""
    columns = tuple(sink.column_names.values())
    readable = f"'{sink.table_name}' has the {len(columns)} columns of the sink"
    found = await _first_row(client, Write(sink.set_name, f"prvRead{sink.table_name}", columns), readable)
    return found if found.outcome is not Outcome.OK else await _of_other_types(sink, client) or found


async def _of_other_types(sink: DeliverySettings, client: DataverseClient) -> Result | None:
    """Return the failure of a sink with columns that cannot hold their values; None if there are none.

    Dataverse refuses a filter that compares a column with a literal of another type, before it reads any row.
    """
    tests = {column: _test_of(field, column, sink) for field, column in sink.column_names.items()}
    try:
        if not await _is_refused(sink, client, tests.values()):
            return None
        wrong = [column for column, test in tests.items() if await _is_refused(sink, client, [test])]
    except TemporarilyUnavailable as error:
        return _unavailable(error, client.url)
    if not wrong:
        return None
    detail = f"columns of another type than the sink writes: {', '.join(wrong)}"
    return failed(detail, "Correct delivery.columns, delivery.status_choices or the table; see docs/reference.")


def _test_of(field: RowField, column: str, sink: DeliverySettings) -> str:
    if field in {"http_status", "attempts"} or (field == "status" and sink.status_choices):
        return f"{column} eq 0"
    if field in {"accepted_on", "finished_on"}:
        return f"{column} eq 2000-01-01T00:00:00Z"
    return f"contains({column},'x')"


async def _is_refused(sink: DeliverySettings, client: DataverseClient, tests: Iterable[str]) -> bool:
    # The comparison with an ID that no row has keeps Dataverse from searching the whole table.
    condition = f"{sink.table_name}id eq {NIL_GUID} and ({' or '.join(tests)})"
    path = f"/{sink.set_name}?$select={sink.table_name}id&$filter={quote(condition, safe='(),')}&$top=1"
    return (await client.get(path)).status == 400


async def _run_records(client: DataverseClient) -> Result:
    return await _first_row(client, Write("flowruns", RUN_RECORDS.name, COLUMNS), "the flow runs can be read")


async def _first_row(client: DataverseClient, table: Write, readable: str) -> Result:
    try:
        answer = await client.get(f"/{table.table}?$select={','.join(table.columns)}&$top=1")
    except TemporarilyUnavailable as error:
        return _unavailable(error, client.url)
    if answer.status == 200:
        return _readable(answer.body, readable)
    attempt = attempt_of(answer, replace(table, privileges=f"{table.privileges} to the worker's role"))
    cause = attempt.cause if isinstance(attempt, RetryLater | GiveUp) else f"Dataverse answered {answer.status}"
    detail, _, remedy = cause.partition("; ")
    return failed(detail, _sentence(remedy or _UNREACHABLE_REMEDY))


def _readable(body: bytes, readable: str) -> Result:
    if not body.startswith(b"{"):
        return failed("the answer is none of Dataverse's Web API", "Check the URL, and any proxy on the way to it.")
    return ok(readable)


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
