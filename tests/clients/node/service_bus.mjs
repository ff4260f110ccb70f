// Checks of @azure/service-bus. Each exported function is one check with one queue (see run.mjs).
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { ServiceBusClient, delay } from "@azure/service-bus";
import { connection } from "./connection.mjs";

const MINUTES = 60_000;

/** Returns a check with a client, a sender and a receiver without session, which are closed afterwards. */
function check(scenario, { receiver = true } = {}) {
  return async ({ emulator, queue }) => {
    const { connectionString, options } = connection(emulator);
    const bus = new ServiceBusClient(connectionString, options);
    try {
      await scenario({
        emulator,
        bus,
        queue,
        sender: bus.createSender(queue),
        receiver: receiver ? bus.createReceiver(queue) : undefined,
      });
    } finally {
      await bus.close();
    }
  };
}

const receive = (receiver, count, milliseconds = 5000) =>
  receiver.receiveMessages(count, { maxWaitTimeInMs: milliseconds });
const bodies = (messages) => messages.map(({ body }) => body);
const refused = (promise, code) => assert.rejects(promise, (error) => assert.equal(error.code, code) ?? true);

// Sending

export const a_message_arrives_as_it_was_sent = check(async ({ bus, queue, sender }) => {
  const sent = {
    body: { customer: "Contoso", amount: 125.5, "ä": [1, null, true] },
    messageId: "m-1",
    correlationId: "c-1",
    contentType: "application/json",
    subject: "subject",
    to: "to",
    replyTo: "replies",
    replyToSessionId: "reply-session",
    partitionKey: "part",
    timeToLive: 5 * MINUTES,
    applicationProperties: { text: "ä", number: 1, half: 0.5, yes: true, day: new Date(86_400_000), none: null },
  };
  await sender.sendMessages(sent);
  const receiver = bus.createReceiver(queue, { skipConvertingDate: true }); // otherwise the SDK returns dates as numbers
  const [got] = await receive(receiver, 1);
  for (const [name, value] of Object.entries(sent)) assert.deepEqual(got[name], value, name);
  assert.equal(got.deliveryCount, 0);
  assert.equal(got.state, "active");
  assert.ok(got.sequenceNumber.toNumber() > 0);
  assert.match(got.lockToken, /^[0-9a-f-]{36}$/);
  assert.ok(Math.abs(got.enqueuedTimeUtc - Date.now()) < MINUTES);
  assert.equal(got.expiresAtUtc - got.enqueuedTimeUtc, 5 * MINUTES);
  assert.ok(got.lockedUntilUtc > new Date());
  await receiver.completeMessage(got);
});

export const bodies_of_every_kind_arrive = check(async ({ sender, receiver }) => {
  const kinds = ["text", "", 7, true, null, [1, "two"], { deep: { er: 1 } }, Buffer.from([0, 255, 1])];
  for (const body of kinds) await sender.sendMessages({ body });
  await sender.sendMessages({ bodyType: "value", body: { a: "value" } });
  await sender.sendMessages({ bodyType: "sequence", body: [[1, 2], ["three"]] });
  const got = await receiveAll(receiver, kinds.length + 2);
  assert.deepEqual(bodies(got), [...kinds, { a: "value" }, [[1, 2], ["three"]]]);
});

export const a_message_without_an_id_gets_one = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "anonymous" });
  const [got] = await receive(receiver, 1);
  assert.ok(got.messageId, "the SDK cannot settle a message without an ID");
  await receiver.abandonMessage(got);
});

export const a_batch_arrives_in_order = check(async ({ sender, receiver }) => {
  const batch = await sender.createMessageBatch();
  for (let number = 0; number < 100; number++) assert.ok(batch.tryAddMessage({ body: number, messageId: `${number}` }));
  await sender.sendMessages(batch);
  await sender.sendMessages([{ body: 100 }, { body: 101 }]);
  assert.deepEqual(bodies(await receiveAll(receiver, 102)), [...Array(102).keys()]);
});

