"""Pages start flows over WebSocket and get their results: the sample `front-end`, in Chromium.

Emulator and worker are real, and the project's own build file bundles it. Only the sign-in with Entra is missing.
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
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
from tests.support.processes import CHECKOUT, start_worker, wait_ready

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "msedge")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
PAGE = (
    '<!doctype html><meta charset="utf-8"><script>globalThis.config = {}</script>'
    '<script type="module" src="bundle.js"></script>'
)
SAMPLES = CHECKOUT / "docs" / "samples"
SECONDS = 60
pytestmark = pytest.mark.timeout(180)
USER = "ada"


class Site(ThreadingHTTPServer):
    """Serves the page with its files, by path, and receives its outcomes."""

    def __init__(self, port: int, config: JsonObject, files: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", port), RequestHandler)
        self.files = {path: (_kind(path), file.read_bytes()) for path, file in files.items()}
        self.files["/"] = ("text/html", PAGE.replace("{}", json.dumps(config)).encode())
        self.outcomes: queue.Queue[JsonObject] = queue.Queue()


def _kind(path: str) -> str:
    return "text/html" if path.endswith(".html") else "text/javascript"


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
    files = built(folder)
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
        site = Site(port, page_config, files)
        with (
            running_worker_for(folder, emulator),
            serving(site),
            browser_with(f"http://127.0.0.1:{site.server_port}/", folder),
        ):
            return site.outcomes.get(timeout=SECONDS)


def built(folder: Path) -> dict[str, Path]:
    """Build the page of the scenarios and the samples; return their files by path."""
    front_end = folder / "front-end"
    shutil.copytree(SAMPLES / "front-end", front_end, ignore=shutil.ignore_patterns("node_modules", "dist"))
    bundles = {"page": folder / "page.js", "sample": front_end / "dist" / "front-end.mjs"}
    for name, bundle in bundles.items():
        subprocess.run([node(), "build.mjs", name, str(bundle)], cwd=HERE / "browser", check=True, timeout=SECONDS)
    return {
        "/bundle.js": bundles["page"],
        "/sample/index.html": front_end / "index.html",
        "/sample/dist/front-end.mjs": bundles["sample"],
    }


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
    answer = httpx.post(f"{web_url}/emulator/token", json=claims, timeout=60).raise_for_status()
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


def test_a_page_stops_waiting_and_finds_the_result_later(outcomes: JsonObject) -> None:
    assert value(outcomes, "stopped_wait") == ["AbortError", 6]


def test_the_form_of_the_sample_shows_its_quote(outcomes: JsonObject) -> None:
    assert re.fullmatch(r"Quote Q-\w+", value(outcomes, "form"))


def test_a_page_gets_the_reason_of_a_refusal(outcomes: JsonObject) -> None:
    assert value(outcomes, "refusal") == ["refused: role_missing", False]


def test_a_missing_result_is_not_an_error(outcomes: JsonObject) -> None:
    assert value(outcomes, "nothing_yet") is None


def value(outcomes: JsonObject, scenario: str) -> Any:
    """Return the value of a scenario; assert that it did not fail."""
    assert "error" not in outcomes[scenario], outcomes[scenario]["error"]
    return outcomes[scenario]["value"]
