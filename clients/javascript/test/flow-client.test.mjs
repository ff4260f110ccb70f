import assert from "node:assert/strict";
import { test } from "node:test";
import { FlowError, listFlows, outputOf, resumeFlow, startFlow, waitForResult } from "../flow-client.js";
import { accepted, answer, busy, cut, events, finished, pending, problem, result, scripted, silent, storage } from "./gateway.mjs";

const keys = (requests) => requests.map(({ headers }) => headers["idempotency-key"]);

test("a start sends the input, the token and an idempotency key", async (context) => {
  const { gateway, requests } = await scripted(context, accepted);
  const headers = { traceparent: "00-1-2-01" };
  const started = await startFlow("create quote", { amount: 1 }, { gateway: `${gateway}/`, token: "T", headers });
  assert.deepEqual(started, { flow: "create quote", id: pending.id });
  assert.equal(requests[0].url, "/v1/flows/create%20quote/requests");
  assert.equal(requests[0].body, '{"amount":1}');
  assert.equal(requests[0].headers.authorization, "Bearer T");
  assert.equal(requests[0].headers.traceparent, "00-1-2-01");
  assert.match(keys(requests)[0], /^"[0-9a-f-]{36}"$/);
});

test("a key with quotation marks is a structured string", async (context) => {
  const { gateway, requests } = await scripted(context, accepted);
  await startFlow("f", null, { gateway, token: "T", key: 'a"b\\c' });
  assert.equal(keys(requests)[0], '"a\\"b\\\\c"');
});

for (const [name, ...steps] of [
  ["503", busy],
  ["429", problem(429, "rate_limited", true, { "Retry-After": "0" })],
  ["a date in Retry-After", problem(503, "unavailable", true, { "Retry-After": new Date().toUTCString() })],
  ["a proxy's 502 page", answer(502, "<html>", { "Retry-After": "0" })],
  ["a cut connection", cut],
  ["a cut answer", (response) => (response.writeHead(202, { "Content-Length": 99 }), response.write("{"), setTimeout(() => response.destroy(), 20))],
]) {
  test(`a start repeats after ${name} under the same key`, async (context) => {
    const { gateway, requests } = await scripted(context, ...steps, accepted);
    const started = await startFlow("f", { a: 1 }, { gateway, token: "T" });
    assert.equal(started.id, pending.id);
    assert.equal(requests.length, 2);
    assert.equal(new Set(keys(requests)).size, 1);
  });
}

test("a start waits as long as Retry-After says", async (context) => {
  const { gateway } = await scripted(context, problem(429, "rate_limited", true, { "Retry-After": "1" }), accepted);
  const began = Date.now();
  await startFlow("f", null, { gateway, token: "T" });
  assert.ok(Date.now() - began >= 990);
});

test("a start gives up when Retry-After is longer than its patience", async (context) => {
  const kept = storage();
  const { gateway, requests } = await scripted(context, problem(429, "rate_limited", true, { "Retry-After": "600" }));
  const error = await startFlow("f", null, { gateway, token: "T", storage: kept }).catch((error) => error);
  assert.ok(error instanceof FlowError);
  assert.deepEqual([error.code, error.status, error.retryable, error.retryAfter], ["rate_limited", 429, true, 600]);
  assert.equal(requests.length, 1);
  assert.equal(kept.values.size, 1);
});

test("a gateway that cannot be reached is a retryable error", async () => {
  const error = await startFlow("f", null, { gateway: "http://127.0.0.1:9", token: "T", patience: 0 }).catch((error) => error);
  assert.deepEqual([error.name, error.code, error.retryable], ["FlowError", "unreachable", true]);
});

test("a refusal is final, and the storage forgets the request", async (context) => {
  const kept = storage();
  const { gateway, requests } = await scripted(context, problem(422, "input_invalid", false));
  const error = await startFlow("f", null, { gateway, token: "T", storage: kept }).catch((error) => error);
  assert.deepEqual([error.code, error.status, error.message], ["input_invalid", 422, "input_invalid"]);
  assert.equal(requests.length, 1);
  assert.equal(kept.values.size, 0);
});

test("a refused token is renewed once", async (context) => {
  const { gateway, requests } = await scripted(context, problem(401, "claim_expired", false), accepted);
  await startFlow("f", null, { gateway, token: (refused) => (refused ? "new" : "old") });
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), ["Bearer old", "Bearer new"]);
  const again = await scripted(context, problem(401, "claim_invalid", false), problem(401, "claim_invalid", false));
  await assert.rejects(startFlow("f", null, { gateway: again.gateway, token: async () => "T" }), { code: "claim_invalid" });
});

