"""Builds the worker's image once. Without a Docker engine or the base image, pytest skips these tests."""

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

# Ryuk removes forgotten containers, but is one more image to pull. The fixtures remove their own containers.
testcontainers_config.ryuk_disabled = True


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    if platform.system() != "Linux":
        pytest.skip("the worker needs the host's network to reach the emulator; containers share it on Linux only")
    try:
        client = DockerClient()
        client.client.ping()
    except DockerException as error:
        pytest.skip(f"the Docker engine does not answer: {error}")
    yield client
    client.client.close()


@pytest.fixture(scope="session")
def base_image(engine: DockerClient) -> str:
    """Return the base image: the environment variable BASE_IMAGE, or else the default of the Dockerfile."""
    default = re.search(r"^ARG BASE_IMAGE=(\S+)", (CHECKOUT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert default
    name = os.environ.get("BASE_IMAGE") or default[1]
    try:
        try:
            engine.client.images.get(name)
        except ImageNotFound:
            engine.client.images.pull(name)
    except DockerException as error:
        pytest.skip(f"cannot pull the base image {name}; set BASE_IMAGE to an available one: {error}")
    return name


@pytest.fixture(scope="session")
def image(base_image: str) -> Iterator[str]:
    """Build the image and return its name."""
    # The host's network: pip in the build then reaches the package index as the host does.
    build = DockerImage(
        CHECKOUT, tag="localhost/flow-worker:test", buildargs={"BASE_IMAGE": base_image}, network_mode="host"
    )
    try:
        build.build()
    except BuildError as error:
        pytest.fail(f"{error}\n" + "".join(part.get("stream", "") for part in error.build_log))
    yield str(build)
    build.remove(noprune=True)  # keep the layers below, so that the next build takes seconds


@pytest.fixture(scope="module")
def emulator(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with running_emulator(tmp_path_factory.mktemp("emulator") / "emulator.log") as running:
        yield running
