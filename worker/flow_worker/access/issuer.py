"""The issuers of senders' tokens: each tenant has one for tokens of version 1 and one for version 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issuer:
    """One tenant's issuer of tokens of one version.

    The API's app registration decides which version its callers get (Microsoft Learn, "Access tokens"), so the worker
    accepts both.
    """

    name: str
    """`iss`, compared exactly: a version 1 issuer ends in a slash, a version 2 issuer does not."""
    tenant: str
    version: str
    """`ver`"""
    metadata: str
    """URL of the OpenID discovery document. For version 1 it is not below the issuer's name."""

    def may_sign_with(self, key_issuer: object) -> bool:
        """Return whether a published key may sign for this issuer.

        `key_issuer` is the `issuer` member of the key's entry. Entra writes it with the placeholder `{tenantid}`. None
        means that the key may sign for every issuer of its key set.
        """
        if key_issuer is None:
            return True
        return isinstance(key_issuer, str) and key_issuer.replace("{tenantid}", self.tenant) == self.name


def issuers_of(tenants: Iterable[str], *, authority: str, authority_v1: str) -> list[Issuer]:
    """Return both issuers of each tenant.

    The authorities are base URLs without a trailing slash. `authority` serves the metadata of both versions;
    `authority_v1` is only the name in version 1 tokens.
    """
    return [
        issuer
        for tenant in tenants
        for issuer in (
            Issuer(f"{authority_v1}/{tenant}/", tenant, "1.0", f"{authority}/{tenant}/{_METADATA}"),
            Issuer(f"{authority}/{tenant}/v2.0", tenant, "2.0", f"{authority}/{tenant}/v2.0/{_METADATA}"),
        )
    ]


_METADATA = ".well-known/openid-configuration"