test("an error of the token's function ends the call, unless the browser is offline", async (context) => {
  const { gateway, requests } = await scripted(context, accepted);
  const failing = async () => {
    throw new Error("no sign-in");
  };
  await assert.rejects(startFlow("f", null, { gateway, token: failing }), { message: "no sign-in" });
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  context.after(() => (before ? Object.defineProperty(globalThis, "navigator", before) : delete globalThis.navigator));
  let calls = 0;
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { onLine: false } });
  await startFlow("f", null, { gateway, token: () => (calls++ ? "T" : failing()) });
  assert.deepEqual([calls, requests.length], [2, 1]);
});

test("a URL or a header that cannot be is not repeated", async () => {
  await assert.rejects(startFlow("f", null, { gateway: "flows.contoso.com", token: "T" }), TypeError);
  await assert.rejects(startFlow("f", null, { gateway: "http://x", token: "a\nb" }), TypeError);
});

test("a redirect gets no token", async (context) => {
  const other = await scripted(context);
  const { gateway } = await scripted(context, (response) => response.writeHead(307, { Location: other.gateway }).end());
  await assert.rejects(startFlow("f", null, { gateway, token: "T", patience: 0 }), { code: "unreachable" });
  assert.equal(other.requests.length, 0);
});

test("an abort ends a start, a wait, and a pause", async (context) => {
  for (const [steps, begin] of [
    [[silent], (options) => startFlow("f", null, options)],
    [[silent], (options) => waitForResult("id", options)],
    [[silent], (options) => waitForResult("id", { ...options, onState() {} })],
    [[problem(503, "unavailable", true, { "Retry-After": "60" })], (options) => startFlow("f", null, options)],
  ]) {
    const { gateway } = await scripted(context, ...steps);
    const stopped = new AbortController();
    setTimeout(() => stopped.abort(), 50);
    await assert.rejects(begin({ gateway, token: "T", signal: stopped.signal }), { name: "AbortError" });
    await assert.rejects(begin({ gateway, token: "T", signal: stopped.signal }), { name: "AbortError" });
  }
});

test("a wait polls until the result comes", async (context) => {
  const { gateway, requests } = await scripted(context, accepted, busy, cut, accepted, finished);
  assert.deepEqual(await waitForResult({ id: pending.id, flow: "f" }, { gateway, token: "T" }), result);
  assert.equal(requests[0].url, `/v1/requests/${pending.id}?wait=25`);
});

test("a wait returns a result of any status", async (context) => {
  const refused = { status: "refused", error: { code: "role_missing", message: "No.", retryable: false } };
  const { gateway } = await scripted(context, answer(200, refused));
  const end = await waitForResult("id", { gateway, token: "T" });
  assert.equal(end.status, "refused");
  assert.throws(() => outputOf(end), { code: "role_missing", message: "No.", retryable: false });
  assert.deepEqual(outputOf(result), { quote: "Q-1" });
});

test("only a failed request is retryable", () => {
  const error = { code: "c", message: "m", retryable: true };
  assert.throws(() => outputOf({ status: "unknown", error }), { retryable: false });
  assert.throws(() => outputOf({ status: "failed", error }), { retryable: true });
});

test("states come as events, each once, also after the stream was cut", async (context) => {
  const calling = { ...pending, state: "calling" };
  const first = events(["state", pending], ["state", pending]);
  const { gateway, requests } = await scripted(context, first, accepted, events(["state", calling], ["result", result]));
  const states = [];
  const end = await waitForResult("id", { gateway, token: "T", onState: ({ state }) => states.push(state) });
  assert.deepEqual(end, result);
  assert.deepEqual(states, ["queued", "calling"]);
  assert.deepEqual(requests.map(({ url }) => url), ["/v1/requests/id/events", "/v1/requests/id", "/v1/requests/id/events"]);
});

test("an event may arrive in any number of pieces", async (context) => {
  const text = `event: state\r\ndata: ${JSON.stringify({ ...pending, text: "née" })}\r\n\r\nevent: result\ndata: ${JSON.stringify(result)}\n\n`;
  const { gateway } = await scripted(context, async (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const byte of Buffer.from(text)) {
      response.write(Buffer.from([byte]));
      await new Promise(setImmediate);
    }
    response.end();
  });
  const texts = [];
  assert.deepEqual(await waitForResult("id", { gateway, token: "T", onState: ({ text }) => texts.push(text) }), result);
  assert.deepEqual(texts, ["née"]);
});

