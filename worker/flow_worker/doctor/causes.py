"""Names the cause of a failed request, and the proxy that it went through."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from flow_contracts.proxies import InvalidProxy, Proxies, Proxy

_ANY_URL = "https://login.microsoftonline.com/"


def reason(error: BaseException) -> str:
    """Return the cause in a few words. The transport reports a refused connection as a connect timeout."""
    for cause in _chain(error):
        if isinstance(cause, ConnectionRefusedError) or getattr(cause, "errno", None) == errno.ECONNREFUSED:
            return "the connection is refused"
        status = getattr(cause, "status", None)
        if type(cause).__name__ == "ClientHttpProxyError":
            return f"the proxy answered {status}"
    return type(error).__name__


def with_proxy(remedy: str, url: str = _ANY_URL) -> str:
    """Return the remedy, which names the proxy first if requests to the URL use one."""
    proxy = proxy_of(url)
    if proxy is None:
        return remedy
    return f"Check that the proxy {proxy.url} passes requests on, or name the host in NO_PROXY. {remedy}"


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy of the environment for this URL; None without one or with an invalid one."""
    try:
        return Proxies().proxy_of(url)
    except InvalidProxy:
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