export const a_batch_is_limited_by_the_queues_maximum_message_size = check(async ({ sender, receiver }) => {
  const batch = await sender.createMessageBatch();
  assert.equal(batch.maxSizeInBytes, 256 * 1024);
  const body = Buffer.alloc(100 * 1024);
  assert.deepEqual([1, 2, 3].map(() => batch.tryAddMessage({ body })), [true, true, false]);
  await sender.sendMessages(batch);
  assert.deepEqual((await receiveAll(receiver, 2)).map((one) => one.body.length), [body.length, body.length]);
});

export const a_message_that_is_too_large_is_refused = check(async ({ sender, receiver }) => {
  await refused(sender.sendMessages({ body: Buffer.alloc(300 * 1024) }), "MessageSizeExceeded");
  await sender.sendMessages({ body: "small" });
  assert.deepEqual(bodies(await receive(receiver, 1)), ["small"]);
});

export const many_sends_at_once_all_arrive = check(async ({ sender, receiver }) => {
  await Promise.all([...Array(300).keys()].map((body) => sender.sendMessages({ body })));
  const got = bodies(await receiveAll(receiver, 300));
  assert.deepEqual(got.sort((a, b) => a - b), [...Array(300).keys()]);
});

export const a_duplicate_is_dropped = check(async ({ sender, receiver }) => {
  for (const body of ["first", "second"]) await sender.sendMessages({ body, messageId: "same" });
  await sender.sendMessages({ body: "third", messageId: "other" });
  assert.deepEqual(bodies(await receiveAll(receiver, 2)), ["first", "third"]);
  assert.deepEqual(await receive(receiver, 1, 300), []);
});

export const a_message_expires = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages({ body: "brief", timeToLive: 300 });
  await sleep(600);
  assert.deepEqual(await receive(receiver, 1, 300), []);
  const [dead] = await receive(bus.createReceiver(queue, { subQueueType: "deadLetter" }), 1);
  assert.equal(dead.deadLetterReason, "TTLExpiredException");
});

export const an_annotated_message_keeps_every_section = check(async ({ sender, receiver }) => {
  const sent = {
    bodyType: "data",
    body: Buffer.from("raw"),
    header: { priority: 7, durable: true, firstAcquirer: false },
    properties: { messageId: "m", subject: "s", groupSequence: 3 },
    messageAnnotations: { "x-opt-mine": "kept" },
    deliveryAnnotations: { "x-mine": "too" },
    applicationProperties: { a: 1 },
    footer: { f: "oot" },
  };
  await sender.sendMessages(sent);
  const [{ _rawAmqpMessage: got }] = await receiveAll(receiver, 1);
  assert.deepEqual(got.body.content, sent.body);
  assert.deepEqual([got.header.priority, got.header.durable], [7, true]);
  assert.deepEqual([got.properties.subject, got.properties.groupSequence], ["s", 3]);
  assert.equal(got.messageAnnotations["x-opt-mine"], "kept");
  assert.equal(got.deliveryAnnotations["x-mine"], "too");
  assert.deepEqual([got.applicationProperties.a, got.footer.f], [1, "oot"]);
});

// Scheduling

export const a_scheduled_message_arrives_at_its_time = check(async ({ sender, receiver }) => {
  assert.deepEqual(await receiver.peekMessages(1), []); // opens the links before the time starts
  const due = new Date(Date.now() + 3000);
  const [number] = await sender.scheduleMessages({ body: "later" }, due);
  const [peeked] = await receiver.peekMessages(1);
  assert.equal(peeked.state, "scheduled");
  assert.ok(peeked.sequenceNumber.equals(number));
  const [got] = await receive(receiver, 1);
  assert.ok(Date.now() >= due - 50, "it came too early");
  assert.equal(got.body, "later");
  assert.ok(Math.abs(got.scheduledEnqueueTimeUtc - due) < 1000);
});

