// A browser front end that starts a flow and waits for its result. Bundle it with @azure/identity and
// @azure/service-bus. The latter uses AMQP over WebSockets, because Service Bus's REST interface refuses cross-origin
// calls.
//
// Before you copy it: each user needs "Azure Service Bus Data Sender" on the request queue and "Data Receiver" on the
// reply queue. Every holder of the latter role can read every result in that queue. See docs/explanation/security.md.

import { InteractiveBrowserCredential } from "@azure/identity";
import { ServiceBusClient } from "@azure/service-bus";

const TENANT = "11111111-2222-3333-4444-555555555555";
const FRONT_END = "22222222-3333-4444-5555-666666666666"; // this page's own app registration
const WORKER_SCOPE = "api://66666666-7777-8888-9999-000000000000/.default"; // the worker's app registration
const NAMESPACE = "contoso.servicebus.windows.net";
const REQUESTS = "flow-requests";
const REPLIES = "flow-replies";
const CONTRACT = "flow-result/1";

const credential = new InteractiveBrowserCredential({ tenantId: TENANT, clientId: FRONT_END });
const bus = new ServiceBusClient(NAMESPACE, credential);
const returned = new Map(); // by the request's message ID: the message ID of the result, for returned results
const MAX_SKIPPED = 100; // messages of others that one search leaves in the session

/** Return the identity of a new request. Only this page and the worker know its key: nobody else can forge a result. */
export function newRequest() {
  return { messageId: crypto.randomUUID(), correlationId: crypto.randomUUID(), replyKey: newReplyKey() };
}

/**
 * Post a request, and return its identity for resultOf. To send the same request again, for example after a lost
 * connection, pass the same identity: with another one, the result of the first message answers nobody.
 */
export async function startFlow(flow, input, request = newRequest()) {
  const { messageId, correlationId, replyKey } = request;
  if (!messageId || !correlationId || !replyKey) {
    throw new TypeError("Pass messageId, correlationId and replyKey, as newRequest returns them, or none of them.");
  }
  const { token } = await credential.getToken(WORKER_SCOPE);
  returned.delete(messageId); // a request that is sent again gets its result again
  const sender = bus.createSender(REQUESTS);
  try {
    await sender.sendMessages({
      body: { flow, input, claim: token },
      contentType: "application/json",
      messageId,
      correlationId,
      replyTo: REPLIES,
      replyToSessionId: correlationId,
      timeToLive: 10 * 60 * 1000, // milliseconds; the claim stays in the queue no longer
      applicationProperties: { contract: "flow-request/1", reply_key: replyKey },
    });
  } finally {
    await sender.close();
  }
  return { messageId, correlationId, replyKey };
}

/**
 * Return the result of a request, or null if it does not arrive in time.
 *
 * Messages without a valid MAC, and those that answer another request, stay in the queue. So with a wrong replyKey the
 * result waits for a reader with the right one. After the first 100 such messages in the session, resultOf deletes the
 * others: somebody floods the session.
 */
export async function resultOf({ messageId, correlationId, replyKey }, { timeout = 180_000 } = {}) {
  const deadline = Date.now() + timeout;
  // Without parsing: the MAC covers the bytes of the body.
  const options = { maxAutoLockRenewalDurationInMs: timeout, skipParsingBodyAsJson: true };
  const session = await bus.acceptSession(REPLIES, correlationId, options);
  let skipped = 0;
  const skip = async (message) => {
    // A skipped message stays locked until the session closes: after abandonMessage, the next receive would return it.
    skipped += 1;
    if (skipped > MAX_SKIPPED) await session.completeMessage(message);
  };
  try {
    while (Date.now() < deadline) {
      const [message] = await session.receiveMessages(1, { maxWaitTimeInMs: deadline - Date.now() });
      if (message === undefined) continue;
      if (returned.get(messageId) === message.messageId) {
        await session.completeMessage(message); // a copy: a worker can publish a result twice after a crash
        continue;
      }
      if (!(await isAuthentic(message, replyKey))) {
        await skip(message); // any sender can name this session as the place of its result
        continue;
      }
      if (message.applicationProperties.contract !== CONTRACT) {
        await session.abandonMessage(message); // a page of a later version can still read it
        throw new Error(`This page reads ${CONTRACT}, not ${message.applicationProperties.contract}: reload it.`);
      }
      const body = JSON.parse(new TextDecoder().decode(message.body));
      if (!answers(body, messageId)) {
        await skip(message); // of another request with the same key
        continue;
      }
      await session.completeMessage(message);
      returned.set(messageId, message.messageId);
      if (returned.size > 10_000) returned.delete(returned.keys().next().value);
      return body;
    }
    return null;
  } finally {
    await session.close();
  }
}

/** Return a random reply key: 256 bits as base64url. */
function newReplyKey() {
  const text = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Return whether a worker made this message for the request with this reply key. */
async function isAuthentic({ body, messageId, applicationProperties }, replyKey) {
  const { contract, reply_mac: mac } = applicationProperties ?? {};
  if (!/^flow-result\/\d+$/.test(contract) || !/^[0-9a-f]{64}$/.test(mac)) return false;
  if (!(body instanceof Uint8Array)) return false;
  const head = new TextEncoder().encode(`${contract}\n${messageId}\n`);
  const text = new Uint8Array(head.length + body.length);
  text.set(head);
  text.set(body, head.length);
  const bytes = Uint8Array.from(mac.match(/../g), (digits) => parseInt(digits, 16));
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", new TextEncoder().encode(replyKey), algorithm, false, ["verify"]);
  return crypto.subtle.verify("HMAC", key, bytes, text);
}

/** Return whether a result is that of this request, or of its replay by an operator. */
function answers(body, messageId) {
  return body?.request_message_id === messageId || body?.replay_of === messageId;
}

/** The handler of a button. Only a `failed` result with `error.retryable` is safe to send again without a check. */
export async function createQuote(customer, amount) {
  const result = await resultOf(await startFlow("create-quote", { customer, amount }));
  if (result === null) throw new Error("No result yet; it may still arrive.");
  if (result.status !== "succeeded") throw new Error(`${result.status}: ${result.error?.code}`);
  return result.output;
}
