"""Checks name resolution, the connection and TLS to every host. It sends nothing over the connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial

import httpx

from flow_contracts.proxies import InvalidProxy, Proxies, Proxy
from flow_worker.doctor.finding import Check, Result, failed, ok
from flow_worker.doctor.hosts import Host, hosts_of
from flow_worker.settings import Settings

_CONNECT_SECONDS = 10.0
_SHOWN_PURPOSES = 3


def checks(settings: Settings) -> list[Check]:
    """Return one check for each host."""
    context = httpx.create_ssl_context()
    return [
        Check("network", f"{host.address} ({_listed(purposes)})", partial(_check, host, context))
        for host, purposes in hosts_of(settings).items()
    ]


def _listed(purposes: list[str]) -> str:
    more = len(purposes) - _SHOWN_PURPOSES
    return ", ".join(purposes[:_SHOWN_PURPOSES]) + (f" and {more} more" if more > 0 else "")


async def _check(host: Host, context: ssl.SSLContext) -> Result:
    try:
        proxy = _proxy(host)
    except InvalidProxy as error:
        return failed(str(error), "Correct the variable of the proxy.")
    if proxy is not None:
        return await _check_proxy(host, proxy, context)
    name, port, tls = host.name, host.port, host.tls
    try:
        address = await _address(name, port)
    except OSError as error:
        remedy = f"Correct the name, or the name servers of this machine or container (nslookup {name})."
        return failed(f"the name {name} cannot be resolved ({error.strerror or error})", remedy)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(
                name, port, ssl=context if tls else None, server_hostname=name if tls else None
            )
    except ssl.SSLCertVerificationError as error:
        remedy = "Trust the certificate authority of a proxy in between with SSL_CERT_FILE, or correct the name."
        return failed(f"TLS: the certificate is not trusted ({error.verify_message})", remedy)
    except ssl.SSLError as error:
        return failed(f"TLS fails ({error.reason or error})", "Check that this port has TLS, and what is in between.")
    except TimeoutError:
        return failed(f"{address} does not answer within {_CONNECT_SECONDS:g} s", _open_port(host))
    except OSError as error:
        return failed(f"{address} refuses the connection ({error.strerror or error})", _open_port(host))
    version = _tls_version(writer)
    writer.close()
    return ok(f"{address}{', ' + version if version else ', without TLS'}")


async def _check_proxy(host: Host, proxy: Proxy, context: ssl.SSLContext) -> Result:
    """Check that the proxy connects to the host. It is asked as the clients ask it; nothing is sent to the host."""
    correct = "Correct the variable of the proxy (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY), or name the host in NO_PROXY."
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            answer = await _connect(host, proxy, context)
    except TimeoutError:
        return failed(f"the proxy {proxy.url} does not answer within {_CONNECT_SECONDS:g} s", correct)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or type(error).__name__
        return failed(f"the proxy {proxy.url} cannot be used ({cause})", f"Start the proxy. {correct}")
    if answer is None:
        return ok(f"through the proxy {proxy.url}")
    if answer == "407":
        remedy = "Write the proxy's user name and password into its variable: http://USER:PASSWORD@HOST:PORT."
        return failed(f"the proxy {proxy.url} refuses this user (407)", remedy)
    return failed(f"the proxy {proxy.url} does not connect to {host.address} ({answer})", f"Allow it there. {correct}")


async def _connect(host: Host, proxy: Proxy, context: ssl.SSLContext) -> str | None:
    """Return why the proxy refuses the host; None if it does not. Plain HTTP has no connection to ask for."""
    tls = {"ssl": context, "server_hostname": proxy.host} if proxy.scheme == "https" else {}
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, **tls)  # type: ignore[arg-type]
    try:
        if not host.tls:
            return None
        lines = [f"CONNECT {host.address} HTTP/1.1", f"Host: {host.address}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        words = (await reader.readline()).decode("latin-1").split()
    finally:
        writer.close()
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        return "its answer is no HTTP"
    return None if words[1].startswith("2") else words[1]


def _tls_version(writer: asyncio.StreamWriter) -> str:
    connection = writer.get_extra_info("ssl_object")
    return "" if connection is None else str(connection.version())


def _open_port(host: Host) -> str:
    if host.is_http:
        return f"Allow outbound connections to port {host.port}, set HTTPS_PROXY, or start the server."
    return (
        f"Allow outbound connections to port {host.port}, or start the broker. If only port 443 is open, set "
        'servicebus.transport = "websocket".'
    )


async def _address(name: str, port: int) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


def _proxy(host: Host) -> Proxy | None:
    """Return the HTTP proxy; None without one. Raises `InvalidProxy`."""
    if not host.is_http:
        return None
    return Proxies().proxy_of(f"{'https' if host.tls else 'http'}://{host.address}/")
