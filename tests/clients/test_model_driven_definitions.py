"""The definitions of `docs/samples/model-driven` agree with the worker and the emulator, and `create.mjs` sends them.

The emulator has no metadata API, so the script meets a stand-in that records its requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flow_worker.settings import DeliverySettings
from servicebus_emulator import config
from tests.clients.harness import HERE, node
from tests.clients.test_samples import compile_program, project_of
from tests.support.processes import CHECKOUT

SAMPLE = CHECKOUT / "docs" / "samples" / "model-driven"
DATAVERSE = config.load(None).http.dataverse
TYPES = {0: "Boolean", 1: "DateTime", 2: "Decimal", 6: "Float", 7: "Integer", 10: "String", 12: "Guid"}
ID = "6f9619ff-8b86-d011-b42d-00c04fc964ff"


def definition(name: str) -> Any:
    return json.loads((SAMPLE / "definitions" / f"{name}.json").read_text(encoding="utf-8"))


def columns() -> dict[str, tuple[str, int | None]]:
    """Return the type and the length of each column by its logical name."""
    defined = [*definition("table")["Attributes"], *definition("columns")]
    return {each["SchemaName"].lower(): (each["AttributeType"], each.get("MaxLength")) for each in defined}


def test_the_table_has_a_column_of_the_documented_length_for_each_field_of_the_row() -> None:
    row = DeliverySettings(kind="dataverse_row")
    assert definition("table")["SchemaName"].lower() == row.table_name
    assert set(columns()) == set(row.column_names.values())
    page = (CHECKOUT / "docs" / "reference" / "deliveries.md").read_text(encoding="utf-8")
    table = page.split("## The row")[1].split("## The notification")[0]
    lengths: dict[str, tuple[str, int | None]] = {}
    for names, type_ in re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE):
        types = re.findall(r"(text|memo) ([\d,]+)|(whole number)|(date and time)", type_)
        found = re.findall(r"`(\w+)`", names)
        for number, name in enumerate(found):
            kind, length, whole, _ = types[min(number, len(types) - 1)]
            label = {"text": "String", "memo": "Memo"}.get(kind, "Integer" if whole else "DateTime")
            lengths[name] = label, int(length.replace(",", "")) if length else None
    assert columns() == lengths


def test_the_custom_api_is_the_one_of_the_emulator() -> None:
    api, emulated = definition("custom-api"), DATAVERSE.custom_apis[0]
    assert (api["uniquename"], api["executeprivilegename"]) == (emulated.unique_name, emulated.execute_privilege_name)
    parameters = {each["uniquename"]: TYPES[each["type"]] for each in api["CustomAPIRequestParameters"]}
    assert parameters == {each.name: each.type for each in emulated.parameters}
    assert {each["uniquename"] for each in api["CustomAPIResponseProperties"]} == set(emulated.responses)


def test_the_step_posts_after_the_operation_and_asynchronously() -> None:
    assert (definition("step")["mode"], definition("step")["stage"]) == (1, 40)
    assert definition("custom-api")["allowedcustomprocessingsteptype"] == 1


def test_the_plug_in_returns_the_correlation_id(tmp_path: Path) -> None:
    _, sources = project_of("model-driven/ReturnCorrelationId.csproj")
    hosts = [HERE / "csharp" / name for name in ("Dataverse.cs", "CorrelationHost.cs")]
    program = compile_program(tmp_path / "host.exe", [*sources, *hosts], [])
    output = subprocess.run(["mono", str(program)], capture_output=True, text=True, timeout=20, check=True).stdout
    assert output.strip() == "True"


class WebApi(ThreadingHTTPServer):
    """Records what is created, and finds what was created before."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RequestHandler)
        self.created: list[tuple[str, Any]] = []
        self.has_everything = False


class RequestHandler(BaseHTTPRequestHandler):
    """One request to the Web API."""

    server: WebApi

    def do_GET(self) -> None:
        path = self.path.split("/api/data/v9.2/")[1]
        always = path.startswith(("plugintypes", "serviceendpoints", "sdkmessages?"))
        if self.server.has_everything or always:
            name = path.split("?")[0][:-1]
            self._answer(200, {"value": [{f"{name}id": ID}]})
        else:
            self._answer(404 if path.startswith("EntityDefinitions") else 200, {"value": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer secret"
        self.server.created.append((self.path.split("/api/data/v9.2/")[1], body))
        self._answer(204, None)

    def _answer(self, status: int, document: object) -> None:
        content = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@contextmanager
def web_api() -> Iterator[WebApi]:
    server = WebApi()
    thread = threading.Thread(target=server.serve_forever, name="web api")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def create(server: WebApi, *arguments: str) -> tuple[int, str]:
    environment = {
        **os.environ,
        "DATAVERSE_URL": f"http://127.0.0.1:{server.server_port}/",
        "DATAVERSE_TOKEN": "secret",
        "NO_PROXY": "*",
    }
    command = [node(), str(SAMPLE / "create.mjs"), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert "secret" not in ended.stdout + ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def test_the_script_creates_everything_once() -> None:
    commands = (["table"], ["api"], ["step", "It's queue"])
    with web_api() as server:
        for command in commands:
            status, output = create(server, *command)
            assert status == 0, output
        made = list(server.created)
        server.created.clear()
        server.has_everything = True
        for command in commands:
            assert create(server, *command)[0] == 0
        assert [path for path, _ in server.created] == ["PublishAllXml"], "a repeated run creates nothing"
    table, *rest = made
    assert table == ("EntityDefinitions", definition("table"))
    attributes = "EntityDefinitions(LogicalName='new_flowrequest')/Attributes"
    assert rest[:-3] == [(attributes, column) for column in definition("columns")]
    publish, api, step = rest[-3:]
    assert publish == ("PublishAllXml", {})
    assert api == ("customapis", definition("custom-api") | {"PluginTypeId@odata.bind": f"/plugintypes({ID})"})
    bindings = {
        "sdkmessageid@odata.bind": f"/sdkmessages({ID})",
        "eventhandler_serviceendpoint@odata.bind": f"/serviceendpoints({ID})",
    }
    assert step == ("sdkmessageprocessingsteps", definition("step") | bindings)


@pytest.mark.parametrize("arguments", [[], ["toString"], ["all"]])
def test_the_script_refuses_unknown_commands(arguments: list[str]) -> None:
    with web_api() as server:
        status, output = create(server, *arguments)
        assert (status, output.startswith("Usage:"), server.created) == (2, True, [])
