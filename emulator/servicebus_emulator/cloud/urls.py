"""The paths of the HTTP services below the web server's URL, which has no trailing slash."""

from __future__ import annotations

FLOWS_PATH = "/powerautomate/automations/direct/workflows"
DATAVERSE_PATH = "/dataverse"


def issuer_v1(url: str, tenant: object) -> str:
    """Return the issuer of a tenant's version 1 tokens; it ends in a slash."""
    return f"{url}/{tenant}/"


def issuer_v2(url: str, tenant: object) -> str:
    """Return the issuer of a tenant's version 2 tokens."""
    return f"{url}/{tenant}/v2.0"