export const scheduled_messages_are_cancelled = check(async ({ sender, receiver }) => {
  const due = new Date(Date.now() + MINUTES);
  const numbers = await sender.scheduleMessages([{ body: "one" }, { body: "two" }, { body: "three" }], due);
  await sender.cancelScheduledMessages([numbers[0], numbers[2]]);
  assert.deepEqual(bodies(await receiver.peekMessages(5)), ["two"]);
  await refused(sender.cancelScheduledMessages(numbers[0]), "MessageNotFound");
});

export const a_message_sent_with_a_time_is_scheduled = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "later", scheduledEnqueueTimeUtc: new Date(Date.now() + MINUTES) });
  assert.deepEqual((await receiver.peekMessages(5)).map(({ body, state }) => [body, state]), [["later", "scheduled"]]);
});

// Receiving

export const receiving_returns_the_available_messages = check(async ({ sender, receiver }) => {
  assert.deepEqual(await receive(receiver, 10, 300), []);
  await sender.sendMessages([{ body: 1 }, { body: 2 }]);
  const began = Date.now();
  assert.deepEqual(bodies(await receive(receiver, 10)), [1, 2]);
  assert.ok(Date.now() - began < 4000, "it waited for more than there was");
  await sender.sendMessages({ body: 3 });
  assert.deepEqual(bodies(await receive(receiver, 10)), [3], "the link does not outlive a drain");
});

export const a_drained_receiver_leaves_messages_to_others = check(async ({ bus, queue, sender, receiver }) => {
  assert.deepEqual(await receive(receiver, 10, 200), []);
  await sender.sendMessages({ body: "for another" });
  assert.deepEqual(bodies(await receive(bus.createReceiver(queue), 1, 1000)), ["for another"]);
});

export const receive_and_delete_removes_messages = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages([{ body: 1 }, { body: 2 }]);
  const deleting = bus.createReceiver(queue, { receiveMode: "receiveAndDelete" });
  assert.deepEqual(bodies(await receive(deleting, 1)), [1]);
  assert.deepEqual(bodies(await receive(deleting, 1)), [2]);
  assert.deepEqual(await receiver.peekMessages(5), []);
});

export const a_subscription_completes_handled_messages = check(async ({ sender, receiver }) => {
  await sender.sendMessages([...Array(30).keys()].map((body) => ({ body })));
  const got = [];
  const failures = [];
  const subscription = receiver.subscribe(
    {
      processMessage: async ({ body }) => { got.push(body); },
      processError: async ({ error }) => { failures.push(error); },
    },
    { maxConcurrentCalls: 4 },
  );
  await until(() => got.length === 30);
  await subscription.close();
  assert.deepEqual(failures, []);
  assert.deepEqual(await receiver.peekMessages(1), []);
});

export const a_subscription_abandons_messages_whose_handler_fails = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages({ body: "failing" }); // the queue dead-letters after the second delivery
  let calls = 0;
  const subscription = receiver.subscribe({
    processMessage: async () => { calls += 1; throw new Error("cannot"); },
    processError: async () => {},
  });
  const [dead] = await receive(bus.createReceiver(queue, { subQueueType: "deadLetter" }), 1);
  await subscription.close();
  assert.deepEqual([calls, dead.deadLetterReason], [2, "MaxDeliveryCountExceeded"]);
});

export const an_iterator_returns_messages_one_by_one = check(async ({ sender, receiver }) => {
  await sender.sendMessages([{ body: 1 }, { body: 2 }, { body: 3 }]);
  const got = [];
  for await (const message of receiver.getMessageIterator()) {
    got.push(message.body);
    await receiver.completeMessage(message);
    if (got.length === 3) break;
  }
  assert.deepEqual(got, [1, 2, 3]);
});

