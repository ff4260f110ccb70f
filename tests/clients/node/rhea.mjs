// Checks of rhea, a plain AMQP 1.0 client. Each exported function is one check with one queue.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { setImmediate as turn } from "node:timers/promises";
import rhea from "rhea";

const KEY = { username: "RootManageSharedAccessKey", password: "SAS_KEY_VALUE" };

/** Returns a check with a new connection. `options` are those of rhea and may override the key. */
function check(scenario, options = {}) {
  return async ({ emulator, queue }) => {
    const { host, port } = endpoint(emulator);
    const container = rhea.create_container();
    const connection = container.connect({ host, port, reconnect: false, ...KEY, ...options });
    await once(connection, "connection_open");
    try {
      await scenario({ connection, container, queue });
    } finally {
      connection.close();
    }
  };
}

function endpoint(emulator) {
  const { hostname: host, port } = new URL(/Endpoint=sb(:[^;]*)/.exec(emulator.connection_string)[1].replace(/^/, "http"));
  return { host, port: Number(port) };
}

// Connections

export const a_client_with_a_key_is_accepted = check(async ({ connection, queue }) => {
  assert.ok(connection.max_frame_size >= 512);
  await sent(connection, queue, { body: 1 });
});

export const an_anonymous_client_needs_a_token = check(async ({ connection, queue }) => {
  const [{ sender }] = await once(connection.open_sender(queue), "sender_error");
  assert.equal(sender.error.condition, "amqp:unauthorized-access");
  assert.equal(await put(connection, queue), 202);
  await sent(connection, queue, { body: 1 });
}, { password: undefined });

export const a_client_without_sasl_needs_a_token = check(async ({ connection, queue }) => {
  assert.equal(await put(connection, queue), 202);
  await sent(connection, queue, { body: 1 });
}, { username: undefined, password: undefined });

export const frames_respect_the_clients_maximum_size = check(async ({ connection, queue }) => {
  const body = "ä".repeat(50_000);
  await sent(connection, queue, { body });
  const [{ message }] = await received(connection, queue, 1);
  assert.equal(message.body, body);
}, { max_frame_size: 512 });

// Links

export const a_message_keeps_its_sections = check(async ({ connection, queue }) => {
  const { types } = rhea;
  await sent(connection, queue, {
    durable: true,
    priority: 7,
    message_annotations: { "x-opt-mine": types.wrap_symbol("kept") },
    message_id: types.wrap_ulong(5),
    user_id: Buffer.from("user"),
    group_id: "group",
    group_sequence: 3,
    application_properties: { number: types.wrap_int(-1), text: "ä" },
    body: { nested: [1, null, "x"] },
    footer: { f: 1 },
  });
  const [{ message }] = await received(connection, queue, 1);
  assert.deepEqual([message.durable, message.priority, message.delivery_count ?? 0], [true, 7, 0]);
  assert.equal(`${message.message_annotations["x-opt-mine"]}`, "kept");
  assert.ok(message.message_annotations["x-opt-sequence-number"] > 0);
  assert.ok(message.message_annotations["x-opt-locked-until"] > new Date());
  assert.deepEqual([message.message_id, `${message.user_id}`], [5, "user"]);
  assert.deepEqual([message.group_id, message.group_sequence], ["group", 3]);
  assert.deepEqual({ ...message.application_properties }, { number: -1, text: "ä" });
  assert.deepEqual(message.body, { nested: [1, null, "x"] });
  assert.deepEqual(message.footer, { f: 1 });
});

export const a_message_sent_settled_arrives = check(async ({ connection, queue }) => {
  const sender = await opened(connection.open_sender({ target: queue, snd_settle_mode: 1 }), "sender_open");
  await sendable(sender);
  sender.send({ body: "fire and forget" });
  assert.deepEqual(bodies(await received(connection, queue, 1)), ["fire and forget"]);
});

