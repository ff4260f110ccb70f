"""The Dataverse organization of a delivery, with what the sinks need of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flow_worker.dataverse.client import DataverseClient
from flow_worker.delivery.port import Asker, Delivery
from flow_worker.delivery.users import Users


@dataclass(frozen=True, slots=True)
class Organization:
    """One organization. All sinks share its client, and so its throttling."""

    client: DataverseClient
    users: Users


class Organizations:
    """Finds the organization that a sink writes to."""

    def __init__(
        self, by_url: Mapping[str, Organization], urls_of_queues: Mapping[str, str | None], url: str | None
    ) -> None:
        """`urls_of_queues`: the URL of each request queue's organization, by the queue's name in lower case.

        `url`: the sink's own organization; None: that of the request queue.
        """
        self._by_url = by_url
        self._urls_of_queues = urls_of_queues
        self._url = url

    def url_of(self, delivery: Delivery) -> str:
        """Return the URL of the delivery's organization."""
        found = self._url or self._home_of(delivery)
        if found is None:
            raise ValueError(f"queue '{delivery.request_queue}' has no organization")  # the settings refuse this
        return found

    def of(self, delivery: Delivery) -> Organization:
        """Return the delivery's organization."""
        return self._by_url[self.url_of(delivery)]

    def asker_in(self, delivery: Delivery) -> Asker:
        """Return the asker as the delivery's organization knows it.

        A row ID means nothing outside the organization that sent the request, and a copy of it has the same IDs.
        """
        asker = delivery.asker
        if self.url_of(delivery) == self._home_of(delivery):
            return asker
        return Asker(asker.tenant, asker.oid)

    def _home_of(self, delivery: Delivery) -> str | None:
        return self._urls_of_queues.get(delivery.request_queue.lower())
