"""A browser's page starts flows over WebSocket and gets its results: docs/samples/front-end.mjs, in headless Chromium.

Emulator and worker are real, and the page is bundled like a Power Apps control. Only the sign-in with Entra is missing.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flow_worker.demo.environment import ROLE, EmulatorClient
from flow_worker.demo.processes import free_port
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.harness import HERE, JsonObject, node, running
from tests.support.processes import start_worker, wait_ready

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "msedge")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
PAGE = '<!doctype html><meta charset="utf-8"><script>globalThis.config = {}</script><script src="bundle.js"></script>'
SECONDS = 30
USER = "ada"


class Site(ThreadingHTTPServer):
    """Serves the page and receives its outcomes."""

    def __init__(self, port: int, bundle: bytes, config: JsonObject) -> None:
        super().__init__(("127.0.0.1", port), RequestHandler)
        self.files = {
            "/": ("text/html", PAGE.replace("{}", json.dumps(config)).encode()),
            "/bundle.js": ("text/javascript", bundle),
        }
        self.outcomes: queue.Queue[JsonObject] = queue.Queue()


class RequestHandler(BaseHTTPRequestHandler):
    """One request to the site."""

    server: Site

    def do_GET(self) -> None:
        kind, content = self.server.files.get(self.path, ("text/plain", b""))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.outcomes.put(json.loads(body))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@contextmanager
def serving(site: Site) -> Iterator[None]:
    thread = threading.Thread(target=site.serve_forever, name="site")
    thread.start()
    try:
        yield
    finally:
        site.shutdown()
        site.server_close()
        thread.join()


@contextmanager
def browser_with(url: str, folder: Path) -> Iterator[None]:
    """Run Chromium with this page."""
    assert CHROMIUM is not None
    with (folder / "chromium.log").open("ab") as log:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", url]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            # Debian's command is a script that starts the browser: kill its child processes too.
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> JsonObject:
    """The outcomes of the scenarios on the page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium; `apt-get install chromium-headless-shell` gets it on Debian")
    folder = tmp_path_factory.mktemp("browser")
    bundle = folder / "bundle.js"
    subprocess.run([node(), "build.mjs", str(bundle)], cwd=HERE / "browser", check=True, timeout=SECONDS)
    port = free_port()
    allowed = ("--allow-origin", f"http://127.0.0.1:{port}")
    with running(folder, None, "--ws-port", "0", "--config", str(configuration(folder)), *allowed) as ready:
        emulator = EmulatorClient(**{name: ready[name] for name in EmulatorClient.__dataclass_fields__})
        page_config = {
            "wsUrl": ready["ws_url"],
            "busToken": bus_token(emulator.web_url),
            "claim": emulator.mint(USER, ROLE),
            "otherClaim": emulator.mint(USER, "Another.Role"),
        }
        site = Site(port, bundle.read_bytes(), page_config)
        with (
            running_worker_for(folder, emulator),
            serving(site),
            browser_with(f"http://127.0.0.1:{site.server_port}/", folder),
        ):
            return site.outcomes.get(timeout=SECONDS)


def configuration(folder: Path) -> Path:
    """Write the default configuration with the data roles that the sample requires of a user."""
    document = json.loads(config.DEFAULT.read_text(encoding="utf-8"))
    document["FlowWorker"]["ServiceBus"] = {
        "RoleAssignments": [
            {"ObjectId": str(object_id_of(USER)), "Role": f"Azure Service Bus Data {role}", "Queue": name}
            for role, name in (("Sender", "flow-requests"), ("Receiver", "flow-replies"))
        ]
    }
    path = folder / "config.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def bus_token(web_url: str) -> str:
    """Return a token for Service Bus, as the page gets it from Entra."""
    claims = {"user": USER, "audience": "https://servicebus.azure.net"}
    answer = httpx.post(f"{web_url}/emulator/token", json=claims, timeout=10).raise_for_status()
    token: str = answer.json()["access_token"]
    return token


@contextmanager
def running_worker_for(folder: Path, emulator: EmulatorClient) -> Iterator[None]:
    """Run a worker that is ready."""
    health_port = free_port()
    worker = start_worker(folder, emulator, health_port)
    try:
        wait_ready(worker, health_port)
        yield
    finally:
        worker.kill()


def test_a_page_gets_its_quote(outcomes: JsonObject) -> None:
    assert value(outcomes, "quote")["amount"] == 125


def test_a_page_gets_results_in_any_order(outcomes: JsonObject) -> None:
    assert value(outcomes, "several") == [3, 2, 1]


def test_a_page_with_the_wrong_key_leaves_the_result_to_a_reader_with_the_right_one(outcomes: JsonObject) -> None:
    assert value(outcomes, "wrong_key") == [None, 4]


def test_a_page_sends_a_request_again_and_gets_its_result(outcomes: JsonObject) -> None:
    assert value(outcomes, "sent_again") == 5


def test_a_page_gets_the_reason_of_a_refusal(outcomes: JsonObject) -> None:
    assert value(outcomes, "refusal") == "refused: role_missing"


def test_a_missing_result_is_not_an_error(outcomes: JsonObject) -> None:
    assert value(outcomes, "nothing_yet") is None


def value(outcomes: JsonObject, scenario: str) -> Any:
    """Return the value of a scenario; assert that it did not fail."""
    assert "error" not in outcomes[scenario], outcomes[scenario]["error"]
    return outcomes[scenario]["value"]
