"""The emulator as a process of its own, and other people's clients as processes that run named checks against it."""

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

JsonObject = dict[str, Any]  # whatever JSON a client prints
Outcomes = dict[str, str | None]
"""By the name of a check, what went wrong with it, None if nothing."""


@contextmanager
def running(folder: Path, queues: Mapping[str, JsonObject] | None, *options: str) -> Iterator[JsonObject]:
    """The emulator with these queues (their `Properties` by name; None: its own); what it says after `ready`."""
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
    """A queue for each check, with sessions if its name speaks of them; `properties` say what else it needs."""
    return {name: {"RequiresSession": "session" in name} | (properties or {}).get(name, {}) for name in checks}


def checks_of(module: str) -> list[str]:
    """The names of the checks in a module of `node` or `python`."""
    source = (HERE / module).read_text(encoding="utf-8")
    return re.findall(r"^(?:export const|def|async def) ([a-z]\w+)", source, re.MULTILINE)


def node() -> str:
    """Node; skips if it or the packages of package.json are not there."""
    if NODE is None:
        pytest.skip("Node is not installed")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("no npm packages; `npm install --prefix tests/clients` gets them")
    return NODE


def run_node(
    module: str, emulator: JsonObject, environment: Mapping[str, str] | None = None, only: Sequence[str] = ()
) -> Outcomes:
    """Run a module's checks, or only some, on Node; skips if it or its packages are not there."""
    return _run([node(), "run.mjs", f"./{module}.mjs", *only], HERE / "node", emulator, environment)


def run_python(
    module: str,
    emulator: JsonObject,
    environment: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    python: str = sys.executable,
) -> Outcomes:
    """Run a module's checks, or only some, with a Python."""
    return _run([python, "run.py", module, *only], HERE / "python", emulator, environment)


def from_pip(requirement: str) -> Path:
    """The folder with a release that is not this environment's own; skips if nobody has put it there."""
    folder = HERE / "python" / "site-packages" / requirement
    if not folder.is_dir():
        command = f"pip install --no-deps --target {folder.relative_to(HERE.parents[1]).as_posix()} {requirement}"
        pytest.skip(f"no {requirement}; `{command}` gets it")
    return folder


def python_with(package: str, remedy: str) -> str:
    """This Python, or the system's, whichever has the package; skips if neither has."""
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python) is not None:
            tried = subprocess.run([python, "-c", f"import {package}"], stderr=subprocess.DEVNULL, check=False)
            if tried.returncode == 0:
                return python
    pytest.skip(f"no Python package '{package}'; {remedy}")


def _run(command: Sequence[str], folder: Path, emulator: JsonObject, environment: Mapping[str, str] | None) -> Outcomes:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {}), "EMULATOR": json.dumps(emulator)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {said["name"]: said["error"] for said in map(json.loads, done.stdout.splitlines())}
