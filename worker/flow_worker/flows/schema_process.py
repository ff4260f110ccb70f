"""The process that applies schemas to inputs: the worker can end it at any time, also within a regular expression.

It reads one JSON text a line from stdin and answers each with one line on stdout. The first line holds the schemas.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from typing import Any, BinaryIO

from flow_worker.flows.input_schema import compile_schema, fault_of

_EXTRA_SECONDS = 5.0
"""The worker ends this process at the deadline. If the worker has crashed, the process ends itself this much later."""


def main() -> None:
    """Answer the worker's lines until it closes stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the worker drains after it
    start = json.loads(sys.stdin.buffer.readline())
    validators = {name: compile_schema(schema) for name, schema in start["schemas"].items()}
    _limit_memory(start["max_memory_bytes"])
    with contextlib.suppress(AttributeError, OSError):  # Windows has no `nice`
        os.nice(5)  # the event loop goes first where both share a processor
    _write(sys.stdout.buffer, {"ready": True})
    with open(os.devnull, "wb") as nowhere:
        for line in sys.stdin.buffer:
            # The timer works without the interpreter's lock, which a regular expression holds.
            faulthandler.dump_traceback_later(start["deadline_seconds"] + _EXTRA_SECONDS, file=nowhere, exit=True)
            _write(sys.stdout.buffer, _answer(validators, line))
            faulthandler.cancel_dump_traceback_later()


def _answer(validators: dict[str, Any], line: bytes) -> dict[str, object]:
    try:
        request = json.loads(line)
        return {"fault": fault_of(validators[request["flow"]], request["input"])}
    except MemoryError:
        return {"exceeded": True}


def _limit_memory(max_bytes: int) -> None:
    """Limit the process's own memory where the system can: Windows and macOS cannot."""
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def _write(stream: BinaryIO, answer: dict[str, object]) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    main()