export const peeking_removes_no_message = check(async ({ sender, receiver }) => {
  await sender.sendMessages([...Array(5).keys()].map((body) => ({ body })));
  assert.deepEqual(bodies(await receiver.peekMessages(3)), [0, 1, 2]);
  const rest = await receiver.peekMessages(3);
  assert.deepEqual(bodies(rest), [3, 4]);
  assert.deepEqual(bodies(await receiver.peekMessages(1, { fromSequenceNumber: rest[0].sequenceNumber })), [3]);
  assert.deepEqual(bodies(await receiveAll(receiver, 5)), [0, 1, 2, 3, 4]);
});

// Settling

export const a_completed_message_is_removed = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "done" });
  const [got] = await receive(receiver, 1);
  assert.equal((await receiver.peekMessages(1)).length, 1);
  await receiver.completeMessage(got);
  assert.deepEqual(await receiver.peekMessages(1, { fromSequenceNumber: got.sequenceNumber }), []);
  await assert.rejects(receiver.completeMessage(got), /already settled|settled/i);
});

export const an_abandoned_message_is_delivered_again_with_changed_properties = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "again", applicationProperties: { kept: 1, changed: "before" } });
  const [first] = await receive(receiver, 1);
  await receiver.abandonMessage(first, { changed: "after", added: 2 });
  const [second] = await receive(receiver, 1);
  assert.deepEqual(second.applicationProperties, { kept: 1, changed: "after", added: 2 });
  assert.equal(second.deliveryCount, 1);
  assert.ok(second.sequenceNumber.equals(first.sequenceNumber));
  assert.notEqual(second.lockToken, first.lockToken);
});

export const a_deferred_message_is_received_only_by_its_sequence_number = check(async ({ sender, receiver }) => {
  await sender.sendMessages([{ body: "one" }, { body: "two" }]);
  const messages = await receiveAll(receiver, 2, { keep: true });
  for (const message of messages) await receiver.deferMessage(message, { why: "not now" });
  assert.deepEqual(await receive(receiver, 1, 300), []);
  assert.deepEqual((await receiver.peekMessages(5)).map(({ state }) => state), ["deferred", "deferred"]);
  const numbers = messages.map(({ sequenceNumber }) => sequenceNumber);
  const [one, two] = await receiver.receiveDeferredMessages(numbers);
  assert.deepEqual([one.body, one.state, one.applicationProperties.why], ["one", "deferred", "not now"]);
  await receiver.completeMessage(one);
  await receiver.abandonMessage(two);
  const [back] = await receiver.receiveDeferredMessages(numbers[1]);
  await receiver.deadLetterMessage(back, { deadLetterReason: "why" });
  await refused(receiver.receiveDeferredMessages(numbers), "MessageNotFound");
});

export const a_dead_letter_has_its_reason = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages({ body: "bad", applicationProperties: { kept: 1 } });
  const [bad] = await receive(receiver, 1);
  const reason = { deadLetterReason: "unreadable", deadLetterErrorDescription: "not JSON" };
  await receiver.deadLetterMessage(bad, { ...reason, added: "x" });
  const below = bus.createReceiver(queue, { subQueueType: "deadLetter" });
  const [dead] = await receive(below, 1);
  assert.deepEqual([dead.deadLetterReason, dead.deadLetterErrorDescription], Object.values(reason));
  assert.deepEqual([dead.body, dead.applicationProperties.kept, dead.applicationProperties.added], ["bad", 1, "x"]);
  await below.completeMessage(dead);
  assert.deepEqual(await below.peekMessages(1), []);
});

export const a_lock_is_renewed = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "slow" });
  const [got] = await receive(receiver, 1);
  const before = got.lockedUntilUtc;
  await sleep(100);
  const until = await receiver.renewMessageLock(got);
  assert.ok(until > before);
  await receiver.completeMessage(got);
});

export const a_lock_is_renewed_while_the_handler_works = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: "slow" }); // the handler takes longer than the lock lasts
  const got = [];
  const failures = [];
  const subscription = receiver.subscribe({
    processMessage: async ({ deliveryCount }) => { got.push(deliveryCount); await sleep(5000); },
    processError: async ({ error }) => { failures.push(error); },
  });
  await until(() => got.length === 1);
  await sleep(5500);
  await subscription.close();
  assert.deepEqual([got, failures], [[0], []]);
  assert.deepEqual(await receiver.peekMessages(1), []);
});

