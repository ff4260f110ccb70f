"""Conclude a request and recall it: `python -m tests.conformance.journal.by_identity ENDPOINT CLIENT_ID`."""

from __future__ import annotations

import asyncio
import sys

from flow_worker.journal import open_journal
from flow_worker.settings import JournalSettings
from tests.conformance.journal.samples import LEASE, job, leased, result


async def main(endpoint: str, client_id: str) -> None:
    settings = JournalSettings(backend="table", table_endpoint=endpoint)
    async with open_journal(settings, client_id=client_id) as journal:
        await journal.conclude(await leased(journal), result(7))
        answer = await journal.acquire(job(), duration=LEASE, calls=0)
    sys.stdout.write(f"{type(answer).__name__}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
