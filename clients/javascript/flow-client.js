/** Starts flows through the HTTP gateway of flow-worker and waits for their results; see flow-client.d.ts. */

const ANSWER_SECONDS = 30; // a connection without a byte for this time is dead: the gateway's heartbeats come every 15 s
const POLL_SECONDS = 25; // below the limits of proxies on a silent request
const PATIENCE_SECONDS = 120;

export class FlowError extends Error {
  constructor(message, details) {
    super(message);
    Object.assign(this, details, { name: "FlowError" });
  }
}

export async function startFlow(flow, input, options) {
  const body = JSON.stringify(input ?? null);
  const kept = recall(options);
  // An attempt without an answer may have reached the gateway: with the same key, another one is the same request.
  const unanswered = kept?.flow === flow && !kept.id && kept.body === body;
  const key = options.key ?? (unanswered ? kept.key : crypto.randomUUID());
  keep(options, { flow, key, body });
  try {
    const { answer } = await call(options, `flows/${encodeURIComponent(flow)}/requests`, {
      method: "POST",
      body,
      headers: {
        "Content-Type": "application/json",
        "Idempotency-Key": JSON.stringify(key),
      },
    });
    const started = { flow, id: answer.id ?? answer.correlation_id };
    keep(options, started);
    return started;
  } catch (error) {
    if (error.retryable === false) keep(options);
    throw error;
  }
}

export async function resumeFlow(options) {
  const kept = recall(options);
  if (!kept?.flow) return null;
  return kept.id ? kept : startFlow(kept.flow, JSON.parse(kept.body), { ...options, key: kept.key });
}

export async function waitForResult(request, options) {
  const id = request.id ?? request;
  const path = `requests/${encodeURIComponent(id)}`;
  const { onState, settled } = options;
  let streams = onState && !settled;
  let shown;
  const show = (pending) => {
    const text = JSON.stringify(pending);
    if (text !== shown) onState?.(pending);
    shown = text;
  };
  const done = (result) => {
    if (recall(options)?.id === id) keep(options);
    return result;
  };
  for (;;) {
    const began = Date.now();
    if (streams) {
      // A proxy that holds events back, or cuts the stream, leaves the long poll.
      streams = false;
      const result = await events(options, path, (pending) => {
        streams = true;
        show(pending);
      });
      if (result && !(result instanceof Error)) return done(result);
    }
    try {
      const query = streams ? "" : `?wait=${POLL_SECONDS}${settled ? "&settled=true" : ""}`;
      const { status, answer, retryAfter = 2 } = await call(options, path + query, {}, POLL_SECONDS);
      if (status === 200) return done(answer);
      show(answer);
      await pause(retryAfter * 1000 + began - Date.now(), options.signal);
    } catch (error) {
      if ([404, 410].includes(error.status)) done();
      throw error;
    }
  }
}

export async function listFlows(options) {
  return (await call(options, "flows", {})).answer.flows;
}

export function outputOf(result) {
  if (result.status === "succeeded") return result.output;
  const { code, message, retryable } = result.error ?? {};
  throw new FlowError(message ?? result.status, {
    code: code ?? result.status,
    retryable: result.status === "failed" && retryable === true,
    problem: result,
  });
}