export const a_lost_lock_is_reported = check(async ({ bus, queue, sender }) => {
  await sender.sendMessages({ body: "slow" });
  const forgetful = bus.createReceiver(queue, { maxAutoLockRenewalDurationInMs: 0 });
  const [got] = await receive(forgetful, 1);
  await sleep(2500);
  await refused(forgetful.completeMessage(got), "MessageLockLost");
  const [again] = await receive(forgetful, 1);
  assert.equal(again.deliveryCount, 1);
  await forgetful.completeMessage(again);
});

export const a_message_is_settled_when_its_receiver_is_closed = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages([{ body: "complete" }, { body: "abandon" }, { body: "deadLetter" }]);
  const messages = await receiveAll(receiver, 3, { keep: true });
  await receiver.close();
  const other = bus.createReceiver(queue);
  assert.deepEqual(await receive(other, 1, 300), [], "closing a link settles nothing");
  for (const message of messages) await other[`${message.body}Message`](message);
  const [again] = await receiveAll(other, 1);
  assert.deepEqual([again.body, again.deliveryCount], ["abandon", 1]);
  assert.deepEqual(await other.peekMessages(5), []);
  const below = bus.createReceiver(queue, { subQueueType: "deadLetter" });
  assert.deepEqual(bodies(await receiveAll(below, 1)), ["deadLetter"]);
});

export const a_deferred_message_is_received_and_deleted = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages({ body: "later" });
  const [got] = await receive(receiver, 1);
  await receiver.deferMessage(got);
  const deleting = bus.createReceiver(queue, { receiveMode: "receiveAndDelete" });
  assert.deepEqual(bodies(await deleting.receiveDeferredMessages(got.sequenceNumber)), ["later"]);
  assert.deepEqual(await receiver.peekMessages(1), []);
});

export const a_dead_letter_is_forwarded_with_its_source = check(async ({ bus, queue, sender, receiver }) => {
  await sender.sendMessages({ body: "bad" });
  const [bad] = await receive(receiver, 1);
  await receiver.deadLetterMessage(bad, { deadLetterReason: "why" });
  const [got] = await receive(bus.createReceiver("elsewhere"), 1);
  assert.deepEqual([got.body, got.deadLetterReason, got.deadLetterSource], ["bad", "why", queue]);
  assert.equal(got.enqueuedSequenceNumber, bad.sequenceNumber.toNumber());
});

// Sessions

const session = (scenario) => check(scenario, { receiver: false });

export const a_session_receiver_gets_only_messages_of_its_session = session(async ({ bus, queue, sender }) => {
  await sender.sendMessages([{ body: 1, sessionId: "a" }, { body: 2, sessionId: "a" }]);
  await sender.sendMessages({ body: 3, sessionId: "b" });
  const receiver = await bus.acceptSession(queue, "b");
  assert.equal(receiver.sessionId, "b");
  assert.ok(receiver.sessionLockedUntilUtc > new Date());
  // One second after the first message the SDK returns unused credit. It closes the receiver, and so loses the session,
  // if the answer takes more than the rest of the wait, at most 1 s and at least 200 ms, which a busy machine exceeds.
  const got = await receive(receiver, 5);
  assert.deepEqual(got.map(({ body, sessionId }) => [body, sessionId]), [[3, "b"]]);
  assert.deepEqual(bodies(await receiver.peekMessages(5)), [3]);
  await receiver.completeMessage(got[0]);
  await receiver.close();
  const other = await bus.acceptSession(queue, "a");
  assert.deepEqual(bodies(await receiveAll(other, 2)), [1, 2]);
});

