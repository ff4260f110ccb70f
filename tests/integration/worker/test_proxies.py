"""The proxies of the environment carry flows, keys and AMQP over WebSocket, and never the managed identity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import certifi
import pytest
import pytest_asyncio

from flow_contracts.client import FlowClient, FlowClientSync, ServiceBusUnavailable
from flow_contracts.servicebus import Deadlines
from flow_worker.errors import CallFailed
from flow_worker.flows.invoker import Invoker, http_client
from flow_worker.flows.registry import Flow
from servicebus_emulator import config
from servicebus_emulator.host import Endpoints, running_emulator
from servicebus_emulator.transport.tls import CertificateFiles, server_tls
from tests.support.proxy import PROXY_VARIABLES, HttpProxy, running_proxy
from tests.support.system import System, system_of

PASSWORD = "p@ss:word%2F"
QUOTED = "p%40ss%3Aword%252F"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # the SDK's, without TLS
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[System]:
    """A system that also listens for WebSockets, with and without TLS; every client trusts its certificate."""
    with pytest.MonkeyPatch.context() as monkeypatch, TemporaryDirectory() as folder:
        files = CertificateFiles(Path(folder))
        tls = server_tls(files, "127.0.0.1")
        monkeypatch.setattr(certifi, "where", lambda: str(tls.ca_certificate))
        ports = Endpoints("127.0.0.1", 0, 0, ws_port=0, wss_port=0, certificates=files)
        async with running_emulator(config.load(None), ports) as emulator:
            yield system_of(emulator, Path(folder), monkeypatch)


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpProxy]:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    async with running_proxy(PASSWORD) as running:
        yield running


def with_password(proxy: HttpProxy) -> str:
    return f"http://proxyuser:{QUOTED}@127.0.0.1:{proxy.port}"


def over_websocket(system: System, *, tls: bool) -> str:
    addresses = system.emulator.addresses
    key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;TransportType=AmqpWebSockets"
    if tls:
        return f"Endpoint=sb://localhost:{addresses.wss_port}/;{key}"
    return f"Endpoint=sb://localhost:{addresses.ws_port}/;{key};UseDevelopmentEmulator=true"


async def test_requests_run_with_every_connection_by_the_proxy(
    system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", with_password(proxy))
    servicebus = system.settings().servicebus.model_dump() | {"connection_string": over_websocket(system, tls=True)}
    async with (
        system.worker(system.settings(servicebus=servicebus)),
        FlowClient.from_connection_string(over_websocket(system, tls=False)) as client,
    ):
        correlation_id = await client.submit("create-quote", {"customer": "c", "amount": 1}, claim=system.claim())
        result = await client.wait(correlation_id, 30)
    assert result.status == "succeeded"
    web = system.emulator.web.url.split("/")[2]
    assert {web, f"localhost:{system.emulator.addresses.wss_port}"} <= set(proxy.targets)
    assert f"localhost:{system.emulator.addresses.ws_port}" in proxy.targets
    assert proxy.refused == 0
    paths = [url.removeprefix(system.emulator.web.url) for url in proxy.urls]
    assert any("/workflows/" in path or "flow" in path for path in paths)
    assert any("openid-configuration" in path for path in paths)
    identity = system.emulator.web.identity_endpoint.removeprefix(system.emulator.web.url)
    assert not any(path.startswith(identity) for path in paths)


async def test_no_proxy_connects_directly(system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", with_password(proxy))
    monkeypatch.setenv("NO_PROXY", "localhost")
    async with FlowClient.from_connection_string(over_websocket(system, tls=True)) as client:
        await client.submit("create-quote")
    assert proxy.targets == []


async def test_a_proxy_that_refuses_is_named_without_its_password(
    system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", with_password(proxy).replace(QUOTED, "hush"))
    client = FlowClient.from_connection_string(over_websocket(system, tls=True), deadlines=Deadlines(send_seconds=1))
    async with client:
        with pytest.raises(ServiceBusUnavailable, match=r"the proxy refuses the connection \(status 407\)") as failure:
            await client.submit("create-quote")
    assert proxy.refused > 0
    assert "hush" not in str(failure.value) + caplog.text
    assert "Basic" not in caplog.text


async def test_a_proxy_that_is_down_and_a_server_that_is_down_are_outages(
    system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = over_websocket(system, tls=True).replace(str(system.emulator.addresses.wss_port), "1")
    for variable in ("", "http://127.0.0.1:1"):
        monkeypatch.setenv("HTTPS_PROXY", variable)
        async with FlowClient.from_connection_string(text, deadlines=Deadlines(send_seconds=1)) as client:
            with pytest.raises(ServiceBusUnavailable, match="could not be opened"):
                await client.submit("create-quote")


def send_blocking(text: str) -> str:
    with FlowClientSync.from_connection_string(text, transport="websocket") as client:
        return client.submit("create-quote")


async def test_the_blocking_client_uses_the_websocket(
    system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", with_password(proxy))
    text = over_websocket(system, tls=True).replace(";TransportType=AmqpWebSockets", "")
    assert await asyncio.to_thread(send_blocking, text)
    assert proxy.targets == [f"localhost:{system.emulator.addresses.wss_port}"]


async def test_a_flow_with_tls_is_called_through_the_tunnel(
    system: System, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(system.emulator.addresses.ca_certificate))
    monkeypatch.setenv("HTTPS_PROXY", with_password(proxy))
    port = system.emulator.addresses.wss_port
    async with http_client(connect_seconds=5, max_connections=2, keepalive_seconds=5) as client:
        for _ in range(2):  # the second time over the same tunnel
            assert (await client.get(f"https://localhost:{port}/elsewhere")).status_code == 404
    assert proxy.targets == [f"localhost:{port}"]


class Tokens:
    """A source of one token."""

    async def token(self, *, fresh: bool = False) -> str:
        return f"token {fresh}"


@pytest.mark.parametrize("is_up", [True, False])
async def test_a_call_that_the_proxy_did_not_carry_did_not_run(
    proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch, is_up: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:hush@127.0.0.1:{proxy.port if is_up else 1}")
    flow = Flow("f", "https://a.example/workflows/x", role=None, timeout_seconds=5, idempotent=False)
    async with Invoker(
        Tokens(),
        connect_seconds=5,
        max_connections=1,
        keepalive_seconds=5,
        status_seconds=5,
        max_response_bytes=100,
        decode_seconds=5,
    ) as invoker:
        with pytest.raises(CallFailed) as failure:
            await invoker.invoke(flow, {}, token="t", correlation_id="c", traceparent=None)
    assert (failure.value.code, failure.value.may_have_run) == ("flow_unreachable", False)
    assert "hush" not in str(failure.value)
