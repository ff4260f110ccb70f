// @azure/service-bus outlives trouble: one check an exported function, one queue each, one check at a time (run.mjs).
import assert from "node:assert/strict";
import { ServiceBusClient, delay } from "@azure/service-bus";
import { connection } from "./connection.mjs";

/** A check whose client tries again soon; `trouble` does something to the broker. */
function check(play) {
  return async ({ emulator, queue }) => {
    const { connectionString, options } = connection(emulator);
    const retryOptions = { maxRetries: 5, retryDelayInMs: 100, timeoutInMs: 2000 };
    const bus = new ServiceBusClient(connectionString, { ...options, retryOptions });
    const trouble = async (change) => {
      const url = new URL("/emulator/servicebus", emulator.issuer);
      const answer = await fetch(url, { method: "PUT", body: JSON.stringify(change) });
      assert.equal(answer.status, 200, await answer.text());
      await bus.createReceiver(queue).peekMessages(1); // what the broker said before this, the client has read
    };
    try {
      await play({ bus, queue, trouble, sender: bus.createSender(queue) });
    } finally {
      await bus.close();
    }
  };
}

/** Subscribes, sends a message before and one after the trouble, and waits for both. */
async function outlives({ bus, queue, sender }, trouble) {
  const got = [];
  const receiver = bus.createReceiver(queue);
  receiver.subscribe({ processMessage: async ({ body }) => { got.push(body); }, processError: async () => {} });
  await sender.sendMessages({ body: "before" });
  await until(() => got.length === 1);
  await until(async () => (await receiver.peekMessages(1)).length === 0); // its settlement is through
  await trouble();
  await sender.sendMessages({ body: "after" });
  await until(() => got.includes("after"));
  assert.deepEqual([...new Set(got)], ["before", "after"]);
}

export const links_that_the_service_detaches_are_opened_again = check(async (given) => {
  await outlives(given, () => given.trouble({ detach: [{ queue: given.queue }] }));
});

export const a_connection_that_breaks_is_made_again = check(async (given) => {
  await outlives(given, () => given.trouble({ drop_connections: true }));
});

export const a_send_that_the_service_is_too_busy_for_is_tried_again = check(async ({ trouble, queue, sender, bus }) => {
  await trouble({ refusals: [{ at: "send", queue, condition: "com.microsoft:server-busy", times: 1 }] });
  await sender.sendMessages({ body: "in the end" });
  assert.deepEqual((await bus.createReceiver(queue).peekMessages(5)).map(({ body }) => body), ["in the end"]);
});

export const a_session_that_is_detached_is_lost = check(async ({ bus, queue, sender, trouble }) => {
  await sender.sendMessages({ body: 1, sessionId: "s" });
  const receiver = await bus.acceptSession(queue, "s");
  const [got] = await receiver.receiveMessages(1);
  await trouble({ detach: [{ queue }] });
  await assert.rejects(receiver.completeMessage(got), { code: "SessionLockLost" });
  const again = await bus.acceptSession(queue, "s");
  assert.equal((await again.receiveMessages(1))[0].body, 1);
});

async function until(condition) {
  while (!(await condition())) await delay(20);
}
