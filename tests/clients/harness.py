"""The emulator in a separate process, and processes of other clients that run named checks with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import start

HERE = Path(__file__).parent
NODE = shutil.which("node")

JsonObject = dict[str, Any]  # any JSON that a client prints
Outcomes = dict[str, str | None]
"""The error of each check by name; None if the check passed."""


@contextmanager
def running(folder: Path, queues: Mapping[str, JsonObject] | None, *options: str) -> Iterator[JsonObject]:
    """Run the emulator with these queues (`Properties` by name; None: the default ones); yield its ready line."""
    configured = [] if queues is None else ["--config", str(_configuration(folder, queues))]
    ports = ["--amqp-port", "0", "--http-port", "0"]
    process = start(["servicebus_emulator", "serve", *configured, *ports, *options], folder / "emulator.log")
    try:
        assert process.popen.stdout is not None
        line = process.popen.stdout.readline()
        assert line.startswith("ready "), process.log.read_text(encoding="utf-8")
        yield json.loads(line.removeprefix("ready "))
    finally:
        process.kill()


def _configuration(folder: Path, queues: Mapping[str, JsonObject]) -> Path:
    listed = [{"Name": name, "Properties": properties} for name, properties in queues.items()]
    namespace = {"Name": "sbemulatorns", "Queues": listed}
    config = folder / "config.json"
    config.write_text(json.dumps({"UserConfig": {"Namespaces": [namespace]}}), encoding="utf-8")
    return config


def queues_for(checks: Sequence[str], properties: Mapping[str, JsonObject] | None = None) -> dict[str, JsonObject]:
    """Return a queue for each check, with sessions if its name contains "session", and with `properties`."""
    return {name: {"RequiresSession": "session" in name} | (properties or {}).get(name, {}) for name in checks}


def checks_of(module: str) -> list[str]:
    """Return the names of the checks in a module of `node` or `python`."""
    source = (HERE / module).read_text(encoding="utf-8")
    return re.findall(r"^(?:export const|def|async def) ([a-z]\w+)", source, re.MULTILINE)


def node() -> str:
    """Return the path of Node; skip the test if Node or its packages are missing."""
    if NODE is None:
        pytest.skip("Node is not installed")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("no npm packages; `npm install --prefix tests/clients` gets them")
    return NODE


def run_node(
    module: str, emulator: JsonObject, environment: Mapping[str, str] | None = None, only: Sequence[str] = ()
) -> Outcomes:
    """Run all or some checks of a module on Node; skip the test if Node or its packages are missing."""
    return _run([node(), "run.mjs", f"./{module}.mjs", *only], HERE / "node", emulator, environment)


def run_python(
    module: str,
    emulator: JsonObject,
    environment: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    python: str = sys.executable,
) -> Outcomes:
    """Run all or some checks of a module with a Python."""
    return _run([python, "run.py", module, *only], HERE / "python", emulator, environment)


def from_pip(requirement: str) -> Path:
    """Return the folder with another release of a package; skip the test if it is not installed."""
    folder = HERE / "python" / "site-packages" / requirement
    if not folder.is_dir():
        command = f"pip install --no-deps --target {folder.relative_to(HERE.parents[1]).as_posix()} {requirement}"
        pytest.skip(f"no {requirement}; `{command}` gets it")
    return folder


def python_with(package: str, remedy: str) -> str:
    """Return a Python that has the package: this one or that of the system. Skip the test if neither has it."""
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python) is not None:
            process = subprocess.run([python, "-c", f"import {package}"], stderr=subprocess.DEVNULL, check=False)
            if process.returncode == 0:
                return python
    pytest.skip(f"no Python package '{package}'; {remedy}")


def _run(command: Sequence[str], folder: Path, emulator: JsonObject, environment: Mapping[str, str] | None) -> Outcomes:
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {}), "EMULATOR": json.dumps(emulator)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {result["name"]: result["error"] for result in map(json.loads, process.stdout.splitlines())}
