"""Headless Chromium, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil
import pytest

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "msedge")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
_DEVTOOLS = re.compile(r"ws://([^/\s]+)/")
SECONDS = 20.0


@dataclass
class Page:
    """A tab."""

    socket: aiohttp.ClientWebSocketResponse
    errors: list[str] = field(default_factory=list)
    """The exceptions that the page did not catch, and what its security policy blocked."""
    traffic: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The events of the network, by their names."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    async def read(self) -> None:
        """Read what the browser sends."""
        async for message in self.socket:
            document = message.json()
            if (waiting := self._waiting.pop(document.get("id", 0), None)) is not None:
                waiting.set_result(document)
            elif document.get("method", "").startswith("Network."):
                self.traffic.append((document["method"], document["params"]))
            elif document.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(document["params"]["exceptionDetails"]))
            elif document.get("method") == "Log.entryAdded" and document["params"]["entry"]["source"] == "security":
                self.errors.append(document["params"]["entry"]["text"])

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(SECONDS):
            answer = await self._waiting[number]
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self) -> Self:
        """Prepare a new tab."""
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            await self.send(f"{domain}.enable")
        return self

    async def go(self, url: str) -> None:
        """Load a page."""
        await self.send("Page.navigate", url=url)

    async def run(self, expression: str) -> Any:
        """Return the value of an expression in the page; wait for a promise."""
        answer = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait until an expression is true, also across a reload, and return its value."""
        value = None
        try:
            async with asyncio.timeout(seconds):
                while not value:
                    await asyncio.sleep(0.05)
                    with suppress(AssertionError):  # the page is not there yet
                        value = await self.run(expression)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {expression}\n{text}\n{self.errors}") from None
        return value

    async def press(self, key: str, code: int, text: str = "", *, shift: bool = False) -> None:
        """Press a key of the keyboard."""
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    async def look(self, width: int, scheme: str) -> None:
        """Set the width of the window, and the colour scheme of the system."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def set_offline(self, offline: bool) -> None:
        """Take the network away, or give it back."""
        await self.send(
            "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@dataclass
class Browser:
    """A running browser."""

    address: str
    session: aiohttp.ClientSession
    stack: AsyncExitStack

    async def new_page(self) -> Page:
        """Open a tab, with a session storage of its own."""
        async with self.session.put(f"http://{self.address}/json/new?about:blank") as answer:
            target = await answer.json(content_type=None)
        socket = await self.stack.enter_async_context(
            self.session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        )
        page = Page(socket)
        reading = asyncio.create_task(page.read(), name="page")
        self.stack.callback(reading.cancel)
        return await page.open()


@asynccontextmanager
async def running_browser(folder: Path) -> AsyncIterator[Browser]:
    """Run Chromium until the block ends; skip the test without one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium; `apt-get install chromium-headless-shell` gets it on Debian")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    draining: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(SECONDS):
            while (match := _DEVTOOLS.search((await process.stderr.readline()).decode())) is None:
                assert process.returncode is None, "Chromium exited"
        draining = asyncio.create_task(process.stderr.read(), name="chromium's log")
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            yield Browser(match[1], session, stack)
    finally:
        # Debian's command is a script that starts the browser: kill its child processes too.
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if draining is not None:
            await draining
