"""Open the journal in a process: `python -m tests.conformance.journal.process FILE COUNT`.

The process prints `ready` and waits for a line. It then acquires and concludes the requests `0` to COUNT-1, prints the
ones that it acquired, and waits for its end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flow_worker.journal import Acquired, open_journal
from flow_worker.settings import JournalSettings
from tests.conformance.journal.samples import LEASE, job, result


async def main(path: Path, count: int) -> None:
    async with open_journal(JournalSettings(path=path)) as journal:
        _print("ready")
        sys.stdin.readline()
        acquired = []
        for number in range(count):
            answer = await journal.acquire(job(str(number)), duration=LEASE, calls=0)
            if isinstance(answer, Acquired):
                acquired.append(number)
                await journal.conclude(answer.lease, result(number))
        _print(*acquired)
        sys.stdin.readline()


def _print(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
