"""A TCP proxy that delays every byte by half a round trip in each direction.

`python -m bench.worker.delay_proxy PORT ROUND_TRIP_MS` prints the port that forwards to PORT. For each line on its
standard input it breaks all open connections and then prints a line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from threading import Thread


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float) -> None:
    """Forward chunks in order, each a fixed time after its arrival.

    A separate task writes: sleeping between read and write would delay the next chunk by the delays of all before it.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write_when_due() -> None:
        while True:
            due, chunk = await chunks.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                writer.close()
                return
            writer.write(chunk)

    writing = asyncio.create_task(write_when_due())
    try:
        while chunk := await reader.read(65_536):
            chunks.put_nowait((loop.time() + delay_seconds, chunk))
    except ConnectionError:
        pass
    chunks.put_nowait((loop.time() + delay_seconds, b""))  # the end of the stream is delayed, too
    await writing


async def serve(port: int, round_trip_seconds: float) -> None:
    """Serve until the process is killed."""
    open_writers: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", port)
        delay, writers = round_trip_seconds / 2, {writer, broker_writer}
        open_writers.update(writers)
        await asyncio.gather(_forward(reader, broker_writer, delay), _forward(broker_reader, writer, delay))
        open_writers.difference_update(writers)

    def break_all() -> None:
        for writer in open_writers:
            writer.transport.abort()
        print("broken", flush=True)  # noqa: T201 - bench.worker.environment waits for this line

    loop = asyncio.get_running_loop()
    # A thread reads: asyncio cannot read standard input on every platform.
    Thread(target=_for_each_line, args=(loop, break_all), daemon=True).start()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - bench.worker.environment reads this line
    await server.serve_forever()


def _for_each_line(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    for _ in sys.stdin:
        loop.call_soon_threadsafe(action)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
