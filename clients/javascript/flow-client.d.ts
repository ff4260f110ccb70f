/** JSON that a flow takes or returns. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** The part of `Storage` that the client uses; `sessionStorage` is one. */
export interface RequestStorage {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
  removeItem(name: string): void;
}

export interface Options {
  /** The gateway's URL, for example `https://flows.contoso.com`. */
  gateway: string | URL;
  /**
   * An access token of the user for the worker's API, or a function that returns one. `refused` is true after the
   * gateway answered 401: then return a new token, not one from a cache. An error of the function ends the call, unless
   * the browser is offline.
   */
  token: string | ((refused: boolean) => string | Promise<string>);
  /** Ends the start or the wait. The flow itself continues. */
  signal?: AbortSignal;
  /**
   * Keeps the request for `resumeFlow`: its ID, and until the gateway has accepted it also its input. Pass
   * `sessionStorage`; a storage that outlives the tab keeps the input for the next person.
   */
  storage?: RequestStorage;
  /** The name in the storage, by default `flow-request`. Each slot keeps one request. Put the user's ID into it. */
  slot?: string;
  /** Further request headers, such as `traceparent` or `On-Behalf-Of`. */
  headers?: Record<string, string>;
  /** The seconds of pauses after which the client stops repeating an unanswered request, by default 120. */
  patience?: number;
  /** A replacement of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface StartOptions extends Options {
  /** The idempotency key, by default a random one. The same key with the same input is the same request. */
  key?: string;
}

export interface WaitOptions extends Options {
  /** Gets each new state. With it the client reads server-sent events; without it, it uses long polls. */
  onState?: (pending: Pending) => void;
  /**
   * After an `unknown` result, wait up to 25 s for the result that settles it, and then return the newest one. Call
   * again while it is `unknown`. The worker settles results minutes later, and only where `run_records` is configured.
   */
  settled?: boolean;
}

/** A request that the gateway accepted. */
export interface StartedFlow {
  id: string;
  flow: string;
}

/** The state of a request without a result. */
export interface Pending {
  id: string;
  flow: string;
  status: "pending";
  state: "queued" | "calling" | "waiting";
  since: string;
  until: string | null;
  reason: string | null;
  /** A sentence for a person. */
  text: string;
  attempts: number;
  location: string;
}

/** The result of a request: contracts/schema/flow-result.schema.json. */
export interface FlowResult<Output = Json> {
  status: "succeeded" | "failed" | "refused" | "unknown" | "expired";
  flow: string | null;
  output: Output;
  error: { code: string; message: string; retryable: boolean } | null;
  attempts: number;
  correlation_id: string;
  request_message_id: string;
  /** `flow_run` on the result that settles an `unknown` one; else null. */
  settled_by: string | null;
  /** The page of the flow run for people. */
  run_url: string | null;
  [name: string]: unknown;
}

export interface FlowDescription {
  name: string;
  title: string | null;
  description: string | null;
  input_schema: { [name: string]: Json } | null;
}

/** An error that the gateway answered, a missing answer (`unreachable`), or a flow without success. */
export class FlowError extends Error {
  /** A code for programs: docs/reference/result-codes.md. */
  code: string;
  /** The HTTP status; undefined without an answer. */
  status?: number;
  /** True if the same call may succeed later. */
  retryable: boolean;
  /** The seconds to wait before the next attempt, if the gateway named them. */
  retryAfter?: number;
  /** The problem document (RFC 9457) or the flow result. */
  problem?: unknown;
  cause?: unknown;
}

/**
 * Start a flow; return once the gateway accepted the request. Repeats the call under one idempotency key after 429, 502,
 * 503, 504 and a lost connection. Throws `FlowError`, and the signal's reason.
 *
 * With a storage, the next call with the same flow and input after a missing answer is the same request.
 */
export function startFlow(flow: string, input: Json, options: StartOptions): Promise<StartedFlow>;

/** Return the request that the storage keeps, for a page that was loaded again; null without one. */
export function resumeFlow(options: StartOptions): Promise<StartedFlow | null>;

/** Wait for the result, whatever its status. The storage then forgets the request. Throws like `startFlow`. */
export function waitForResult<Output = Json>(
  request: StartedFlow | string,
  options: WaitOptions,
): Promise<FlowResult<Output>>;

/** Return the output of a successful result; throw a `FlowError` for any other end. */
export function outputOf<Output>(result: FlowResult<Output>): Output;

/** Return the flows that the user may start. */
export function listFlows(options: Options): Promise<FlowDescription[]>;
