"""The README's programs run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.system import WAIT, running_system

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


async def test_the_programs_of_the_readme_get_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = PROGRAM.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    async with running_system(monkeypatch) as system, system.worker():
        variables = {
            "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": system.emulator.connection_string,
            "FLOW_WORKER_CLAIM": system.claim(),
        }
        said = await asyncio.gather(*(printed(program, variables) for program in programs))
    asynchronous, blocking = said
    assert "'customer': 'Contoso', 'amount': 125" in asynchronous
    assert "20 succeeded" in asynchronous
    assert "succeeded {'report'" in blocking


async def printed(program: str, variables: dict[str, str]) -> str:
    """What the program prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**os.environ, **variables},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT)
    assert process.returncode == 0, err.decode()
    return out.decode()
