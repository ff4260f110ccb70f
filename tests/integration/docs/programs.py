"""Runs the Python programs of the documentation pages."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.system import WAIT

ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


def programs_of(page: str) -> list[str]:
    """Return the Python programs of a page below `docs/`, in their order."""
    return _PROGRAM.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


async def run_python(*arguments: str, variables: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run Python with these arguments and return its output. Fails unless the exit status is 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, **(variables or {})},
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT)
    assert process.returncode == 0, out.decode() + err.decode()
    return out.decode()
