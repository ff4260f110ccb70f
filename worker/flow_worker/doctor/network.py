"""Checks name resolution, the connection and TLS to every host. It sends nothing over the connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial

import httpx

from flow_contracts.proxies import InvalidProxy, Proxies
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
    name, port, tls = (host.name, host.port, host.tls) if proxy is None else (*proxy, False)
    through = "" if proxy is None else f" through the proxy {name}:{port}"
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
    return ok(f"{address}{', ' + version if version else ', without TLS'}{through}")


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


def _proxy(host: Host) -> tuple[str, int] | None:
    """Return the host and the port of the HTTP proxy; None without one. Raises `InvalidProxy`."""
    if not host.is_http:
        return None
    proxy = Proxies().proxy_of(f"{'https' if host.tls else 'http'}://{host.address}/")
    return None if proxy is None else (proxy.host, proxy.port)
