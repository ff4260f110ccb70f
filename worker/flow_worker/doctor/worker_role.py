"""The privileges that the worker's own security role needs in Dataverse, by what the settings turn on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flow_worker.flows.privilege import Depth
from flow_worker.settings import DeliverySettings, Settings
from flow_worker.settings.delivery import sinks_of

IMPERSONATION = "prvActOnBehalfOfAnotherUser"
_DEPTH_NAMES = {Depth.BASIC: "User", Depth.GLOBAL: "Organization"}


@dataclass(frozen=True, slots=True)
class NeededPrivilege:
    """One privilege of the worker's role."""

    name: str
    depth: Depth

    @property
    def shown(self) -> str:
        """The privilege as an administrator sets it."""
        return f"{self.name} ({_DEPTH_NAMES[self.depth]})"


def needed_by(sink: DeliverySettings) -> Iterator[NeededPrivilege]:
    """Yield the privileges that a sink needs."""
    if sink.kind == "in_app_notification":
        yield NeededPrivilege("prvCreateappnotification", Depth.GLOBAL)
        yield NeededPrivilege("prvReadUser", Depth.GLOBAL)
        return
    # Dataverse compares the worker's depth with the owner of a row too: the user's row is none of the worker's own.
    depth = Depth.GLOBAL if sink.impersonate else Depth.BASIC
    for action in ("Create", "Read", "Write"):
        yield NeededPrivilege(f"prv{action}{sink.table_name}", depth)
    if sink.impersonate:
        yield NeededPrivilege(IMPERSONATION, Depth.GLOBAL)
    if sink.impersonate and sink.without_impersonation == "own":
        yield NeededPrivilege("prvReadUser", Depth.GLOBAL)


RUN_RECORDS = NeededPrivilege("prvReadflowrun", Depth.GLOBAL)
"""What the search for flow runs needs: the flows' owners own the records."""


def urls_of(name: str, settings: Settings) -> list[str]:
    """Return the URLs of the organizations that a sink writes to."""
    sink = settings.delivery[name]
    if sink.url is not None:
        return [sink.url]
    flows = (None, *settings.flows.values())
    queues = [queue for queue in settings.request_queues if any(name in sinks_of(queue, flow) for flow in flows)]
    return sorted({url for queue in queues if (url := settings.dataverse_url(queue))})
