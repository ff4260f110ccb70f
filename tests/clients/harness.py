"""An emulator as a process of its own, for clients that are no Python, or another Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import start

HERE = Path(__file__).parent
NODE = shutil.which("node")

JsonObject = dict[str, Any]  # whatever JSON a client prints


@contextmanager
def running(folder: Path, queues: Mapping[str, JsonObject], *options: str) -> Iterator[JsonObject]:
    """The emulator with these queues (their `Properties` by name); what it says after `ready`."""
    listed = [{"Name": name, "Properties": properties} for name, properties in queues.items()]
    config = folder / "config.json"
    namespace = {"Name": "sbemulatorns", "Queues": listed}
    config.write_text(json.dumps({"UserConfig": {"Namespaces": [namespace]}}), encoding="utf-8")
    ports = ["--amqp-port", "0", "--http-port", "0"]
    process = start(["emulator", "serve", "--config", str(config), *ports, *options], folder / "emulator.log")
    try:
        assert process.popen.stdout is not None
        line = process.popen.stdout.readline()
        assert line.startswith("ready "), process.log.read_text(encoding="utf-8")
        yield json.loads(line.removeprefix("ready "))
    finally:
        process.kill()


def checks_of(module: str) -> list[str]:
    """The names of the checks that a JavaScript module exports."""
    source = (HERE / "node" / module).read_text(encoding="utf-8")
    return re.findall(r"^export const (\w+)", source, re.MULTILINE)


def run_checks(module: str, emulator: JsonObject, environment: Mapping[str, str]) -> dict[str, str | None]:
    """What went wrong with each check, None if nothing; skips if Node or its packages are not there."""
    if NODE is None:
        pytest.skip("Node is not installed")
    if not (HERE / "node_modules").is_dir():
        pytest.skip("no npm packages; `npm install --prefix tests/clients` gets them")
    done = subprocess.run(
        [NODE, "run.mjs", f"./{module}"],
        cwd=HERE / "node",
        env={**environment, "EMULATOR": json.dumps(emulator)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {said["name"]: said["error"] for said in map(json.loads, done.stdout.splitlines())}
