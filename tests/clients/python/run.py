"""Runs a module's checks, or only some, all at once, and prints what became of each as a line of JSON.

`python run.py MODULE [NAME…]`. A check is a public function; it gets the running emulator's words (environment variable
EMULATOR, what it prints after `ready`) and a queue named like the check. Whichever Python runs it needs nothing but
what the module imports.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def outcome(name: str, check: Callable[[dict[str, Any], str], Any]) -> str:
    """The line for one check."""
    error = None
    try:
        done = check(json.loads(os.environ["EMULATOR"]), name)
        if inspect.isawaitable(done):
            asyncio.run(_finish(done))
    except Exception:  # noqa: BLE001 - whatever a stranger's library raises is the outcome
        error = traceback.format_exc()
    return json.dumps({"name": name, "error": error})


async def _finish(done: Any) -> None:
    await done


def main() -> None:
    module, only = importlib.import_module(sys.argv[1]), sys.argv[2:]
    checks = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        if not only or name in only
    }
    with ThreadPoolExecutor(len(checks)) as threads:
        for line in threads.map(outcome, checks.keys(), checks.values()):
            print(line, flush=True)  # noqa: T201 - its one purpose


if __name__ == "__main__":
    main()
