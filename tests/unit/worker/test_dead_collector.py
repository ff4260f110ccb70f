"""A collector of spans that does not work costs a line of the log, and neither requests nor the stop wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flow_worker.telemetry.opening import Telemetry, open_telemetry
from tests.support.processes import CHECKOUT
from tests.support.system import until

CANARY = "canary-4d0e"
Serve = Callable[[socket.socket], None]


def never(client: socket.socket) -> None:
    """Read, and never answer."""
    while client.recv(65536):
        pass


def error(client: socket.socket) -> None:
    """Answer 500, with a text that does not belong into the log."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 500 No\r\ncontent-length: 11\r\nconnection: close\r\n\r\n" + CANARY.encode())


def not_found(client: socket.socket) -> None:
    """Answer as another server does."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


def garbage(client: socket.socket) -> None:
    """Answer what is no HTTP."""
    client.recv(65536)
    client.sendall(b"\x00\xff" + CANARY.encode() + b"\r\n\r\n")


def slowly(client: socket.socket) -> None:
    """Answer a byte at a time, so that no read times out."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        client.sendall(b"x")
        time.sleep(0.02)


def no_tls(client: socket.socket) -> None:
    """Answer in plain text to a client that expects TLS."""
    garbage(client)


def reset(client: socket.socket) -> None:
    """Break the connection."""
    client.recv(1)


@contextmanager
def collector(serve: Serve | None) -> Iterator[str]:
    """Yield the URL of a collector; None: nobody listens."""
    server = socket.create_server(("127.0.0.1", 0))
    scheme = "https" if serve is no_tls else "http"
    url = f"{scheme}://user:{CANARY}@127.0.0.1:{server.getsockname()[1]}"
    if serve is None:
        server.close()
        yield url
        return

    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            serve(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield url
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.fixture(autouse=True)
def _spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")


COLLECTORS = [None, never, error, not_found, garbage, slowly, reset, no_tls]


def spans(telemetry: Telemetry, count: int) -> list[float]:
    """Make spans; return the seconds that each of them took."""
    assert telemetry.tracer is not None
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        telemetry.tracer.start_span("process flow-requests").end()
        taken.append(time.perf_counter() - began)
    return taken


@pytest.mark.parametrize("serve", COLLECTORS, ids=lambda serve: "refused" if serve is None else serve.__name__)
async def test_a_collector_of_spans_that_does_not_work_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, serve: Serve | None
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with collector(serve) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{url}/v1/traces")
        async with open_telemetry() as telemetry:
            taken = spans(telemetry, 500)
            await until(lambda: any(record.levelno > logging.INFO for record in caplog.records), 10)
            for _ in range(5):  # the outage goes on, and more spans than the queue holds are dropped
                taken += spans(telemetry, 200)
                await asyncio.sleep(0.05)
            began = time.monotonic()
        assert time.monotonic() - began < 3.0, "the stop waits a moment at most"
    assert statistics.median(taken) < 0.005, "no request waits for the export"
    events = [record.__dict__.get("event", record.getMessage()) for record in caplog.records]
    assert events == ["telemetry.tracing", "telemetry.export_failing"]
    assert CANARY not in caplog.text


SHORT_LIVED = """
import asyncio
from flow_worker.telemetry.opening import open_telemetry

async def main():
    async with open_telemetry() as telemetry:
        telemetry.tracer.start_span("process flow-requests").end()

asyncio.run(main())
"""


@pytest.mark.parametrize("serve", [never, slowly])
def test_the_process_ends_although_an_export_hangs(serve: Serve) -> None:
    """With the SDK's own timeout of 10 s, which is longer than a stop may take."""
    with collector(serve) as url:
        environment = os.environ | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces"}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", SHORT_LIVED],
            env=environment,
            cwd=CHECKOUT,
            timeout=60,
            capture_output=True,
            check=False,
        )
        seconds = time.monotonic() - began
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert seconds < 8.0