export const credit_is_a_limit = check(async ({ connection, queue }) => {
  for (const body of [1, 2, 3, 4, 5]) await sent(connection, queue, { body });
  const receiver = connection.open_receiver({ source: queue, credit_window: 0, autoaccept: true });
  const got = collected(receiver);
  receiver.add_credit(2);
  await until(() => got.length === 2);
  assert.deepEqual(bodies(await drained(receiver, got, 0)), [1, 2], "more came than was asked for");
  receiver.add_credit(2);
  await until(() => got.length === 4);
  assert.deepEqual(bodies(got), [1, 2, 3, 4]);
});

export const a_drain_uses_up_the_credit = check(async ({ connection, queue }) => {
  for (const body of [1, 2]) await sent(connection, queue, { body });
  const receiver = connection.open_receiver({ source: queue, credit_window: 0, autoaccept: true });
  const got = collected(receiver);
  assert.deepEqual(bodies(await drained(receiver, got, 10)), [1, 2]);
  assert.equal(receiver.credit, 0);
  await sent(connection, queue, { body: 3 });
  assert.deepEqual(bodies(await received(connection, queue, 1)), [3]);
  assert.deepEqual(bodies(got), [1, 2], "a drained link was sent more");
});

export const every_outcome_has_its_amqp_effect = check(async ({ connection, queue }) => {
  const outcomes = {
    accept: (delivery) => delivery.accept(),
    release: (delivery) => delivery.release(),
    fail: (delivery) => delivery.modified({ delivery_failed: true, undeliverable_here: false }),
    reject: (delivery) => delivery.reject({ condition: "my:reason", description: "no" }),
  };
  for (const body of Object.keys(outcomes)) await sent(connection, queue, { body });
  for (const { message, delivery } of await received(connection, queue, 4, { autoaccept: false })) {
    outcomes[message.body](delivery);
    await turn(); // rhea merges settlements of one turn into one disposition with the first outcome
  }
  const again = await received(connection, queue, 2);
  const counts = again.map(({ message }) => [message.body, message.delivery_count ?? 0]);
  assert.deepEqual(counts.sort(), [["fail", 1], ["release", 0]]);
  assert.deepEqual(bodies(await received(connection, `${queue}/$deadletterqueue`, 1)), ["reject"]);
});

export const an_outcome_is_confirmed = check(async ({ connection, queue }) => {
  await sent(connection, queue, { body: 1 });
  const receiver = connection.open_receiver({ source: queue, autoaccept: false, autosettle: false, rcv_settle_mode: 1 });
  const [{ delivery }] = await once(receiver, "message");
  delivery.update(false, rhea.message.accepted().described());
  const [context] = await once(receiver, "settled");
  assert.ok(context.delivery.remote_settled);
  assert.equal(context.delivery.remote_state.constructor.composite_type, "accepted");
});

export const two_receivers_share_a_queue = check(async ({ connection, queue }) => {
  const options = { source: queue, credit_window: 0, autoaccept: true };
  const receivers = [connection.open_receiver(options), connection.open_receiver(options)];
  const got = receivers.map(collected);
  for (const receiver of receivers) receiver.add_credit(3);
  await Promise.all([...Array(6).keys()].map((body) => sent(connection, queue, { body })));
  await until(() => got[0].length === 3 && got[1].length === 3);
  assert.deepEqual(bodies(got.flat()).sort(), [0, 1, 2, 3, 4, 5]);
});

export const receive_and_delete_settles_what_it_sends = check(async ({ connection, queue }) => {
  await sent(connection, queue, { body: 1 });
  const [{ delivery }] = await received(connection, queue, 1, { snd_settle_mode: 1, autoaccept: false });
  assert.ok(delivery.remote_settled);
  assert.deepEqual(await drained(...emptied(connection, queue)), []);
});

export const a_described_session_filter_is_read = check(async ({ connection, queue }) => {
  await sent(connection, queue, { body: 1, group_id: "s" });
  const filter = { "com.microsoft:session-filter": rhea.types.wrap_described("s", 0x137000000c) };
  const [{ message, receiver }] = await received(connection, queue, 1, { source: { address: queue, filter } });
  assert.deepEqual([message.body, message.group_id], [1, "s"]);
  assert.equal(receiver.source.filter["com.microsoft:session-filter"], "s");
  const ticks = receiver.remote.attach.properties["com.microsoft:locked-until-utc"]; // bytes, because the value exceeds a number
  assert.ok(ticks.readBigInt64BE() / 10_000n - 62_135_596_800_000n > Date.now());
});

