"""Ctrl-C in the middle of a start: no traceback, and the exit status 130."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flow_worker.cli import interrupts as worker_interrupts
from servicebus_emulator import interrupts as emulator_interrupts

_PROGRAM = """
import signal, sys
program, module, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)

class Trap:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Trap())
sys.argv[1:] = arguments
__import__(program + ".__main__")
sys.modules[program + ".__main__"].main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("flow_worker", "typer", "run"),
        ("flow_worker", "flow_worker.app", "run"),
        ("flow_worker", "flow_worker.demo.run", "demo"),
        ("flow_worker", "pydantic", "status"),
        ("servicebus_emulator", "typer", "serve"),
        ("servicebus_emulator", "servicebus_emulator.host", "serve"),
    ],
)
def test_an_interrupted_start_prints_no_traceback(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr


@pytest.mark.parametrize("is_interrupt", [worker_interrupts.is_interrupt, emulator_interrupts.is_interrupt])
def test_an_error_that_an_interrupt_caused_is_one(is_interrupt: Callable[[BaseException | None], bool]) -> None:
    wrapped, other = RuntimeError("Error calling __set_name__"), ImportError("no such module")
    wrapped.__cause__ = ImportError()
    wrapped.__cause__.__context__ = KeyboardInterrupt()
    other.__context__ = other
    assert is_interrupt(wrapped)
    assert not is_interrupt(other)
    assert not is_interrupt(None)


@pytest.mark.parametrize("interrupts", [worker_interrupts, emulator_interrupts])
def test_an_interrupt_in_a_finalizer_is_not_lost(interrupts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    # A shell lets the processes that it starts in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.prepare()

    class Finalized:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    async def interrupted() -> None:
        Finalized()
        await asyncio.sleep(30)

    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(interrupted())
    finally:
        signal.signal(signal.SIGINT, before)
