"""The samples follow the message contract. If Node is installed, it runs the front end with stand-ins for the SDK."""

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
      sendMessages: async (message) => { globalThis.recorded.sent = { queue, message }; },
      close: async () => {},
    };
  }
  async acceptSession(queue, session) {
    const waiting = globalThis.results(globalThis.recorded.sent.message);
    globalThis.recorded.session = { queue, session };
    return {
      receiveMessages: async () => waiting.splice(0, 1),
      completeMessage: async ({ name }) => { globalThis.recorded.completed.push(name); },
      close: async () => { globalThis.recorded.closed = true; },
    };
  }
}
"""
SCRIPT = """
import { createHmac } from "node:crypto";
globalThis.recorded = { completed: [] };
const result = (name, id, key, changes = {}) => {
  const body = Buffer.from(JSON.stringify({ status: "succeeded", request_message_id: id, output: { for: id } }));
  const mac = createHmac("sha256", key).update(`RESULT_CONTRACT\\nresult-${id}\\n`).update(body).digest("hex");
  const message = { name, body, messageId: `result-${id}`, ...changes };
  return { ...message, applicationProperties: { contract: "RESULT_CONTRACT", reply_mac: mac, ...changes.properties } };
};
globalThis.results = ({ messageId, applicationProperties: { reply_key: key } }) => [
  result("another's", "another's", "another key"),
  result("unsigned", messageId, key, { properties: { reply_mac: undefined } }),
  result("wrong MAC", messageId, key, { properties: { reply_mac: "0".repeat(64) } }),
  result("wrong ID", messageId, key, { messageId: "result-0" }),
  result("wrong body", messageId, key, { body: Buffer.from("{}") }),
  result("text", messageId, key, { body: "{}" }),
  result("other contract", messageId, key, { properties: { contract: "flow-result/9" } }),
  result("own", messageId, key),
];
const { createQuote, flows } = await import("./front-end.mjs");
const { newRequest } = await import("./flows.mjs");
recorded.output = await createQuote("Contoso", 125);
const { sent, session } = recorded;

const [answers, again] = [globalThis.results, newRequest()];
globalThis.results = (message) => answers(message).slice(-1);
recorded.again = [];
for (const attempt of [1, 2]) {
  await flows.start("create-quote", {}, again);
  recorded.again.push([recorded.sent.message, await flows.result(again)]);
}
recorded.copy = await flows.result(again, { timeout: 50 });
const partial = flows.start("create-quote", {}, { messageId: again.messageId });
recorded.partial = await partial.catch(({ message }) => message);

const replayed = newRequest();
const older = (id) => ({ status: "succeeded", request_message_id: id, output: "old" });
const replays = (id) => Buffer.from(JSON.stringify({ ...older(`${id}-2`), replay_of: id, output: "new" }));
const originals = (id) => Buffer.from(JSON.stringify(older(id)));
const withBody = (name, body, key) => {
  const mac = createHmac("sha256", key).update(`RESULT_CONTRACT\\n${name}\\n`).update(body).digest("hex");
  return { name, body, messageId: name, applicationProperties: { contract: "RESULT_CONTRACT", reply_mac: mac } };
};
globalThis.results = ({ messageId: id, applicationProperties: { reply_key: key } }) => [
  withBody("old", originals(id), key),
  withBody("new", replays(id), key),
].filter(({ name }) => !recorded.completed.includes(name));
await flows.start("create-quote", {}, replayed);
recorded.several = [await flows.result(replayed), await flows.result(replayed)].map(({ output }) => output);

recorded.flood = { completed: recorded.completed.length };
const forged = Array.from({ length: 103 }, (_, at) => result(`forged ${at}`, "m", "another key"));
globalThis.results = (message) => [...forged, ...answers(message)].slice(0, 103);
recorded.flood.output = await flows.result(await flows.start("create-quote", {}), { timeout: 200 });
recorded.flood.completed = recorded.completed.splice(recorded.flood.completed);
Object.assign(recorded, { sent, session });
console.log(JSON.stringify(recorded));
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the SDK calls that the front end made under Node."""
    folder = tmp_path_factory.mktemp("front-end")
    for name, source in {"identity": IDENTITY, "service-bus": SERVICE_BUS}.items():
        package = folder / "node_modules" / "@azure" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text('{"type": "module", "exports": "./index.mjs"}', encoding="utf-8")
        (package / "index.mjs").write_text(source, encoding="utf-8")
    for name in ("front-end.mjs", "flows.mjs"):
        shutil.copy(SAMPLES / "front-end" / name, folder)
    (folder / "script.mjs").write_text(SCRIPT.replace("RESULT_CONTRACT", RESULT_CONTRACT), encoding="utf-8")
    return json.loads(run_node(folder / "script.mjs"))


@needs_node
def test_the_front_end_sends_a_valid_request(recorded: Any) -> None:
    sent = recorded["sent"]["message"]
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
    assert recorded["session"] == {"queue": request.reply_to, "session": request.reply_to_session_id}
    assert request.message_id != request.correlation_id  # the flow and its owner know the correlation ID
    assert request.reply_key is not None
    assert len(request.reply_key.get_secret_value()) == 43


@needs_node
def test_the_front_end_skips_messages_that_do_not_answer_its_request(recorded: Any) -> None:
    own = recorded["sent"]["message"]["messageId"]
    assert recorded["completed"][0] == "own", "the others stay in the queue: with a wrong key, the result is among them"
    assert recorded["output"] == {"for": own}
    assert recorded["closed"]


@needs_node
def test_the_front_end_deletes_only_what_follows_100_skipped_messages(recorded: Any) -> None:
    assert recorded["flood"] == {"output": None, "completed": ["forged 100", "forged 101", "forged 102"]}


@needs_node
def test_the_front_end_returns_the_result_of_a_replay_before_the_older_one(recorded: Any) -> None:
    assert recorded["several"] == ["new", "old"]


@needs_node
def test_the_front_end_sends_a_request_again_under_the_same_identity(recorded: Any) -> None:
    (one, first), (other, second) = recorded["again"]
    assert one == other, "IDs and key are those of the first message, so either message's result is this one"
    assert first == second
    assert first["output"] == {"for": one["messageId"]}
    assert recorded["copy"] is None, "a second message with a returned result is a copy"
    assert recorded["partial"].startswith("Pass messageId, correlationId and replyKey")


def test_the_front_end_reads_only_fields_that_results_have() -> None:
    source = (SAMPLES / "front-end" / "flows.mjs").read_text(encoding="utf-8")
    read_fields = set(re.findall(r"(?:body\?|result)\.(\w+)", source))
    assert {"status", "request_message_id", "replay_of"} <= read_fields <= set(FlowResult.model_fields)
    assert f'"{RESULT_CONTRACT}"' in source


def test_the_plug_in_writes_exactly_the_fields_of_a_request() -> None:
    source = (SAMPLES / "plug-in" / "StartQuote.cs").read_text(encoding="utf-8")
    body = source.split("class FlowRequest", 1)[1].split("\n}", 1)[0]
    written = set(re.findall(r'DataMember\(Name = "(\w+)"\)', body))
    assert written == set(RequestBody.model_fields)
    assert f'"contract", "\\"{CONTRACT}\\""' in source


def run_node(script: Path) -> str:
    assert NODE is not None
    completed = subprocess.run([NODE, script.name], cwd=script.parent, capture_output=True, timeout=30, check=False)
    assert completed.returncode == 0, completed.stderr.decode()
    return completed.stdout.decode()
