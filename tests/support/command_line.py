"""Runs a command of `flow-worker` in the test's process: the second of a new interpreter's imports is saved.

Start a real process where the process is the matter: streams, signals, the environment of another program.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

from typer.testing import CliRunner

from flow_worker.cli.main import cli


def run_command(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> CompletedProcess[str]:
    """Run `flow-worker …` in `cwd`, without the settings of this machine. An error without a message is raised."""
    variables: dict[str, str | None] = {name: None for name in os.environ if name.startswith("FLOW_WORKER_")}
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, arguments, input=stdin, env=variables | dict(env or {}))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
