"""Run the checks of a module, or only some, all at once; print each result as a line of JSON.

`python run.py MODULE [NAME…]`. A check is a public function. It gets the ready line of the emulator (environment
variable EMULATOR) and the name of its queue, which is the name of the check. The script itself needs only the standard
library, so that any Python can run it.
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
    """Run a check; return its line."""
    error = None
    try:
        result = check(json.loads(os.environ["EMULATOR"]), name)
        if inspect.isawaitable(result):
            asyncio.run(_finish(result))
    except Exception:  # noqa: BLE001 - any exception of the client is the result
        error = traceback.format_exc()
    return json.dumps({"name": name, "error": error})


async def _finish(result: Any) -> None:
    await result


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
            print(line, flush=True)  # noqa: T201 - the output of the script


if __name__ == "__main__":
    main()
