// Checks of the administration client of @azure/service-bus; each exported function is one check (see run.mjs).
import assert from "node:assert/strict";
import { ServiceBusAdministrationClient, ServiceBusClient } from "@azure/service-bus";
import { connection } from "./connection.mjs";

/** Returns a check. Its queue, named like the check, does not exist yet. The SDK always uses HTTPS. */
function check(scenario) {
  return async ({ emulator, queue }) => {
    const { host } = new URL(emulator.admin_https_url);
    const connectionString = emulator.connection_string.replace(/sb:\/\/[^;]*/, `sb://${host}`);
    await scenario({ admin: new ServiceBusAdministrationClient(connectionString), queue, emulator });
  };
}

const refused = (promise, code) => assert.rejects(promise, (error) => assert.equal(error.code, code) ?? true);

export const a_queue_is_created_and_used = check(async ({ admin, queue, emulator }) => {
  assert.equal(await admin.queueExists(queue), false);
  const created = await admin.createQueue(queue, { lockDuration: "PT30S", maxDeliveryCount: 3, requiresSession: true });
  assert.deepEqual([created.name, created.lockDuration, created.maxDeliveryCount], [queue, "PT30S", 3]);
  assert.equal(await admin.queueExists(queue), true);
  const { connectionString, options } = connection(emulator);
  const bus = new ServiceBusClient(connectionString, options);
  await bus.createSender(queue).sendMessages({ body: 1, sessionId: "s" });
  assert.equal((await bus.acceptNextSession(queue)).sessionId, "s");
  await bus.close();
});

export const a_queue_has_the_defaults_of_the_service = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  const properties = await admin.getQueue(queue);
  assert.deepEqual(
    [properties.lockDuration, properties.maxDeliveryCount, properties.requiresSession, properties.requiresDuplicateDetection, properties.status],
    ["PT1M", 10, false, false, "Active"],
  );
  assert.equal(properties.maxSizeInMegabytes, 1024);
  assert.match(properties.defaultMessageTimeToLive, /^P10675199D/);
});

export const a_queue_is_updated = check(async ({ admin, queue }) => {
  const created = await admin.createQueue(queue);
  const changed = await admin.updateQueue({ ...created, maxDeliveryCount: 5, userMetadata: "<ours> & theirs" });
  assert.deepEqual([changed.maxDeliveryCount, changed.userMetadata], [5, "<ours> & theirs"]);
  const properties = await admin.getQueue(queue);
  assert.deepEqual([properties.maxDeliveryCount, properties.userMetadata], [5, "<ours> & theirs"]);
});

export const a_deleted_queue_is_not_found = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  await admin.deleteQueue(queue);
  assert.equal(await admin.queueExists(queue), false);
  await refused(admin.getQueue(queue), "MessageEntityNotFoundError");
  await refused(admin.deleteQueue(queue), "MessageEntityNotFoundError");
  await refused(admin.getQueueRuntimeProperties(queue), "MessageEntityNotFoundError");
});

export const creating_an_existing_queue_is_refused = check(async ({ admin, queue }) => {
  await admin.createQueue(queue);
  await refused(admin.createQueue(queue), "MessageEntityAlreadyExistsError");
});

export const an_invalid_setting_is_refused = check(async ({ admin, queue }) => {
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
  const properties = await admin.getQueueRuntimeProperties(queue);
  assert.deepEqual(
    [properties.activeMessageCount, properties.deadLetterMessageCount, properties.scheduledMessageCount, properties.totalMessageCount],
    [2, 1, 1, 4],
  );
  assert.ok(properties.sizeInBytes > 0);
  assert.ok(Math.abs(properties.createdAt - Date.now()) < 60_000);
  await bus.close();
});

export const the_namespace_has_properties = check(async ({ admin }) => {
  const { name, messagingSku } = await admin.getNamespaceProperties();
  assert.ok(name);
  assert.ok(["Basic", "Standard", "Premium"].includes(messagingSku), messagingSku);
});
