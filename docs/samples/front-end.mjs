// A browser front end that starts a flow and waits for its result. To be bundled; needs @azure/identity and
// @azure/service-bus, which speaks AMQP over WebSockets (Service Bus's REST interface answers no cross-origin calls).
//
// Before you copy it: each user needs "Azure Service Bus Data Sender" on the request queue and "Data Receiver" on the
// reply queue, and whoever holds the latter can read every result in that queue. See docs/security.md.

import { InteractiveBrowserCredential } from "@azure/identity";
import { ServiceBusClient } from "@azure/service-bus";

const TENANT = "11111111-2222-3333-4444-555555555555";
const FRONT_END = "22222222-3333-4444-5555-666666666666"; // this page's own app registration
const WORKER_SCOPE = "api://66666666-7777-8888-9999-000000000000/.default"; // the worker's app registration
const NAMESPACE = "contoso.servicebus.windows.net";
const REQUESTS = "flow-requests";
const REPLIES = "flow-replies";

const credential = new InteractiveBrowserCredential({ tenantId: TENANT, clientId: FRONT_END });
const bus = new ServiceBusClient(NAMESPACE, credential);

/** Posts a request. Its message ID is random: who does not know it cannot forge the result. */
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
      timeToLive: 10 * 60 * 1000, // milliseconds; the claim lies in the queue no longer than this
      applicationProperties: { contract: "flow-request/1" },
    });
  } finally {
    await sender.close();
  }
  return { messageId, correlationId };
}

/** The result of a request, or null if it does not come in time. */
export async function resultOf({ messageId, correlationId }, { timeout = 180_000 } = {}) {
  const giveUp = Date.now() + timeout;
  const session = await bus.acceptSession(REPLIES, correlationId, { maxAutoLockRenewalDurationInMs: timeout });
  try {
    while (Date.now() < giveUp) {
      const [message] = await session.receiveMessages(1, { maxWaitTimeInMs: giveUp - Date.now() });
      if (message === undefined) continue;
      if (answers(message, messageId)) {
        await session.completeMessage(message);
        return message.body;
      }
      await session.deadLetterMessage(message, { deadLetterReason: "unexpected_result" }); // somebody named our session
    }
    return null;
  } finally {
    await session.close();
  }
}

/** Whether a message is the result of our request, or of its replay by an administrator. */
function answers({ body, applicationProperties }, messageId) {
  if (applicationProperties?.contract !== "flow-result/1") return false;
  return body?.request_message_id === messageId || body?.replay_of === messageId;
}

/** For a button. `status` decides: only `failed` with `retryable` may be sent again without a thought. */
export async function createQuote(customer, amount) {
  const result = await resultOf(await startFlow("create-quote", { customer, amount }));
  if (result === null) throw new Error("No result yet; it may still come.");
  if (result.status !== "succeeded") throw new Error(`${result.status}: ${result.error?.code}`);
  return result.output;
}
