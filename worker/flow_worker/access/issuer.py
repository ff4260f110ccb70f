"""Who may sign senders' tokens: each tenant under the names it has in tokens of version 1 and of version 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issuer:
    """One tenant's issuer of tokens of one version (Microsoft Learn, "Access tokens": the API's registration decides
    which version its callers get).
    """

    name: str
    """`iss`, to the letter: a version 1 issuer ends in a slash, a version 2 issuer does not."""
    tenant: str
    version: str
    """`ver`"""
    metadata: str
    """URL of its OpenID discovery document; for version 1 it is not below the issuer's name."""

    def may_sign_with(self, key_issuer: object) -> bool:
        """Whether a published key is this issuer's, by the `issuer` of its entry; None: any issuer's of the key set."""
        if key_issuer is None:
            return True
        return isinstance(key_issuer, str) and key_issuer.replace("{tenantid}", self.tenant) == self.name


def issuers(tenants: Iterable[str], *, authority: str, authority_v1: str) -> list[Issuer]:
    """Both issuers of each tenant. The authorities are base URLs without a trailing slash: where tenants are looked
    up, and how version 1 tokens name that.
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
