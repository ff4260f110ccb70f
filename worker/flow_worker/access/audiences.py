"""The client IDs in the worker's audiences: Entra publishes application-specific signing keys by client ID."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def clients_of(audiences: Collection[str], tenants: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return for each audience the client IDs whose application-specific keys may sign tokens for it.

    An audience is a client ID, or an application ID URI that can contain one (`api://<client ID>`,
    `api://<tenant ID>/<client ID>`). An audience without a client ID belongs to the only client ID of the others. If
    there are several, the audience belongs to none: the owner of one application must not sign for another one.
    """
    named = {audience: _guids(audience) - {tenant.lower() for tenant in tenants} for audience in audiences}
    every = frozenset[str]().union(*named.values())
    fallback = every if len(every) == 1 else frozenset[str]()
    return {audience: clients or fallback for audience, clients in named.items()}


def _guids(audience: str) -> frozenset[str]:
    return frozenset(part for part in audience.lower().split("/") if _GUID.fullmatch(part))
