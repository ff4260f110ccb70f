"""Runs Azurite's table service, Microsoft's own emulator, from npm or from a container image that is present."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.errors import DockerException  # type: ignore[import-untyped]  # ships no types
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from flow_worker.demo.processes import free_port

_MAIN = Path(__file__).with_name("node_modules") / "azurite" / "dist" / "src" / "table" / "main.js"
_IMAGE = "mcr.microsoft.com/azure-storage/azurite:latest"
_OPTIONS = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
_READY = "successfully started"
REMEDY = "run `npm install --prefix tests/support/azurite` to install it without Docker"
_START_SECONDS = 90
_PORT = 10002
_ACCOUNT = "devstoreaccount1"
# Not a secret: every Azurite has this key, and its documentation prints it.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running table service that starts empty."""

    connection_string: str


@asynccontextmanager
async def azurite(folder: Path, port: int | None = None, *options: str) -> AsyncIterator[Azurite]:
    """Run a table service on `port` (None: a free port), with `folder` as its working directory.

    Skips the test if Azurite is not installed. Only Azurite from npm takes a `port` and options such as certificates.
    """
    node = shutil.which("node")
    if node is not None and _MAIN.is_file():
        async with _from_npm(node, folder, port or free_port(), options) as listening:
            yield Azurite(connection_string(listening))
    elif port is not None or options:
        pytest.skip(f"Azurite from npm is missing, and only it takes a port and options; {REMEDY}")
    else:
        async with _from_image() as listening:
            yield Azurite(connection_string(listening))


def is_installed() -> bool:
    """Return whether Azurite from npm can run here."""
    return shutil.which("node") is not None and _MAIN.is_file()


def connection_string(port: int) -> str:
    """Return the connection string for a port of the loopback address, whether or not it is in use."""
    endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    return f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};TableEndpoint={endpoint};"


@asynccontextmanager
async def _from_npm(node: str, folder: Path, port: int, options: Sequence[str]) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        node,
        str(_MAIN),
        *("--tableHost", "127.0.0.1", "--tablePort", str(port)),
        *_OPTIONS,
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START_SECONDS):
            output = b""
            while _READY not in output.decode():
                line = await process.stdout.readline()
                assert line, f"Azurite did not start: {output.decode()}"
                output += line
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def _from_image() -> AsyncIterator[int]:
    container = await asyncio.to_thread(_container)
    try:
        yield int(container.get_exposed_port(_PORT))
    finally:
        await asyncio.to_thread(container.stop)


def _container() -> DockerContainer:
    testcontainers_config.ryuk_disabled = True  # its reaper needs another image, and is not needed here
    try:
        client = DockerClient().client
        client.images.get(_IMAGE)
        client.close()
    except DockerException as error:
        pytest.skip(f"Azurite is not installed, and its image is not present ({type(error).__name__}); {REMEDY}")
    command = " ".join(("azurite-table", "--tableHost", "0.0.0.0", *_OPTIONS))  # noqa: S104 - inside the container
    container = DockerContainer(_IMAGE).with_command(command).with_exposed_ports(_PORT)
    return container.waiting_for(LogMessageWaitStrategy(_READY)).start()
