"""Where the parts of the HTTP side are, below the web server's own URL, which has no slash at its end."""

from __future__ import annotations

FLOWS = "/powerautomate/automations/direct/workflows"
DATAVERSE = "/dataverse"


def issuer_v1(url: str, tenant: object) -> str:
    """The issuer of a tenant's version 1 tokens; its slash is part of it."""
    return f"{url}/{tenant}/"


def issuer_v2(url: str, tenant: object) -> str:
    """The issuer of a tenant's version 2 tokens."""
    return f"{url}/{tenant}/v2.0"
