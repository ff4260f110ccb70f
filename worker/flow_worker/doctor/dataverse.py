"""Checks that each Dataverse organization answers the worker's identity: who it is, and a user's privileges."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from flow_worker.access.build import Access
from flow_worker.access.privileges import DataversePrivileges
from flow_worker.access.user import User
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.doctor.causes import with_proxy
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.doctor.tokens import token_claims
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import Settings

_REMEDY = (
    "Make the worker's identity an application user of the organization, with a role that may read users and their "
    "roles."
)
_SAMPLE_PRIVILEGE = "prvReadUser"


def checks(settings: Settings, access: Access, identity: ManagedIdentity) -> list[Check]:
    """Return the checks of all organizations."""
    found = [] if settings.dataverse_urls else [Check("Dataverse", "organizations", _none)]
    for url, organization in access.organizations.items():
        found.append(Check("Dataverse", f"{url} WhoAmI", partial(_who_am_i, settings, url, organization)))
        privileges = partial(_privileges, settings, url, organization, identity)
        found.append(Check("Dataverse", f"{url} privileges", privileges))
    return found


def _unavailable(error: TemporarilyUnavailable, url: str) -> Result:
    if error.code == "identity_unavailable":
        return failed(error.message, f"See the line 'token: Dataverse {url}': without the token there is no answer.")
    return failed(error.message, with_proxy(_REMEDY, url))


def _is_guid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


async def _none() -> Result:
    return unseen("no Dataverse organization is configured")


async def _who_am_i(settings: Settings, url: str, dataverse: DataversePrivileges) -> Result:
    try:
        found = await dataverse.organization()
    except TemporarilyUnavailable as error:
        return _unavailable(error, url)
    for queue in settings.request_queues:
        if settings.dataverse_url(queue) == url and queue.organization not in (None, found):
            return failed(
                f"queue '{queue.name}' is for the organization {queue.organization}, and this is {found}",
                "Set the queue's dataverse_url to the URL of the organization that sends to it.",
            )
    return ok(f"organization {found}")


async def _privileges(
    settings: Settings, url: str, dataverse: DataversePrivileges, identity: ManagedIdentity
) -> Result:
    """Query a privilege of the worker's own identity: the answer matters, not whether it holds the privilege."""
    names = [flow.privilege for flow in settings.flows.values() if flow.privilege is not None]
    name = names[0] if names else _SAMPLE_PRIVILEGE
    try:
        claims = token_claims(await identity.tokens(f"{url}/.default").token()) or {}
        oid = claims.get("oid")
        if not isinstance(oid, str):
            return unseen("the worker's own object ID is not known, so there is no user to query")
        if not _is_guid(oid):
            return unseen("the object ID of the worker's token is no GUID, so there is no user to query")
        depth = await dataverse.depth(User(oid), name)
    except TemporarilyUnavailable as error:
        return _unavailable(error, url)
    held = "does not hold" if depth is None else "holds"
    return ok(f"the privilege function answers; the worker itself {held} {name}")
