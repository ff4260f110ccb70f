"""The `dataverse` authority: accepts the sender that a native Dataverse message names."""

from __future__ import annotations

from flow_worker.access.authorities import DataverseSender, Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.errors import Refused

FOREIGN_ORGANIZATION = (
    "The message is from another organization than the one that this queue is for; send it to its organization's queue."
)
"""The message of the refusal `organization_unknown`, for its sender."""


class DataverseAuthority:
    """Verifies the senders of one queue that only one Dataverse organization may send to.

    A native message carries no token. The queue's access policy is the proof: only Dataverse holds its key. The
    authority also checks the organization, because an operator may register one queue in two organizations by mistake.
    """

    def __init__(self, organization: str) -> None:
        """`organization`: the organization's ID, in lower case."""
        self._organization = organization

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        """See `Authority.authenticate`. The claim is not read. Raises only `Refused`."""
        sender = evidence.dataverse_sender
        if sender is None or sender.organization != self._organization:
            raise Refused("organization_unknown", FOREIGN_ORGANIZATION)
        return ProvenSender(_principal(sender))


def _principal(sender: DataverseSender) -> Principal:
    """Return the user who started the operation, by the Entra object ID if there is one, else by the Dataverse row."""
    return Principal(
        tenant=sender.organization,
        oid=sender.oid or "",
        kind="user",
        roles=frozenset(),
        authority="dataverse",
        system_user=None if sender.oid else sender.system_user,
    )