/** Send a request until the gateway answers it, and return the answer. Throws a `FlowError`. */
async function call(options, path, init, seconds = 0) {
  let refused = false;
  for (let paused = 0, failures = 0; ; failures++) {
    const failure = await attempt(options, path, init, seconds, refused, async (response) => {
      const { status } = response;
      const retryAfter = secondsOf(response.headers.get("Retry-After"));
      const answer = await response.json().catch((error) => {
        if (response.ok || options.signal?.aborted) throw error; // a proxy's errors are no JSON
      });
      if (response.ok) return { status, answer, retryAfter };
      return new FlowError(answer?.detail ?? answer?.title ?? `The gateway answered ${status}.`, {
        code: answer?.code ?? `http_${status}`,
        status,
        retryable: answer?.retryable ?? (status === 429 || status > 501),
        retryAfter,
        problem: answer,
      });
    });
    if (!(failure instanceof Error)) return failure;
    if (failure.status === 401 && !refused) {
      refused = true; // perhaps the token expired: ask for another one, once
      continue;
    }
    const { status, retryAfter } = failure;
    if (status && ![408, 425, 429].includes(status) && status < 502) throw failure;
    const next = retryAfter ?? Math.min(30, 2 ** failures / 2);
    if (paused + next > (options.patience ?? PATIENCE_SECONDS)) throw failure;
    paused += next;
    await pause(next * (1000 + 200 * Math.random()), options.signal, !status);
  }
}

/** Read the events of a request: call `show` for each state, and return the result if it comes. */
function events(options, path, show) {
  const init = { headers: { Accept: "text/event-stream" } };
  return attempt(options, `${path}/events`, init, 0, false, async (response, alive) => {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (let text = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return undefined;
      alive();
      const blocks = (text + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        const [, event, data] = /^event: (\w+)$[^]*^data: ([^\r\n]*)/m.exec(block) ?? [];
        if (event === "result") return JSON.parse(data);
        if (event === "state") show(JSON.parse(data));
      }
    }
  });
}

/** Send one request and let `read` read the response. Return its value, or a `FlowError` for a lost connection. */
async function attempt(options, path, init, seconds, refused, read) {
  const { gateway, token, signal, fetch = globalThis.fetch } = options;
  signal?.throwIfAborted();
  let url;
  const limit = new AbortController();
  const stop = () => limit.abort();
  const signals = [limit.signal, ...(signal ? [signal] : [])];
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(stop, (ANSWER_SECONDS + seconds) * 1000);
  };
  try {
    const bearer = typeof token === "function" ? await token(refused) : token;
    const headers = new Headers({ ...options.headers, ...init.headers, Authorization: `Bearer ${bearer}` });
    url = new URL(`${gateway}`.replace(/\/?$/, `/v1/${path}`));
    alive();
    const safe = { cache: "no-store", credentials: "omit", redirect: "error" };
    return await read(await fetch(url, { ...init, headers, signal: AbortSignal.any(signals), ...safe }), alive);
  } catch (cause) {
    signal?.throwIfAborted();
    if (!url && globalThis.navigator?.onLine !== false) throw cause; // no token: but without a network, one may come
    const details = { code: "unreachable", retryable: true, cause };
    return new FlowError("The gateway is down, or it does not allow this page.", details);
  } finally {
    clearTimeout(timer);
    stop(); // an answer that nobody reads to its end
  }
}

/** Wait; `wakes`: end when the browser is online again. */
function pause(milliseconds, signal, wakes) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      globalThis.removeEventListener?.("online", end);
      signal?.aborted ? reject(signal.reason) : resolve();
    };
    const timer = setTimeout(end, Math.max(0, milliseconds));
    signal?.addEventListener("abort", end);
    if (wakes) globalThis.addEventListener?.("online", end);
    if (signal?.aborted) end();
  });
}

/** Return the seconds of a Retry-After header, which is a number or a date. */
function secondsOf(text) {
  if (!text) return undefined;
  const seconds = Number(text);
  const known = isNaN(seconds) ? (Date.parse(text) - Date.now()) / 1000 : seconds;
  return known >= 0 ? known : undefined;
}

/** Keep a request for the page that a reload loads; without one forget it. A full or closed storage stops no flow. */
function keep({ storage, slot = "flow-request" }, request) {
  try {
    request ? storage?.setItem(slot, JSON.stringify(request)) : storage?.removeItem(slot);
  } catch {}
}

function recall({ storage, slot = "flow-request" }) {
  try {
    return JSON.parse(storage?.getItem(slot) ?? "null");
  } catch {
    return null;
  }
}
