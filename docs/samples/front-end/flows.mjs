// Starts flows and gets their results, over a ServiceBusClient that the caller makes. For browsers and for Node 20+.
// It imports nothing, so you can copy it as it is.

const REQUEST_CONTRACT = "flow-request/1";
const RESULT_CONTRACT = "flow-result/1";
const MORE_RESULTS_MS = 250; // how long a search waits for a newer result behind the one that it has
const MAX_SKIPPED = 100; // messages of others that one search leaves in the session
const MAX_REMEMBERED = 10_000;

/** Return the identity of a new request. Only the caller and the worker know its key: nobody else can forge a result. */
export function newRequest() {
  return { messageId: crypto.randomUUID(), correlationId: crypto.randomUUID(), replyKey: newReplyKey() };
}

/** Starts flows by posting requests to a queue, and finds their results in the sessions of the reply queue. */
export class FlowClient {
  #bus;
  #claim;
  #requestQueue;
  #replyQueue;
  #returned = new Map(); // by the request's message ID: the message IDs of its results that were returned
  #ignored = 0;

  /** `claim`: returns a promise of an access token for the worker. */
  constructor({ bus, claim, requestQueue = "flow-requests", replyQueue = "flow-replies" }) {
    this.#bus = bus;
    this.#claim = claim;
    this.#requestQueue = requestQueue;
    this.#replyQueue = replyQueue;
  }

  /**
   * The number of messages that `result` ignored because they have no valid MAC under the reply key. Usually the key is
   * that of another request.
   */
  get ignored() {
    return this.#ignored;
  }

  /**
   * Post a request, and return its identity for `result`. To send the same request again, for example after a lost
   * connection, pass the same identity: with another one, the result of the first message answers nobody.
   */
  async start(flow, input, request = newRequest()) {
    const { messageId, correlationId, replyKey } = request;
    if (!messageId || !correlationId || !replyKey) {
      throw new TypeError("Pass messageId, correlationId and replyKey, as newRequest returns them, or none of them.");
    }
    const claim = await this.#claim();
    this.#returned.delete(messageId); // a request that is sent again gets its result again
    const sender = this.#bus.createSender(this.#requestQueue);
    try {
      await sender.sendMessages({
        body: { flow, input, claim },
        contentType: "application/json",
        messageId,
        correlationId,
        replyTo: this.#replyQueue,
        replyToSessionId: correlationId,
        timeToLive: 10 * 60 * 1000, // milliseconds; the claim stays in the queue no longer
        applicationProperties: { contract: REQUEST_CONTRACT, reply_key: replyKey },
      });
    } finally {
      await sender.close();
    }
    return { messageId, correlationId, replyKey };
  }

  /**
   * Return the newest result of a request, or null if none arrives within `timeout` milliseconds. `signal` ends the wait
   * early, with an AbortError. A request has several results if an operator replayed it; another call returns an older
   * one.
   *
   * Messages without a valid MAC, and those that answer another request, stay in the queue. So with a wrong replyKey
   * the result waits for a reader with the right one. After the first 100 such messages in the session, this function
   * deletes the others: somebody floods the session.
   */
  async result({ messageId, correlationId, replyKey }, { timeout = 180_000, signal } = {}) {
    const deadline = Date.now() + timeout;
    // Without parsing: the MAC covers the bytes of the body.
    const options = {
      maxAutoLockRenewalDurationInMs: timeout,
      skipParsingBodyAsJson: true,
      abortSignal: signal,
    };
    const session = await this.#bus.acceptSession(this.#replyQueue, correlationId, options);
    let skipped = 0;
    let newest = null;
    const skip = async (message) => {
      // A skipped message stays locked until the session closes: after abandonMessage, the next receive would return it.
      skipped += 1;
      if (skipped > MAX_SKIPPED) await session.completeMessage(message);
    };
    try {
      while (newest !== null || Date.now() < deadline) {
        const maxWaitTimeInMs = newest === null ? deadline - Date.now() : MORE_RESULTS_MS;
        const [message] = await session.receiveMessages(1, { maxWaitTimeInMs, abortSignal: signal });
        if (message === undefined) {
          if (newest !== null) break;
          continue;
        }
        if (this.#returned.get(messageId)?.has(message.messageId)) {
          await session.completeMessage(message); // a copy: a worker can publish a result twice after a crash
          continue;
        }
        if (!(await isAuthentic(message, replyKey))) {
          this.#ignored += 1;
          await skip(message); // any sender can name this session as the place of its result
          continue;
        }
        const { contract } = message.applicationProperties;
        if (contract !== RESULT_CONTRACT) {
          if (newest !== null) break;
          await session.abandonMessage(message); // a later version of this module can still read it
          throw new Error(`This module reads ${RESULT_CONTRACT}, not ${contract}: update it.`);
        }
        const body = JSON.parse(new TextDecoder().decode(message.body));
        if (!answers(body, messageId)) {
          await skip(message); // of another request with the same key
          continue;
        }
        // Of several results the newest is that of a replay. The others stay locked until the session closes.
        if (newest === null || body.replay_of === messageId) newest = { message, body };
      }
      if (newest === null) return null;
      await session.completeMessage(newest.message);
      this.#remember(messageId, newest.message.messageId);
      return newest.body;
    } finally {
      await session.close();
    }
  }

  #remember(messageId, resultId) {
    if (!this.#returned.has(messageId)) this.#returned.set(messageId, new Set());
    this.#returned.get(messageId).add(resultId);
    if (this.#returned.size > MAX_REMEMBERED) this.#returned.delete(this.#returned.keys().next().value);
  }
}

/**
 * Return the output of a result. Throw an error for every other end, with the code, and `retryable`: only then it is
 * safe to send the request again without a check.
 */
export function outputOf(result) {
  if (result === null) throw new Error("No result yet; it may still arrive.");
  if (result.status === "succeeded") return result.output;
  const error = new Error(`${result.status}: ${result.error?.code}`);
  throw Object.assign(error, { retryable: result.status === "failed" && result.error?.retryable === true });
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
