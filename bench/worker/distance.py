"""A network between a client and a port: every byte arrives later by half a round trip, in both directions.

`python -m bench.worker.distance PORT ROUND_TRIP_MS` prints the port to connect to instead. A line on its standard input
breaks all connections there are, and another one is printed then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from threading import Thread


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Bytes keep their order: each chunk is due a fixed time after it came."""
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            moment, chunk = await due.get()
            await asyncio.sleep(moment - loop.time())
            if not chunk:
                writer.close()
                return
            writer.write(chunk)

    delivering = asyncio.create_task(deliver())
    try:
        while chunk := await reader.read(65_536):
            due.put_nowait((loop.time() + seconds, chunk))
    except ConnectionError:
        pass
    due.put_nowait((loop.time() + seconds, b""))
    await delivering


async def serve(port: int, round_trip_seconds: float) -> None:
    """Serve until killed."""

    open_: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        half, ends = round_trip_seconds / 2, {writer, there_writer}
        open_.update(ends)
        await asyncio.gather(_carry(reader, there_writer, half), _carry(there_reader, writer, half))
        open_.difference_update(ends)

    def break_all() -> None:
        for end in open_:
            end.transport.abort()
        print("broken", flush=True)  # noqa: T201 - what the bench reads

    loop = asyncio.get_running_loop()
    Thread(target=_at_each_line, args=(loop, break_all), daemon=True).start()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - what the bench reads
    await server.serve_forever()


def _at_each_line(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    for _ in sys.stdin:
        loop.call_soon_threadsafe(then)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