export const accepting_the_next_session_returns_free_sessions = session(async ({ bus, queue, sender }) => {
  for (const sessionId of ["a", "b"]) await sender.sendMessages({ body: sessionId, sessionId });
  const receivers = [await bus.acceptNextSession(queue), await bus.acceptNextSession(queue)];
  assert.deepEqual(receivers.map(({ sessionId }) => sessionId), ["a", "b"]);
  for (const receiver of receivers) assert.deepEqual(bodies(await receiveAll(receiver, 1)), [receiver.sessionId]);
});

export const sessions_are_distributed_among_workers = session(async ({ bus, queue, sender }) => {
  const numbers = [...Array(10).keys()];
  for (const sessionId of "abcdef") await sender.sendMessages(numbers.map((body) => ({ body, sessionId })));
  const done = {};
  const work = async () => {
    while (Object.keys(done).length < 6) {
      const receiver = await bus.acceptNextSession(queue).catch(() => undefined);
      if (receiver === undefined) break;
      done[receiver.sessionId] = bodies(await receiveAll(receiver, 10));
      await receiver.close();
    }
  };
  await Promise.race([Promise.all([work(), work(), work()]), until(() => Object.keys(done).length === 6)]);
  assert.deepEqual(done, Object.fromEntries([..."abcdef"].map((name) => [name, numbers])));
});

export const accepting_the_next_session_waits_for_one = session(async ({ bus, queue, sender }) => {
  const accepting = bus.acceptNextSession(queue);
  await sleep(300);
  await sender.sendMessages({ body: "late", sessionId: "s" });
  assert.equal((await accepting).sessionId, "s");
});

export const no_session_in_time_is_a_timeout = session(async ({ emulator, queue }) => {
  const { connectionString, options } = connection(emulator);
  const bus = new ServiceBusClient(connectionString, { ...options, retryOptions: { maxRetries: 0, timeoutInMs: 1000 } });
  await refused(bus.acceptNextSession(queue), "ServiceTimeout");
  await bus.close();
});

export const a_session_has_one_receiver_at_a_time = session(async ({ bus, queue, sender }) => {
  await sender.sendMessages({ body: 1, sessionId: "s" });
  const first = await bus.acceptSession(queue, "s");
  await refused(bus.acceptSession(queue, "s"), "SessionCannotBeLocked");
  await first.close();
  assert.equal((await bus.acceptSession(queue, "s")).sessionId, "s");
});

export const a_session_keeps_its_state = session(async ({ bus, queue }) => {
  const receiver = await bus.acceptSession(queue, "s");
  assert.equal((await receiver.getSessionState()) ?? null, null);
  await receiver.setSessionState({ step: 2, "ä": [1] });
  await receiver.close();
  const later = await bus.acceptSession(queue, "s");
  assert.deepEqual(await later.getSessionState(), { step: 2, "ä": [1] });
  await later.setSessionState(null);
  assert.equal((await later.getSessionState()) ?? null, null);
});

export const a_session_lock_is_renewed = session(async ({ bus, queue }) => {
  const receiver = await bus.acceptSession(queue, "s");
  const before = receiver.sessionLockedUntilUtc;
  await sleep(100);
  assert.ok((await receiver.renewSessionLock()) > before);
  assert.ok(receiver.sessionLockedUntilUtc > before);
});

export const a_lost_session_lock_is_reported = session(async ({ bus, queue, sender }) => {
  await sender.sendMessages({ body: 1, sessionId: "s" });
  const receiver = await bus.acceptSession(queue, "s", { maxAutoLockRenewalDurationInMs: 0 });
  const [got] = await receive(receiver, 1);
  await sleep(2500);
  await refused(receiver.completeMessage(got), "SessionLockLost");
  const again = await bus.acceptSession(queue, "s");
  assert.deepEqual(bodies(await receiveAll(again, 1)), [1]);
});

