"""Output in legacy code pages, to closed pipes and streams, and to full disks: no command fails with a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from pydantic import JsonValue
from rich.console import Console

from flow_worker.cli import access_render, streams, terminal
from flow_worker.cli.access_explanation import AccessExplanation, AccessStep, StepOutcome
from servicebus_emulator import streams as emulator_streams
from tests.support.processes import CHECKOUT

ENCODINGS = ["cp1252", "ascii", "cp437", "cp850", "cp932", "latin-1", "utf-8", "utf-16"]
SYMBOLS = "\u2713 \u2717 \u2026 \u2192 \u2013 \u00e9 \u4e16 \U0001f600 \u2500\u2502\u250c \u280b \ud800"
Tolerant = Callable[[io.TextIOWrapper], io.TextIOWrapper]
TOLERANT: list[Tolerant] = [streams.tolerant, emulator_streams.tolerant]


def in_memory(encoding: str, tolerant: Tolerant = streams.tolerant) -> tuple[io.TextIOWrapper, io.BytesIO]:
    buffer = io.BytesIO()
    return tolerant(io.TextIOWrapper(buffer, encoding=encoding, newline="")), buffer


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("tolerant", TOLERANT)
def test_every_character_can_be_written_in_every_encoding(tolerant: Tolerant, encoding: str) -> None:
    stream, buffer = in_memory(encoding, tolerant)
    stream.write(SYMBOLS)
    stream.flush()
    assert buffer.getvalue().decode(encoding)


def test_symbols_become_ascii_that_reads_well_and_other_characters_json_escapes() -> None:
    stream, buffer = in_memory("ascii")
    stream.write(SYMBOLS)
    stream.flush()
    assert buffer.getvalue() == rb"+ ! ... -> - \u00e9 \u4e16 \ud83d\ude00 -|+ * \ud800"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_legacy_encoding_changes_no_json(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    document: JsonValue = {"\u2713": SYMBOLS, "name": "M\u00fcller\x85\u202e\x7f"}
    stream, buffer = in_memory(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.echo(terminal.json_text(document))
    assert json.loads(buffer.getvalue().decode(encoding)) == document


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("outcome", ["allowed", "refused", "not known"])
def test_an_explanation_of_access_prints_in_every_encoding(encoding: str, outcome: StepOutcome) -> None:
    stream, buffer = in_memory(encoding)
    explanation = AccessExplanation("angebot-\u00fc", "q", [AccessStep("Who?", outcome, "a \u2026 b \u2192 c", "code")])
    access_render.print_explanation(Console(file=stream, width=80), explanation)
    stream.flush()
    mark = {"allowed": "+", "refused": "!", "not known": "?"}[outcome]
    assert ("1. " + (mark if encoding == "ascii" else "")) in buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("tolerant", TOLERANT)
def test_a_closed_pipe_raises_nothing(tolerant: Tolerant) -> None:
    reading, writing = os.pipe()
    stream = tolerant(os.fdopen(writing, "w", encoding="utf-8", closefd=False))
    os.close(reading)
    for _ in range(3):
        stream.write("x" * 100_000)
        stream.flush()
    stream.close()
    os.close(writing)


@pytest.mark.parametrize("module", ["flow_worker", "servicebus_emulator"])
def test_a_command_in_ascii_with_a_reader_that_leaves_exits_with_its_own_status(module: str) -> None:
    arguments = {"flow_worker": ["send", "x", "no\u2713field"], "servicebus_emulator": ["serve", "--rule", "\u2713"]}
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOW_WORKER_")}
    environment |= {"PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments[module]],
            stdout=writing,
            stderr=writing,
            timeout=60,
            env=environment,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="no sh")
@pytest.mark.parametrize(
    ("module", "command", "status"),
    [
        ("flow_worker", "schema settings >&-", 0),
        ("flow_worker", "send x nofield <&- >&- 2>&-", 2),
        ("flow_worker", "send x nofield 2>/dev/full", 2),
        ("flow_worker", "schema settings >/dev/full", streams.EX_IOERR),
        ("flow_worker", "schema settings >/dev/full 2>&1", streams.EX_IOERR),
        ("servicebus_emulator", "--version >&-", 0),
        ("servicebus_emulator", "--version >/dev/full", emulator_streams.EX_IOERR),
        ("servicebus_emulator", "serve --rule x 2>&-", 2),
    ],
)
def test_a_closed_or_full_stream_gives_no_traceback_and_no_status_of_another_meaning(
    module: str, command: str, status: int
) -> None:
    if "/dev/full" in command and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m {module} {command}', sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    is_told = status == streams.EX_IOERR and "2>" not in command
    assert done.stderr.startswith("The output is incomplete: stdout cannot be written (No space left") == is_told


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("module", [streams, emulator_streams])
def test_a_failing_stderr_loses_no_result(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", module.tolerant(full))
        terminal.echo("a hint", to_stderr=True)
        terminal.echo("the result")
        assert module.exit_status(1) == 1
        monkeypatch.setattr(sys, "stdout", module.tolerant(full))
        terminal.echo("the result")
        assert module.exit_status(1) == 74
    assert capsys.readouterr().out == "the result\n"


@pytest.mark.skipif(os.name == "nt", reason="a signal to another process ends it on Windows")
def test_ctrl_c_while_the_program_starts_prints_no_traceback() -> None:
    # The signal comes when the handler is there and the import of the commands begins.
    program = """
import os, runpy, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "flow_worker.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("flow_worker", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=CHECKOUT, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
