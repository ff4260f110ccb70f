"""The samples keep the contract. If Node is there, it runs the front end's with stand-ins for Azure's packages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flow_contracts.message import Message
from flow_contracts.request import CONTRACT, FlowRequest, RequestBody
from flow_contracts.result import CONTRACT as RESULT_CONTRACT
from flow_contracts.result import FlowResult

SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "samples"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")

IDENTITY = """
export class InteractiveBrowserCredential {
  async getToken(scope) { return { token: `token for ${scope}` }; }
}
"""
SERVICE_BUS = """
export class ServiceBusClient {
  createSender(queue) {
    return {
      sendMessages: async (message) => { globalThis.said.sent = { queue, message }; },
      close: async () => {},
    };
  }
  async acceptSession(queue, session) {
    const waiting = globalThis.results(globalThis.said.sent.message);
    globalThis.said.session = { queue, session };
    return {
      receiveMessages: async () => waiting.splice(0, 1),
      completeMessage: async ({ body }) => { globalThis.said.completed = body.request_message_id; },
      deadLetterMessage: async ({ body }, { deadLetterReason }) => {
        globalThis.said.deadLettered.push([body.request_message_id, deadLetterReason]);
      },
      close: async () => { globalThis.said.closed = true; },
    };
  }
}
"""
PLAY = """
globalThis.said = { deadLettered: [] };
const result = (id) => ({
  body: { status: "succeeded", request_message_id: id, replay_of: null, output: { for: id } },
  applicationProperties: { contract: "RESULT_CONTRACT" },
});
globalThis.results = ({ messageId }) => [result("another's"), result(messageId)];
const { createQuote } = await import("./front-end.mjs");
said.output = await createQuote("Contoso", 125);
console.log(JSON.stringify(said));
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the front end did, as Node tells it."""
    folder = tmp_path_factory.mktemp("front-end")
    for name, source in {"identity": IDENTITY, "service-bus": SERVICE_BUS}.items():
        package = folder / "node_modules" / "@azure" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text('{"type": "module", "exports": "./index.mjs"}', encoding="utf-8")
        (package / "index.mjs").write_text(source, encoding="utf-8")
    shutil.copy(SAMPLES / "front-end.mjs", folder)
    (folder / "play.mjs").write_text(PLAY.replace("RESULT_CONTRACT", RESULT_CONTRACT), encoding="utf-8")
    return json.loads(run_node(folder / "play.mjs"))


@needs_node
def test_the_front_end_sends_a_request_that_the_worker_reads(said: Any) -> None:
    sent = said["sent"]["message"]
    request = FlowRequest.from_message(
        Message(
            body=json.dumps(sent["body"]).encode(),
            message_id=sent["messageId"],
            correlation_id=sent["correlationId"],
            reply_to=sent["replyTo"],
            reply_to_session_id=sent["replyToSessionId"],
            application_properties=sent["applicationProperties"],
        )
    )
    assert (request.flow, request.input) == ("create-quote", {"customer": "Contoso", "amount": 125})
    assert request.claim is not None
    assert request.claim.get_secret_value().startswith("token for api://")
    assert said["session"] == {"queue": request.reply_to, "session": request.reply_to_session_id}
    assert request.message_id != request.correlation_id  # the flow and its owner see the latter


@needs_node
def test_the_front_end_takes_no_result_of_another_request(said: Any) -> None:
    own = said["sent"]["message"]["messageId"]
    assert said["deadLettered"] == [["another's", "unexpected_result"]]
    assert (said["completed"], said["output"]) == (own, {"for": own})
    assert said["closed"]


def test_the_front_end_looks_at_fields_that_results_have() -> None:
    source = (SAMPLES / "front-end.mjs").read_text(encoding="utf-8")
    looked_at = set(re.findall(r"(?:body\?|result)\.(\w+)", source))
    assert {"status", "request_message_id", "replay_of"} <= looked_at <= set(FlowResult.model_fields)
    assert f'"{RESULT_CONTRACT}"' in source


def test_the_plugin_writes_fields_that_requests_have() -> None:
    source = (SAMPLES / "StartQuote.cs").read_text(encoding="utf-8")
    body = source.split("class FlowRequest", 1)[1].split("\n}", 1)[0]
    written = set(re.findall(r'DataMember\(Name = "(\w+)"\)', body))
    assert written == set(RequestBody.model_fields)
    assert f'"contract", "\\"{CONTRACT}\\""' in source


def run_node(script: Path) -> str:
    assert NODE is not None
    done = subprocess.run([NODE, script.name], cwd=script.parent, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