export const messages_of_a_session_are_settled_in_every_way = session(async ({ bus, queue, sender }) => {
  const wanted = ["complete", "abandon", "defer", "deadLetter"];
  await sender.sendMessages(wanted.map((body) => ({ body, sessionId: "s" })));
  const receiver = await bus.acceptSession(queue, "s");
  const messages = await receiveAll(receiver, 4, { keep: true });
  for (const message of messages) await receiver[`${message.body}Message`](message);
  const [deferred] = await receiver.receiveDeferredMessages(messages[2].sequenceNumber);
  assert.equal(deferred.body, "defer");
  await receiver.completeMessage(deferred);
  assert.deepEqual(bodies(await receiveAll(receiver, 1)), ["abandon"]);
  assert.deepEqual(await receive(receiver, 1, 300), []);
  const below = bus.createReceiver(queue, { subQueueType: "deadLetter" });
  const [dead] = await receive(below, 1);
  assert.deepEqual([dead.body, dead.sessionId], ["deadLetter", "s"]);
  await below.completeMessage(dead);
});

export const a_subscription_receives_messages_of_a_session = session(async ({ bus, queue, sender }) => {
  await sender.sendMessages([...Array(20).keys()].map((body) => ({ body, sessionId: "s" })));
  const receiver = await bus.acceptSession(queue, "s");
  const got = [];
  const subscription = receiver.subscribe({
    processMessage: async ({ body }) => { got.push(body); },
    processError: async ({ error }) => { throw error; },
  });
  await until(() => got.length === 20);
  await subscription.close();
  assert.deepEqual(got, [...Array(20).keys()]);
});

export const a_scheduled_message_arrives_in_its_session = session(async ({ bus, queue, sender }) => {
  await sender.scheduleMessages({ body: "later", sessionId: "s" }, new Date(Date.now() + 500));
  const receiver = await bus.acceptSession(queue, "s");
  assert.deepEqual(bodies(await receiveAll(receiver, 1)), ["later"]);
});

export const a_session_queue_refuses_messages_without_a_session = session(async ({ sender }) => {
  await assert.rejects(sender.sendMessages({ body: 1 }));
});

// Refusals

export const a_wrong_queue_name_is_not_found = check(async ({ bus }) => {
  await refused(bus.createSender("no-such-queue").sendMessages({ body: 1 }), "MessagingEntityNotFound");
  await refused(receive(bus.createReceiver("no-such-queue"), 1), "MessagingEntityNotFound");
  await refused(bus.createReceiver("no-such-queue").peekMessages(1), "MessagingEntityNotFound");
  await refused(bus.acceptNextSession("no-such-queue"), "MessagingEntityNotFound");
  await refused(bus.acceptSession("no-such-queue", "s"), "MessagingEntityNotFound");
});

export const a_session_queue_refuses_receivers_without_a_session = check(async ({ receiver }) => {
  await assert.rejects(receive(receiver, 1));
});

export const a_plain_queue_has_no_sessions = check(async ({ bus, queue }) => {
  await assert.rejects(bus.acceptSession(queue, "s"));
});

export const a_queue_with_sends_disabled_refuses_messages = check(async ({ sender, receiver }) => {
  await refused(sender.sendMessages({ body: 1 }), "MessagingEntityDisabled");
  assert.deepEqual(await receive(receiver, 1, 300), []);
});

export const a_queue_with_receives_disabled_refuses_receivers = check(async ({ sender, receiver }) => {
  await sender.sendMessages({ body: 1 });
  await refused(receive(receiver, 1), "MessagingEntityDisabled");
});

export const topics_are_refused = check(async ({ bus, queue }) => {
  await assert.rejects(receive(bus.createReceiver(queue, "subscription"), 1), /subscription/i);
  await assert.rejects(bus.createRuleManager(queue, "subscription").deleteRule("rule"), /subscription/i);
});

// Helpers

async function receiveAll(receiver, count, { keep = false } = {}) {
  const got = [];
  while (got.length < count) {
    const some = await receive(receiver, count - got.length);
    if (some.length === 0) throw new Error(`${got.length} of ${count} messages came`);
    if (!keep) await Promise.all(some.map((message) => receiver.completeMessage(message)));
    got.push(...some);
  }
  return got;
}

async function until(condition) {
  while (!condition()) await delay(20);
}
