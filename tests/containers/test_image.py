"""The content of the image, and its start without settings."""

from __future__ import annotations

import json
import re

import pytest
from testcontainers.core.docker_client import DockerClient

from tests.containers.harness import CHECKOUT

pytestmark = pytest.mark.timeout(600)  # the first test builds the image

PROBE = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil, sys, flow_contracts
files = [pathlib.Path(folder, name) for folder, _, names in os.walk(sys.prefix) for name in names]
print(json.dumps({
    "user": os.getuid(),
    "writable": [str(file) for file in files if os.access(file, os.W_OK)],
    "modules": [name for name in MODULES if importlib.util.find_spec(name)],
    "programs": [name for name in PROGRAMS if shutil.which(name)],
    "installed": {each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()},
    "data": (pathlib.Path(flow_contracts.__file__).parent / "py.typed").is_file(),
}))
"""
MODULES = [
    "flow_worker",
    "flow_contracts",
    "servicebus_emulator",
    "worker",
    "contracts",
    "emulator",
    "tests",
    "pytest",
    "pip",
    "setuptools",
]
PROGRAMS = ["flow-worker", "gcc", "g++", "cc", "c++", "clang", "tcc", "make"]


@pytest.fixture(scope="module")
def probed(engine: DockerClient, image: str) -> dict[str, object]:
    """Return the findings of a script that runs in the image."""
    script = f"MODULES = {MODULES}\nPROGRAMS = {PROGRAMS}\n{PROBE}"
    output = engine.run(image, ["-c", script], entrypoint="python", network="none", remove=True)
    findings: dict[str, object] = json.loads(output)
    return findings


def test_the_image_contains_the_worker_without_emulator_tests_or_installer(probed: dict[str, object]) -> None:
    assert probed["modules"] == ["flow_worker", "flow_contracts"]
    assert probed["data"]


def test_the_image_contains_no_compiler(probed: dict[str, object]) -> None:
    assert probed["programs"] == ["flow-worker"]


def test_the_image_runs_as_a_user_who_cannot_change_its_files(probed: dict[str, object]) -> None:
    assert probed["user"] == 10001
    assert probed["writable"] == []


def test_the_image_contains_the_pinned_versions_and_nothing_else(probed: dict[str, object]) -> None:
    lock = (CHECKOUT / "requirements-worker.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", lock, re.MULTILINE))
    installed = probed["installed"]
    assert isinstance(installed, dict)
    assert installed.pop("flow-worker") == installed.pop("flow-contracts")
    assert installed
    assert installed.items() <= pinned.items()


def test_the_user_is_a_number_so_that_kubernetes_can_prove_it_is_not_root(engine: DockerClient, image: str) -> None:
    user = engine.client.images.get(image).attrs["Config"]["User"]
    assert all(part.isdecimal() and int(part) > 0 for part in user.split(":"))


def test_a_start_without_settings_names_the_required_ones(engine: DockerClient, image: str) -> None:
    started = engine.client.containers.run(image, detach=True, network="none")
    try:
        status = started.wait(timeout=60)["StatusCode"]
        log = started.logs().decode()
    finally:
        started.remove(force=True)
    assert status == 2
    for name in ("FLOW_WORKER_SERVICEBUS", "FLOW_WORKER_CLAIMS", "FLOW_WORKER_FLOWS"):
        assert name in log
