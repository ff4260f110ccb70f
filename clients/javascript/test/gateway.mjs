/** A gateway that answers each request with the next step of a script. */
import { createServer } from "node:http";

export async function scripted(context, ...steps) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { method, url, headers } = request;
    requests.push({ method, url, headers, body: Buffer.concat(chunks).toString() });
    const step = steps.shift();
    if (step === undefined) throw new Error(`unexpected ${method} ${url}`);
    step(response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { gateway: `http://127.0.0.1:${server.address().port}`, requests };
}

const ID = "4c1f0c2e9d7a4b58";
export const pending = { id: ID, flow: "create-quote", status: "pending", state: "queued", attempts: 0 };
export const result = { status: "succeeded", flow: "create-quote", output: { quote: "Q-1" }, correlation_id: ID };

export const answer =
  (status, body, headers = {}) =>
  (response) => {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(typeof body === "string" ? body : JSON.stringify(body));
  };
export const problem = (status, code, retryable, headers) => answer(status, { status, code, retryable, detail: code }, headers);
export const accepted = answer(202, pending, { "Retry-After": "0" });
export const finished = answer(200, result);
export const busy = problem(503, "unavailable", true, { "Retry-After": "0" });
export const cut = (response) => response.destroy();
export const silent = () => {};
export const events =
  (...blocks) =>
  (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const [event, data] of blocks) response.write(`: heartbeat\n\nid: 1\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    response.end();
  };

/** A storage as a page has it. */
export function storage() {
  const values = new Map();
  return {
    values,
    getItem: (name) => values.get(name) ?? null,
    setItem: (name, value) => void values.set(name, value),
    removeItem: (name) => void values.delete(name),
  };
}
