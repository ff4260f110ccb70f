// What ServiceBusAdministrationClient of @azure/service-bus must find: one check an exported function (see run.mjs).
import assert from "node:assert/strict";
import { ServiceBusAdministrationClient, ServiceBusClient } from "@azure/service-bus";
import { connection } from "./connection.mjs";

/** A check whose queue, named like it, is not there yet. The SDK asks over TLS, even of an emulator. */
function check(play) {
  return async ({ emulator, queue }) => {
    const { host } = new URL(emulator.admin_https_url);
    const connectionString = emulator.connection_string.replace(/sb:\/\/[^;]*/, `sb://${host}`);
    await play({ admin: new ServiceBusAdministrationClient(connectionString), queue, emulator });
  };
}

const refused = (promise, code) => assert.rejects(promise, (error) => assert.equal(error.code, code) ?? true);

export const a_queue_is_made_and_used = check(async ({ admin, queue, emulator }) => {
  assert.equal(await admin.queueExists(queue), false);
  const made = await admin.createQueue(queue, { lockDuration: "PT30S", maxDeliveryCount: 3, requiresSession: true });
  assert.deepEqual([made.name, made.lockDuration, made.maxDeliveryCount], [queue, "PT30S", 3]);
  assert.equal(await admin.queueExists(queue), true);
  const { connectionString, options } = connection(emulator);
  const bus = new ServiceBusClient(connectionString, options);
  await bus.createSender(queue).sendMessages({ body: 1, sessionId: "s" });
  assert.equal((await bus.acceptNextSession(queue)).sessionId, "s");
  await bus.close();
});

export const a_queue_has_the_services_defaults = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  const found = await admin.getQueue(queue);
  assert.deepEqual(
    [found.lockDuration, found.maxDeliveryCount, found.requiresSession, found.requiresDuplicateDetection, found.status],
    ["PT1M", 10, false, false, "Active"],
  );
  assert.equal(found.maxSizeInMegabytes, 1024);
  assert.match(found.defaultMessageTimeToLive, /^P10675199D/);
});

export const a_queue_is_changed = check(async ({ admin, queue }) => {
  const made = await admin.createQueue(queue);
  const changed = await admin.updateQueue({ ...made, maxDeliveryCount: 5, userMetadata: "<ours> & theirs" });
  assert.deepEqual([changed.maxDeliveryCount, changed.userMetadata], [5, "<ours> & theirs"]);
  const found = await admin.getQueue(queue);
  assert.deepEqual([found.maxDeliveryCount, found.userMetadata], [5, "<ours> & theirs"]);
});

export const a_queue_that_is_deleted_is_gone = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  await admin.deleteQueue(queue);
  assert.equal(await admin.queueExists(queue), false);
  await refused(admin.getQueue(queue), "MessageEntityNotFoundError");
  await refused(admin.deleteQueue(queue), "MessageEntityNotFoundError");
  await refused(admin.getQueueRuntimeProperties(queue), "MessageEntityNotFoundError");
});

export const a_queue_is_not_made_twice = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  await refused(admin.createQueue(queue), "MessageEntityAlreadyExistsError");
});

export const a_wrong_setting_is_refused = check(async ({ admin, queue }) => {
  await assert.rejects(admin.createQueue(queue, { lockDuration: "PT1H" }), { statusCode: 400 });
  assert.equal(await admin.queueExists(queue), false);
});

export const queues_are_listed = check(async ({ admin, queue }) => {
  const names = [...Array(3).keys()].map((number) => `${queue}-${number}`);
  for (const name of names) await admin.createQueue(name);
  const listed = [];
  for await (const { name } of admin.listQueues()) listed.push(name);
  assert.deepEqual(listed.filter((name) => names.includes(name)).sort(), names);
  const pages = [];
  for await (const page of admin.listQueuesRuntimeProperties().byPage({ maxPageSize: 2 })) pages.push(page.length);
  assert.ok(pages.length > 1 && pages.every((length) => length <= 2), `${pages}`);
});

export const messages_are_counted = check(async ({ admin, queue, emulator }) => {
  await admin.createQueue(queue);
  const { connectionString, options } = connection(emulator);
  const bus = new ServiceBusClient(connectionString, options);
  const sender = bus.createSender(queue);
  await sender.sendMessages([{ body: 1 }, { body: 2 }, { body: 3 }]);
  await sender.scheduleMessages({ body: "later" }, new Date(Date.now() + 60_000));
  const receiver = bus.createReceiver(queue);
  const [first] = await receiver.receiveMessages(1);
  await receiver.deadLetterMessage(first);
  const found = await admin.getQueueRuntimeProperties(queue);
  assert.deepEqual(
    [found.activeMessageCount, found.deadLetterMessageCount, found.scheduledMessageCount, found.totalMessageCount],
    [2, 1, 1, 4],
  );
  assert.ok(found.sizeInBytes > 0);
  assert.ok(Math.abs(found.createdAt - Date.now()) < 60_000);
  await bus.close();
});

export const the_namespace_says_what_it_is = check(async ({ admin }) => {
  const { name, messagingSku } = await admin.getNamespaceProperties();
  assert.ok(name);
  assert.ok(["Basic", "Standard", "Premium"].includes(messagingSku), messagingSku);
});
