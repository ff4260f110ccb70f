"""The programs of the tutorials run unchanged and get their results."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.docs.programs import ROOT, programs_of, run_python
from tests.support.system import running_system


async def test_the_programs_of_the_first_request_tutorial_get_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = programs_of("tutorials/first-request.md")
    async with running_system(monkeypatch) as system, system.worker():
        variables = {
            "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": system.emulator.connection_string,
            "FLOW_WORKER_CLAIM": system.claim(),
        }
        outputs = await asyncio.gather(*(run_python("-c", program, variables=variables) for program in programs))
    asynchronous, blocking = outputs
    assert "'customer': 'Contoso', 'amount': 125" in asynchronous
    assert "20 succeeded" in asynchronous
    assert "succeeded {'report'" in blocking


def test_the_other_tutorials_and_the_readme_contain_no_programs() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "tutorials").glob("*.md")}
    with_programs = {page for page in pages if programs_of(page)}
    assert with_programs == {"tutorials/first-request.md"}
    assert "```python" not in (ROOT / "README.md").read_text(encoding="utf-8")
