"""The worker's image, built once; everything here is skipped where there is no Docker engine or no base image."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator

import pytest
from docker.errors import BuildError, DockerException, ImageNotFound  # type: ignore[import-untyped]  # ships no types
from testcontainers.core.config import testcontainers_config
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.image import DockerImage

from tests.containers.harness import CHECKOUT, Emulator, running_emulator

# Its reaper is one more image to pull; the fixtures remove what they made.
testcontainers_config.ryuk_disabled = True


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    if platform.system() != "Linux":
        pytest.skip("the worker reaches the emulator over the host's network, which containers share on Linux only")
    try:
        client = DockerClient()
        client.client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.client.close()


@pytest.fixture(scope="session")
def base_image(engine: DockerClient) -> str:
    """$BASE_IMAGE, by default the Dockerfile's own."""
    default = re.search(r"^ARG BASE_IMAGE=(\S+)", (CHECKOUT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert default
    name = os.environ.get("BASE_IMAGE") or default[1]
    try:
        try:
            engine.client.images.get(name)
        except ImageNotFound:
            engine.client.images.pull(name)
    except DockerException as error:
        pytest.skip(f"the base image {name} cannot be had, name another in BASE_IMAGE: {error}")
    return name


@pytest.fixture(scope="session")
def image(base_image: str) -> Iterator[str]:
    """The built image's name."""
    # pip reaches its index the way this machine does
    build = DockerImage(
        CHECKOUT, tag="localhost/flow-worker:test", buildargs={"BASE_IMAGE": base_image}, network_mode="host"
    )
    try:
        build.build()
    except BuildError as error:
        pytest.fail(f"{error}\n" + "".join(part.get("stream", "") for part in error.build_log))
    yield str(build)
    build.remove(noprune=True)  # the layers below stay: the next build is a matter of seconds


@pytest.fixture(scope="module")
def emulator(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with running_emulator(tmp_path_factory.mktemp("emulator") / "emulator.log") as running:
        yield running
