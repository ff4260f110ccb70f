"""Runs workers of other versions as processes: of an earlier commit, and of a later version made by patches."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import CHECKOUT
from tests.support.system import WAIT, JsonObject

_RUN = """
import asyncio, json, sys
from pathlib import Path
import flow_worker, flow_contracts
from flow_worker.app import run
from flow_worker.settings import Settings
from flow_worker.telemetry.logs import configure
from pydantic import ValidationError

for module in (flow_worker, flow_contracts):
    assert Path(module.__file__).is_relative_to(sys.argv[2]), module.__file__
document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
try:
    settings = Settings.model_validate(document)
except ValidationError as error:  # the settings of the tests may be newer than this version
    for problem in error.errors():
        group = document
        for step in problem["loc"][:-1]:
            group = group[step]
        assert problem["type"] == "extra_forbidden", problem
        del group[problem["loc"][-1]]
    settings = Settings.model_validate(document)
configure("INFO", "text")
asyncio.run(run(settings))
"""
"""The program of an earlier version. It must not import `tests`, which belongs to this version."""


class NoSuchVersion(Exception):
    """The checkout has no such commit, or there is no git; the message says which."""


@dataclass(frozen=True)
class Version:
    """A worker's program."""

    name: str
    arguments: tuple[str, ...]
    """Of the interpreter, with SETTINGS for the path of the settings."""
    environment: Mapping[str, str] = field(default_factory=dict)


THIS = Version("this", ("-m", "tests.support.crashing_worker", "SETTINGS"))


def newer(*changes: str) -> Version:
    """Return a later version; see `tests.support.newer_worker` for the changes."""
    return Version(f"newer ({', '.join(changes)})", ("-m", "tests.support.newer_worker", "SETTINGS", *changes))


def earlier(reference: str, folder: Path) -> Version:
    """Return the version at a commit. Raises `NoSuchVersion`."""
    git = shutil.which("git")
    if git is None:
        raise NoSuchVersion("there is no git")
    archive = folder / "source.tar"
    command = [git, "-C", str(CHECKOUT), "archive", f"--output={archive}", reference, "contracts", "worker"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise NoSuchVersion(f"the checkout has no commit {reference}: {made.stderr.strip()}")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    path = os.pathsep.join(str(folder / part) for part in ("contracts", "worker"))
    return Version(reference, ("-P", "-c", _RUN, "SETTINGS", str(folder)), {"PYTHONPATH": path})


@asynccontextmanager
async def running(
    version: Version, settings: JsonObject, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Path]:
    """Run a worker until the block ends, then stop it in good order. Yield the path of its log."""
    path, log = folder / f"{version.name}.json", folder / f"{version.name}.log"
    path.write_text(json.dumps(settings), encoding="utf-8")
    arguments = [str(path) if one == "SETTINGS" else one for one in version.arguments]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=CHECKOUT if "-m" in arguments else folder,
            env={**os.environ, **environment, **version.environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield log
        process.terminate()
        status = await asyncio.wait_for(process.wait(), WAIT)
        assert status == 0, log.read_text(encoding="utf-8")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
