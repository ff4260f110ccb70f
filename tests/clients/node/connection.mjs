// The connection of a check to the emulator. The environment variable TRANSPORT selects the transport; default: TCP.
import WebSocket from "ws";

const retryOptions = { maxRetries: 0, timeoutInMs: 15_000 };

/** A WebSocket without TLS: the SDK always uses wss. */
class PlainWebSocket extends WebSocket {
  constructor(url, protocols) {
    super(url.replace(/^wss:/, "ws:"), protocols);
  }
}

const TRANSPORTS = {
  tcp: ({ connection_string }) => ({ connectionString: connection_string }),
  amqps: ({ amqps_connection_string }) => ({ connectionString: amqps_connection_string }),
  ws: (emulator) => overWebSocket(emulator, emulator.ws_url, PlainWebSocket),
  wss: (emulator) => overWebSocket(emulator, emulator.wss_url, WebSocket),
};

function overWebSocket({ connection_string }, url, webSocket) {
  const { host } = new URL(url);
  const connectionString = connection_string.replace(/sb:\/\/[^;]*/, `sb://${host}`);
  return { connectionString, options: { webSocketOptions: { webSocket } } };
}

/** Returns the arguments of `ServiceBusClient`. */
export function connection(emulator) {
  const { connectionString, options } = TRANSPORTS[process.env.TRANSPORT ?? "tcp"](emulator);
  return { connectionString, options: { retryOptions, ...options } };
}
