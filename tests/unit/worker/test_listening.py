"""A port in use is named with the setting that changes it, for the worker and the gateway."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from flow_worker.gateway.server import HttpServer
from flow_worker.settings import GatewaySettings
from flow_worker.telemetry.health import Health, serve_health
from flow_worker.telemetry.listening import CannotListen, listening


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("setting", ["health.port", "gateway.health_port"])
async def test_a_health_port_in_use_names_its_setting(taken: int, setting: str) -> None:
    expected = rf"^Cannot listen on 127\.0\.0\.1:{taken}: another program uses the port\. .* {re.escape(setting)}\.$"
    with pytest.raises(CannotListen, match=expected):
        async with serve_health(Health(), "127.0.0.1", taken, setting=setting):
            pass


async def test_the_gateways_port_in_use_names_its_setting(taken: int) -> None:
    async def drain() -> None:
        pass

    server = HttpServer(web.Application(), GatewaySettings(port=taken), on_stop=lambda: None, drain=drain)
    with pytest.raises(CannotListen, match=rf":{taken}: another program uses the port\. .* gateway\.port\.$"):
        await server.open()
    await server.close()


@dataclass
class Failure:
    """An error of a socket, and the end of the message."""

    error: OSError
    end: str


@pytest.mark.parametrize(
    "failure",
    [
        Failure(OSError(99, "Cannot assign requested address"), "gateway.host or gateway.port."),
        Failure(PermissionError(13, "Permission denied"), "gateway.host or gateway.port."),
        Failure(OSError("resolution failed"), "resolution failed. Change gateway.host or gateway.port."),
    ],
)
def test_another_cause_is_kept(failure: Failure) -> None:
    with pytest.raises(CannotListen) as raised, listening("::1", 80, "gateway.port"):
        raise failure.error
    assert str(raised.value).startswith("Cannot listen on [::1]:80: ")
    assert str(raised.value).endswith(failure.end)
