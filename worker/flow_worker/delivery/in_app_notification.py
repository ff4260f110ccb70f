"""The sink `in_app_notification`: one notification for each end of a request, for its asker.

It creates a row of `appnotification` under an ID that follows from the request. The action `SendAppNotification` takes
no ID, so a repeated call would notify twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flow_contracts.result import FlowResult
from flow_worker.delivery.notification_content import NotificationTexts, notification_content
from flow_worker.delivery.organization import Organization, Organizations
from flow_worker.delivery.port import Attempt, Delivered, Delivery, Sink
from flow_worker.delivery.row_ids import notification_id, row_id
from flow_worker.delivery.users import UserQueryRefused
from flow_worker.delivery.web_api_attempts import Write, attempt_of, unavailable
from flow_worker.errors import TemporarilyUnavailable

NO_RECIPIENT = "no_recipient"
"""The asker is an app, or no enabled user of the organization."""
_NOTIFICATIONS = Write(
    "appnotifications", "Create on 'appnotification' with the depth Organization to the worker's role", is_create=True
)
_USERS = Write("systemusers", "Read on 'systemuser' to the worker's role")


@dataclass(frozen=True, slots=True)
class NotificationRules:
    """Which results a notification tells, and how."""

    statuses: Collection[str]
    texts: NotificationTexts
    table: str | None
    """The logical name of the table whose row the notification opens; None: no action."""


class InAppNotificationSink(Sink):
    """Notifies the asker of a request's end, once for each end."""

    def __init__(self, name: str, organizations: Organizations, rules: NotificationRules) -> None:
        self.name = name
        self._organizations = organizations
        self._rules = rules

    def target_of(self, delivery: Delivery) -> str:
        """See `Sink.target_of`: the organization."""
        return self._organizations.url_of(delivery)

    def wants(self, delivery: Delivery) -> bool:
        """See `Sink.wants`."""
        return delivery.result is not None and delivery.result.status.value in self._rules.statuses

    async def deliver(self, delivery: Delivery) -> Attempt:
        """See `Sink.deliver`."""
        if delivery.result is None or not self.wants(delivery):
            return Delivered()  # a settling result has replaced the one that the delivery was opened for
        try:
            return await self._notify(self._organizations.of(delivery), delivery, delivery.result)
        except TemporarilyUnavailable as error:
            return unavailable(error)
        except UserQueryRefused as error:
            return attempt_of(error.answer, _USERS)

    async def close(self) -> None:
        """See `Sink.close`. The clients belong to others."""

    async def _notify(self, organization: Organization, delivery: Delivery, result: FlowResult) -> Attempt:
        asker = self._organizations.asker_in(delivery)
        recipient = await organization.users.row_of(asker.oid) if asker.oid else asker.system_user
        if recipient is None:
            return Delivered(note=NO_RECIPIENT)
        row = None if self._rules.table is None else (self._rules.table, row_id(delivery.request_id))
        content = notification_content(result, recipient, self._rules.texts, row)
        content["appnotificationid"] = notification_id(delivery.message_id, _state_of(delivery, result), delivery.asker)
        # A POST needs the privilege to create only. A second row of the same ID gets 412.
        answer = await organization.client.send("POST", "/appnotifications", content=content)
        return attempt_of(answer, _NOTIFICATIONS)


def _state_of(delivery: Delivery, result: FlowResult) -> str:
    """Return the state that the content tells: an attempt at `ended` that comes late has the settling result.

    The ID follows from it, so that the attempt at `settled` does not tell the same once more.
    """
    return delivery.state if result.settled_by is None else "settled"
