"""The sink `dataverse_row`: one row for each request, which its asker owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flow_contracts.guid import NotGuid, parse_guid
from flow_worker.dataverse.client import WebApiAnswer
from flow_worker.delivery.organization import Organization, Organizations
from flow_worker.delivery.port import Asker, Attempt, Delivery, GiveUp, RetryLater, Sink
from flow_worker.delivery.row_content import RowTable, row_content
from flow_worker.delivery.row_ids import row_id
from flow_worker.delivery.users import UserQueryRefused
from flow_worker.delivery.web_api_attempts import Write, attempt_of, is_too_long, shown_status, unavailable
from flow_worker.errors import TemporarilyUnavailable

IMPERSONATION_REFUSED = "dataverse_impersonation_refused"
FOREIGN_ROW = "dataverse_row_of_another"
Fallback = Literal["retry", "own"]
"""`retry`: the row waits until the worker may write it for the asker. `own`: the worker itself owns it."""

_CREATE_ONLY = {"if-none-match": "*"}
_NOT_A_MEMBER = {"0x80072560", "0x80040225", "0x80041d1f", "0x80040217"}
"""The caller is no user of the organization, or a disabled one, or a row that does not exist."""


@dataclass(frozen=True, slots=True)
class RowRules:
    """How the rows are written."""

    table: RowTable
    writes_pending: bool
    """A row exists from the admission of the request on, with the status `pending`."""
    impersonates: bool
    """The worker writes for the asker, so that the asker owns the row."""
    fallback: Fallback


class DataverseRowSink(Sink):
    """Writes a row whose ID follows from the request's message ID, so that no write creates a second one."""

    def __init__(self, name: str, organizations: Organizations, rules: RowRules) -> None:
        self.name = name
        self._organizations = organizations
        self._rules = rules

    def target_of(self, delivery: Delivery) -> str:
        """See `Sink.target_of`: the organization."""
        return self._organizations.url_of(delivery)

    def wants(self, delivery: Delivery) -> bool:
        """See `Sink.wants`."""
        return delivery.result is not None or self._rules.writes_pending

    async def deliver(self, delivery: Delivery) -> Attempt:
        """See `Sink.deliver`."""
        organization = self._organizations.of(delivery)
        try:
            if not self._rules.impersonates:
                return await self._write(organization, delivery, {}, is_create=_is_create(delivery))
            return await self._impersonated(organization, delivery)
        except TemporarilyUnavailable as error:
            return unavailable(error)
        except UserQueryRefused as error:
            return attempt_of(error.answer, Write("systemusers", "prvReadUser to the worker's role"))

    async def close(self) -> None:
        """See `Sink.close`. The clients belong to others."""

    async def _impersonated(self, organization: Organization, delivery: Delivery) -> Attempt:
        caller = impersonation(self._organizations.asker_in(delivery))
        if caller is not None:
            attempt = await self._write(organization, delivery, caller, is_create=_is_create(delivery))
            if not isinstance(attempt, RetryLater) or attempt.code != IMPERSONATION_REFUSED:
                return attempt
        else:
            attempt = RetryLater(IMPERSONATION_REFUSED, "the organization of the row does not know the asker")
        return attempt if self._rules.fallback == "retry" else await self._as_own(organization, delivery)

    async def _as_own(self, organization: Organization, delivery: Delivery) -> Attempt:
        """Write the row without impersonation: create it, or change one that belongs to the worker or the asker.

        A sender can name the message ID of another one's request. Without this check, that sender could own the row
        that the worker writes the other one's output into.
        """
        attempt = await self._write(organization, delivery, _CREATE_ONLY, is_create=True)
        if not _exists(attempt) or _is_create(delivery):
            return attempt
        path = f"{self._path(delivery)}?$select=_ownerid_value"
        answer = await organization.client.get(path)
        if answer.status != 200:
            return attempt_of(answer, self._target())
        if await self._may_change(organization, delivery, answer):
            return await self._write(organization, delivery, {}, is_create=False)
        return GiveUp(FOREIGN_ROW, "another user owns the row with this request's ID; delete it, and retry")

    async def _may_change(self, organization: Organization, delivery: Delivery, answer: WebApiAnswer) -> bool:
        try:
            owner = parse_guid(str(answer.json().get("_ownerid_value")))
        except ValueError:
            return False
        if owner == await organization.users.own_row():
            return True
        asker = self._organizations.asker_in(delivery)
        row = await organization.users.row_of(asker.oid) if asker.oid else asker.system_user
        return row is not None and owner == row.lower()

    async def _write(
        self, organization: Organization, delivery: Delivery, headers: dict[str, str], *, is_create: bool
    ) -> Attempt:
        headers = headers | (_CREATE_ONLY if is_create else {})
        answer = await self._patch(organization, delivery, headers, with_output=True)
        if is_too_long(answer) and delivery.result is not None:
            answer = await self._patch(organization, delivery, headers, with_output=False)
        is_impersonated = not _CREATE_ONLY.keys() >= headers.keys()
        if is_impersonated and _is_refused(answer):
            return RetryLater(IMPERSONATION_REFUSED, self._refusal(answer))
        return attempt_of(answer, self._target(is_create=is_create))

    async def _patch(
        self, organization: Organization, delivery: Delivery, headers: dict[str, str], *, with_output: bool
    ) -> WebApiAnswer:
        content = row_content(delivery, self._rules.table, with_output=with_output)
        return await organization.client.send("PATCH", self._path(delivery), content=content, headers=headers)

    def _path(self, delivery: Delivery) -> str:
        return f"/{self._rules.table.entity_set}({row_id(delivery.request_id)})"

    def _target(self, *, is_create: bool = False) -> Write:
        table = self._rules.table
        privileges = f"Create, Read and Write on '{table.entity_set}' to the worker's role"
        return Write(table.entity_set, privileges, tuple(table.columns.values()), is_create)

    def _refusal(self, answer: WebApiAnswer) -> str:
        return (
            f"Dataverse refuses the write for the asker ({shown_status(answer)}); grant prvActOnBehalfOfAnotherUser to "
            f"the worker, and Create and Write on '{self._rules.table.entity_set}' to both"
        )


def impersonation(asker: Asker) -> dict[str, str] | None:
    """Return the headers of a write for the asker; None if Dataverse cannot know the asker."""
    name, text = ("callerobjectid", asker.oid) if asker.oid else ("mscrmcallerid", asker.system_user)
    try:
        return {name: parse_guid(text or "")}
    except NotGuid:
        return None


def _is_create(delivery: Delivery) -> bool:
    """Return whether the write must not change a row: `pending` comes late, or the row may be another sender's."""
    return delivery.result is None or not delivery.is_owner


def _exists(attempt: Attempt) -> bool:
    return getattr(attempt, "note", None) == "exists"


def _is_refused(answer: WebApiAnswer) -> bool:
    """Return whether Dataverse itself refuses to write for the user. A firewall answers 403 too, without a code."""
    code = answer.error_code
    return (answer.status == 403 and code is not None) or (answer.status in (400, 401, 404) and code in _NOT_A_MEMBER)