// Refusals

export const a_link_to_an_unknown_queue_is_refused = check(async ({ connection }) => {
  const [{ sender }] = await once(connection.open_sender("no-such-queue"), "sender_error");
  assert.equal(sender.error.condition, "amqp:not-found");
  const [{ receiver }] = await once(connection.open_receiver("no-such-queue"), "receiver_error");
  assert.equal(receiver.error.condition, "amqp:not-found");
  assert.ok(connection.is_open());
});

export const a_message_over_the_limit_is_rejected = check(async ({ connection, queue }) => {
  const sender = await opened(connection.open_sender(queue), "sender_open");
  assert.equal(sender.max_message_size, 256 * 1024);
  await sendable(sender);
  sender.send({ body: Buffer.alloc(300 * 1024) });
  const [{ delivery }] = await once(sender, "rejected");
  assert.equal(delivery.remote_state.error.condition, "amqp:link:message-size-exceeded");
});

export const links_and_sessions_are_opened_and_closed_repeatedly = check(async ({ connection, queue }) => {
  for (let round = 0; round < 20; round++) {
    const session = connection.create_session();
    session.begin();
    const sender = await opened(session.open_sender(queue), "sender_open");
    await sendable(sender);
    sender.send({ body: round });
    await once(sender, "accepted");
    sender.close();
    await once(sender, "sender_close");
    session.close();
    await once(session, "session_close");
  }
  assert.deepEqual(bodies(await received(connection, queue, 20)), [...Array(20).keys()]);
});

// Helpers

/** Puts a token for a queue; returns the status of the answer. */
async function put(connection, queue) {
  const replies = await opened(connection.open_receiver({ source: "$cbs", target: "reply" }), "receiver_open");
  const requests = await opened(connection.open_sender("$cbs"), "sender_open");
  await sendable(requests);
  const name = `sb://localhost/${queue}`;
  const resource = encodeURIComponent(name);
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  const signature = createHmac("sha256", KEY.password).update(`${resource}\n${expiry}`).digest("base64");
  requests.send({
    message_id: 7,
    reply_to: "reply",
    application_properties: { operation: "put-token", type: "servicebus.windows.net:sastoken", name },
    body: `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${KEY.username}`,
  });
  const [{ message }] = await once(replies, "message");
  assert.equal(message.correlation_id, 7);
  return message.application_properties["status-code"];
}

const bodies = (contexts) => contexts.map(({ message }) => message.body);

async function opened(link, event) {
  await once(link, event);
  return link;
}

async function sendable(sender) {
  if (!sender.sendable()) await once(sender, "sendable");
}

/** Sends one message and waits until it is accepted. */
async function sent(connection, queue, message) {
  const sender = connection.open_sender(queue);
  await sendable(sender);
  sender.send(message);
  const outcome = await Promise.race(["accepted", "rejected", "sender_error"].map(async (name) => {
    await once(sender, name);
    return name;
  }));
  sender.close();
  assert.equal(outcome, "accepted");
}

/** Receives `count` messages with a new receiver. */
async function received(connection, queue, count, options = {}) {
  const receiver = connection.open_receiver({ source: queue, credit_window: 0, autoaccept: true, ...options });
  const got = collected(receiver);
  receiver.add_credit(count);
  await until(() => got.length === count);
  return got;
}

function emptied(connection, queue) {
  const receiver = connection.open_receiver({ source: queue, credit_window: 0, autoaccept: true });
  return [receiver, collected(receiver), 1];
}

function collected(receiver) {
  const got = [];
  receiver.on("message", (context) => got.push(context));
  return got;
}

/** Drains `credit` more messages; returns all messages so far. */
async function drained(receiver, got, credit) {
  receiver.drain_credit();
  receiver.add_credit(credit);
  await once(receiver, "receiver_drained");
  receiver.drain = false;
  return [...got];
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}
