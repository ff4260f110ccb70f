"""One worker process's journal: `python -m tests.conformance.journal.process FILE COUNT`.

Says `ready`, waits for a line, then begins and concludes the requests `0` to COUNT-1, says which ones it got, and waits
for what becomes of it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flow_worker.journal import Acquired, open_journal
from flow_worker.settings import JournalSettings
from tests.conformance.journal.samples import LEASE, result, subject


async def main(path: Path, count: int) -> None:
    async with open_journal(JournalSettings(path=path)) as journal:
        _say("ready")
        sys.stdin.readline()
        won = []
        for number in range(count):
            begun = await journal.acquire(subject(str(number)), duration=LEASE, calls=0)
            if isinstance(begun, Acquired):
                won.append(number)
                await journal.conclude(begun.lease, result(number))
        _say(*won)
        sys.stdin.readline()


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
