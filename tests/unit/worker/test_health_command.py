"""`flow-worker health`: it asks the address at which a program on the machine reaches the worker, and needs no more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from flow_worker.cli.main import cli
from flow_worker.settings import HealthSettings
from flow_worker.telemetry.health import Health, serve_health


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104
        ("::", "http://[::1]:8080"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:8080"),
        ("[::]", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("fd00::7", "http://[fd00::7]:8080"),
        ("localhost", "http://localhost:8080"),
        ("10.1.2.3", "http://10.1.2.3:8080"),
        ("", "http://127.0.0.1:8080"),
    ],
)
def test_the_url_reaches_every_host(host: str, url: str) -> None:
    assert HealthSettings(host=host, port=8080).url == url


def test_a_host_with_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="without scheme and port"):
        HealthSettings(host="http://0.0.0.0")


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "::1", "localhost", "interface"])  # noqa: S104
async def test_the_command_finds_a_worker_on_every_host_without_other_settings(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    host = _address_of_an_interface() if host == "interface" else host
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # must not be asked for the worker on this machine
    # No flow, no claims, no servicebus: a probe need not have them.
    text = f'[health]\nhost = "{host}"\nport = {unused_tcp_port}\n'
    (tmp_path / "flow-worker.toml").write_text(text, encoding="utf-8")
    async with _served(host, unused_tcp_port):
        done = await asyncio.to_thread(_health)
    assert (done.exit_code, '"ready": false' in done.stdout) == (1, True), done.output


def test_a_worker_without_an_endpoint_is_not_reported_as_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_WORKER_HEALTH__PORT", "0")
    done = _health()
    assert done.exit_code == 2
    assert "health.port is 0" in done.stderr


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (httpx.Response(200, json={"ready": True, "queues": {}}), 0, '"ready"'),
        (httpx.Response(503, json={"ready": False, "queues": {}}), 1, '"ready"'),
        (httpx.Response(200, json={"ready": False, "queues": {}}), 1, '"ready"'),
        (httpx.Response(503, json={"ready": True, "queues": {}}), 1, '"ready"'),
        (httpx.Response(200, text="<html>welcome</html>"), 1, "is not that of a worker"),
        (httpx.Response(200, text=""), 1, "is not that of a worker"),
        (httpx.Response(200, json=[]), 1, "is not that of a worker"),
        (httpx.Response(200, json={"ready": "yes", "queues": {}}), 1, "is not that of a worker"),
        (httpx.Response(200, json={"status": "UP"}), 1, "is not that of a worker"),
        (httpx.Response(404, text="[" * 100_000), 1, "is not that of a worker"),
    ],
)
def test_only_the_answer_of_a_worker_counts(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response, status: int, message: str
) -> None:
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    done = CliRunner().invoke(cli, ["health", "--url", "http://127.0.0.1:1"])
    assert (done.exit_code, message in done.output) == (status, True), done.output


def _health() -> Result:
    return CliRunner().invoke(cli, ["health"])


@contextlib.asynccontextmanager
async def _served(host: str, port: int) -> AsyncIterator[None]:
    try:
        async with serve_health(Health(), host, port):
            yield
    except OSError as error:
        pytest.skip(f"this machine has no such address: {error}")


def _address_of_an_interface() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; it selects the interface
        return str(probe.getsockname()[0])
    return "127.0.0.1"
