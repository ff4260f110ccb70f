"""The programs of the how-to guides run unchanged."""

from __future__ import annotations

from pathlib import Path

from tests.integration.docs.programs import programs_of, run_python

PAGE = "how-to/test-with-the-emulator.md"


async def test_the_pytest_files_of_the_emulator_guide_pass(tmp_path: Path) -> None:
    conftest, test_file, _ = programs_of(PAGE)
    assert conftest.startswith("# conftest.py")
    assert test_file.startswith("# test_orders.py")
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_orders.py").write_text(test_file, encoding="utf-8")
    output = await run_python("-m", "pytest", "-q", str(tmp_path), cwd=tmp_path)
    assert "1 passed" in output


async def test_the_program_of_the_emulator_guide_prints_a_connection_string() -> None:
    *_, program = programs_of(PAGE)
    assert "UseDevelopmentEmulator=true" in await run_python("-c", program)
