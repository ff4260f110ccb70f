"""The Power Platform clouds: where their flows live, which scope opens them, who signs their tokens.

Audiences end in a slash and are compared exactly, so the scope carries two: the resource
`https://service.flow.microsoft.com/` followed by `/.default`. With one slash the token's `aud` lacks its own and
every flow refuses it. (Microsoft Learn, "Add OAuth authentication for HTTP request triggers", and the identity
platform's "trailing slash and .default".)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CloudName(StrEnum):
    """A Power Platform cloud, by the name its documentation uses."""

    PUBLIC = "public"
    GCC = "gcc"
    GCC_HIGH = "gcc-high"
    DOD = "dod"
    CHINA = "china"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud's fixed facts. A `*.` host pattern stands for one or more labels in front."""

    flow_scope: str
    flow_hosts: tuple[str, ...]
    authority: str
    authority_v1: str
    """What tokens of version 1 call it. For the US clouds unverified; if it is another, their tokens are refused."""


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
    """Whether `host` is `pattern`, or lies below it where the pattern begins with `*.`; both without a port."""
    host, pattern = host.lower(), pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
