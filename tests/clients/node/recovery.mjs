// @azure/service-bus recovers from faults. Each exported function is one check with one queue; they run one by one.
import assert from "node:assert/strict";
import { ServiceBusClient, delay } from "@azure/service-bus";
import { connection } from "./connection.mjs";

/** Returns a check whose client retries quickly. `inject` causes faults in the broker. */
function check(scenario) {
  return async ({ emulator, queue }) => {
    const { connectionString, options } = connection(emulator);
    const retryOptions = { maxRetries: 5, retryDelayInMs: 100, timeoutInMs: 2000 };
    const bus = new ServiceBusClient(connectionString, { ...options, retryOptions });
    const inject = async (change) => {
      const url = new URL("/emulator/servicebus", emulator.issuer);
      const answer = await fetch(url, { method: "PUT", body: JSON.stringify(change) });
      assert.equal(answer.status, 200, await answer.text());
      await bus.createReceiver(queue).peekMessages(1); // the client has now read everything that the broker sent before
    };
    try {
      await scenario({ bus, queue, inject, sender: bus.createSender(queue) });
    } finally {
      await bus.close();
    }
  };
}

/** Subscribes, sends one message before and one after the fault, and waits for both. */
async function recoversFrom({ bus, queue, sender }, fault) {
  const got = [];
  const receiver = bus.createReceiver(queue);
  receiver.subscribe({ processMessage: async ({ body }) => { got.push(body); }, processError: async () => {} });
  await sender.sendMessages({ body: "before" });
  await until(() => got.length === 1);
  await until(async () => (await receiver.peekMessages(1)).length === 0); // wait for the settlement
  await fault();
  await sender.sendMessages({ body: "after" });
  await until(() => got.includes("after"));
  assert.deepEqual([...new Set(got)], ["before", "after"]);
}

export const detached_links_are_opened_again = check(async (context) => {
  await recoversFrom(context, () => context.inject({ detach: [{ queue: context.queue }] }));
});

export const a_broken_connection_is_opened_again = check(async (context) => {
  await recoversFrom(context, () => context.inject({ drop_connections: true }));
});

export const a_throttled_send_is_retried = check(async ({ inject, queue, sender, bus }) => {
  await inject({ refusals: [{ at: "send", queue, condition: "com.microsoft:server-busy", times: 1 }] });
  await sender.sendMessages({ body: "in the end" });
  assert.deepEqual((await bus.createReceiver(queue).peekMessages(5)).map(({ body }) => body), ["in the end"]);
});

export const a_session_that_is_detached_is_lost = check(async ({ bus, queue, sender, inject }) => {
  await sender.sendMessages({ body: 1, sessionId: "s" });
  const receiver = await bus.acceptSession(queue, "s");
  const [got] = await receiver.receiveMessages(1);
  await inject({ detach: [{ queue }] });
  await assert.rejects(receiver.completeMessage(got), { code: "SessionLockLost" });
  const again = await bus.acceptSession(queue, "s");
  assert.equal((await again.receiveMessages(1))[0].body, 1);
});

async function until(condition) {
  while (!(await condition())) await delay(20);
}
