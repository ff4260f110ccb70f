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
const returned = new Set(); // the message IDs of returned results; the ID identifies a result

/** Post a request. Its message ID is random, so that only this page knows it and nobody can forge the result. */
export async function startFlow(flow, input, { messageId = crypto.randomUUID() } = {}) {
  const { token } = await credential.getToken(WORKER_SCOPE);
  const correlationId = crypto.randomUUID();
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
      applicationProperties: { contract: "flow-request/1" },
    });
  } finally {
    await sender.close();
  }
  return { messageId, correlationId };
}

/** Return the result of a request, or null if it does not arrive in time. */
export async function resultOf({ messageId, correlationId }, { timeout = 180_000 } = {}) {
  const deadline = Date.now() + timeout;
  const session = await bus.acceptSession(REPLIES, correlationId, { maxAutoLockRenewalDurationInMs: timeout });
  try {
    while (Date.now() < deadline) {
      const [message] = await session.receiveMessages(1, { maxWaitTimeInMs: deadline - Date.now() });
      if (message === undefined) continue;
      if (returned.has(message.messageId)) {
        await session.completeMessage(message); // a copy: a worker can publish a result twice after a crash
        continue;
      }
      if (isOfLaterVersion(message)) {
        await session.abandonMessage(message); // a page of a later version can still read it
        throw new Error(`This page reads ${CONTRACT}, not ${message.applicationProperties.contract}: reload it.`);
      }
      if (answers(message, messageId)) {
        await session.completeMessage(message);
        returned.add(message.messageId);
        if (returned.size > 10_000) returned.delete(returned.values().next().value);
        return message.body;
      }
      // Any sender can name this session as the place of its result.
      await session.deadLetterMessage(message, { deadLetterReason: "unexpected_result" });
    }
    return null;
  } finally {
    await session.close();
  }
}

/** Return whether a message is a result in a form that this page does not know. */
function isOfLaterVersion({ applicationProperties }) {
  const contract = String(applicationProperties?.contract);
  return contract.startsWith("flow-result/") && contract !== CONTRACT;
}

/** Return whether a message is the result of this request, or of its replay by an operator. */
function answers({ body, applicationProperties }, messageId) {
  if (applicationProperties?.contract !== CONTRACT) return false;
  return body?.request_message_id === messageId || body?.replay_of === messageId;
}

/** The handler of a button. Only a `failed` result with `error.retryable` is safe to send again without a check. */
export async function createQuote(customer, amount) {
  const result = await resultOf(await startFlow("create-quote", { customer, amount }));
  if (result === null) throw new Error("No result yet; it may still arrive.");
  if (result.status !== "succeeded") throw new Error(`${result.status}: ${result.error?.code}`);
  return result.output;
}