test("without events the states come by polling", async (context) => {
  const { gateway, requests } = await scripted(context, answer(404, "no events here"), accepted, accepted, finished);
  const states = [];
  await waitForResult("id", { gateway, token: "T", onState: ({ state }) => states.push(state) });
  assert.deepEqual(states, ["queued"]);
  assert.ok(requests.slice(1).every(({ url }) => url.endsWith("?wait=25")));
});

test("a page that was loaded again waits for the same request", async (context) => {
  const kept = storage();
  const { gateway } = await scripted(context, accepted, finished);
  const options = { gateway, token: "T", storage: kept, slot: "ada" };
  assert.equal(await resumeFlow(options), null);
  await startFlow("create-quote", { customer: "secret" }, options);
  assert.ok(!kept.values.get("ada").includes("secret"), "an accepted request keeps no input");
  const resumed = await resumeFlow(options);
  assert.deepEqual(resumed, { flow: "create-quote", id: pending.id });
  assert.deepEqual(await waitForResult(resumed, options), result);
  assert.equal(await resumeFlow(options), null);
});

test("a page that was loaded again before the answer sends the same request", async (context) => {
  const { gateway, requests } = await scripted(context, silent, accepted);
  const options = { gateway, token: "T", storage: storage() };
  const gone = new AbortController();
  setTimeout(() => gone.abort(), 50);
  await assert.rejects(startFlow("f", { a: 1 }, { ...options, signal: gone.signal }));
  assert.equal((await resumeFlow(options)).id, pending.id);
  assert.equal(new Set(keys(requests)).size, 1);
  assert.deepEqual(requests[0].body, requests[1].body);
});

test("the same input after a missing answer is the same request, another input is not", async (context) => {
  const { gateway, requests } = await scripted(context, cut, cut, cut, accepted, accepted);
  const options = { gateway, token: "T", storage: storage(), patience: 0 };
  for (const amount of [1, 2, 2]) await assert.rejects(startFlow("f", { amount }, options));
  await startFlow("f", { amount: 2 }, options);
  await startFlow("f", { amount: 2 }, options);
  const [one, two, three, four, five] = keys(requests);
  assert.notEqual(one, two);
  assert.deepEqual([three, four], [two, two]);
  assert.notEqual(five, four);
});

test("the storage forgets a request that is gone", async (context) => {
  for (const status of [404, 410]) {
    const kept = storage();
    const { gateway } = await scripted(context, accepted, problem(status, "gone", false));
    const options = { gateway, token: "T", storage: kept };
    await assert.rejects(waitForResult(await startFlow("f", null, options), options), { status });
    assert.equal(kept.values.size, 0);
  }
});

test("what another script left in the slot is no request", async (context) => {
  for (const left of ["{", '"x"', "1", "[]", "null", "{}"]) {
    const kept = storage();
    kept.setItem("flow-request", left);
    const { gateway } = await scripted(context, accepted);
    const options = { gateway, token: "T", storage: kept };
    assert.equal(await resumeFlow(options), null);
    assert.equal((await startFlow("f", null, options)).id, pending.id);
  }
});

test("a storage that refuses stops no flow", async (context) => {
  const { gateway } = await scripted(context, accepted, finished);
  const fail = () => {
    throw new Error("QuotaExceededError");
  };
  const options = { gateway, token: "T", storage: { getItem: fail, setItem: fail, removeItem: fail } };
  assert.deepEqual(await waitForResult(await startFlow("f", null, options), options), result);
});

test("an unknown result is settled by a later one", async (context) => {
  const unknown = answer(200, { ...result, status: "unknown" });
  const { gateway, requests } = await scripted(context, unknown, accepted, unknown, finished);
  const options = { gateway, token: "T" };
  assert.equal((await waitForResult(pending.id, options)).status, "unknown");
  let found;
  do found = await waitForResult(pending.id, { ...options, settled: true, onState: () => {} });
  while (found.status === "unknown");
  assert.deepEqual(found, result);
  for (const { url } of requests.slice(1)) assert.match(url, /\?wait=25&settled=true$/);
});

test("the flows of the user are listed", async (context) => {
  const { gateway, requests } = await scripted(context, answer(200, { flows: [{ name: "f" }] }));
  assert.deepEqual(await listFlows({ gateway, token: "T" }), [{ name: "f" }]);
  assert.equal(requests[0].url, "/v1/flows");
});
