"""The HTTP transport of azure-core with the proxies of the environment."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport

from flow_contracts.proxies import Proxies

_IDENTITY_ENDPOINTS = ("IDENTITY_ENDPOINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST")
"""The variables that name the endpoint of the machine's managed identity. No proxy can reach it, nor may one see it."""


class EnvironmentProxyTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core types it as Any
    """Sends each request by the proxy that the environment names for its URL, and none to the managed identity by one.

    azure-core's own support sends plain HTTP to the managed identity's endpoint by the proxy, too.
    """

    session: aiohttp.ClientSession | None

    def __init__(self, *, keep_alive: bool = True) -> None:
        """`keep_alive` false: each request gets a connection, so an endpoint's late response answers no other request.

        Raises `InvalidProxy`.
        """
        super().__init__(use_env_settings=False)
        self._keep_alive = keep_alive
        self._proxies = Proxies()
        self._own = {urlsplit(url).netloc.lower() for name in _IDENTITY_ENDPOINTS if (url := os.environ.get(name))}

    async def open(self) -> None:
        """Open the session."""
        if not self._keep_alive and self.session is None and not self._has_been_opened:
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        await super().open()

    async def send(self, request: Any, **config: Any) -> Any:  # azure-core has two types of requests
        """Send the request."""
        if self._proxies and urlsplit(request.url).netloc.lower() not in self._own:
            proxy = self._proxies.proxy_of(request.url)
            if proxy is not None:
                config["proxy"] = proxy.url
                if request.url.lower().startswith("https:"):
                    config["proxy_headers"] = proxy.headers  # of the CONNECT request
                else:
                    request.headers.update(proxy.headers)
        return await super().send(request, **config)
