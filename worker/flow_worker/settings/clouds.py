"""The Power Platform clouds: hosts of flows, scope of the managed-identity token, and token issuers.

A scope here has two slashes before `.default`: the resource `https://service.flow.microsoft.com/` ends in a slash, and
`/.default` follows. Flows compare the audience exactly. With one slash the token's `aud` lacks the trailing slash, and
every flow refuses it. Sources: Microsoft Learn, "Add OAuth authentication for HTTP request triggers"; "Scopes and
permissions in the Microsoft identity platform", section "Trailing slash and .default".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CloudName(StrEnum):
    """A Power Platform cloud, by the name in Microsoft's documentation."""

    PUBLIC = "public"
    GCC = "gcc"
    GCC_HIGH = "gcc-high"
    DOD = "dod"
    CHINA = "china"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud's fixed facts. In a host pattern, `*.` stands for one or more labels."""

    flow_scope: str
    flow_hosts: tuple[str, ...]
    authority: str
    authority_v1: str
    """The base URL of `iss` in version 1 tokens.

    Not verified for the US clouds. If theirs differs, the worker refuses their version 1 tokens.
    """


_STS_GLOBAL = "https://sts.windows.net"
_LOGIN_GLOBAL = "https://login.microsoftonline.com"
_LOGIN_US = "https://login.microsoftonline.us"

CLOUDS: dict[CloudName, Cloud] = {
    CloudName.PUBLIC: Cloud(
        flow_scope="https://service.flow.microsoft.com//.default",
        flow_hosts=("*.environment.api.powerplatform.com", "*.logic.azure.com"),
        authority=_LOGIN_GLOBAL,
        authority_v1=_STS_GLOBAL,
    ),
    CloudName.GCC: Cloud(
        flow_scope="https://gov.service.flow.microsoft.us//.default",
        flow_hosts=("*.environment.api.gov.powerplatform.microsoft.us", "*.logic.azure.us"),
        authority=_LOGIN_GLOBAL,
        authority_v1=_STS_GLOBAL,
    ),
    CloudName.GCC_HIGH: Cloud(
        flow_scope="https://high.service.flow.microsoft.us//.default",
        flow_hosts=("*.environment.api.high.powerplatform.microsoft.us", "*.logic.azure.us"),
        authority=_LOGIN_US,
        authority_v1=_STS_GLOBAL,
    ),
    CloudName.DOD: Cloud(
        flow_scope="https://service.flow.appsplatform.us//.default",
        flow_hosts=("*.environment.api.appsplatform.us", "*.logic.azure.us"),
        authority=_LOGIN_US,
        authority_v1=_STS_GLOBAL,
    ),
    CloudName.CHINA: Cloud(
        flow_scope="https://service.powerautomate.cn//.default",
        flow_hosts=("*.environment.api.powerplatform.partner.microsoftonline.cn", "*.logic.azure.cn"),
        authority="https://login.partner.microsoftonline.cn",
        authority_v1="https://sts.chinacloudapi.cn",
    ),
}


def host_matches(host: str, pattern: str) -> bool:
    """Return whether `host` matches `pattern`, both without a port. `*.a.b` matches every host below `a.b`."""
    host, pattern = host.lower(), pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
