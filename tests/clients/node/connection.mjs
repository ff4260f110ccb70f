// How the clients of a check get to the emulator: by the environment variable TRANSPORT, TCP if there is none.
import WebSocket from "ws";

const retryOptions = { maxRetries: 0, timeoutInMs: 15_000 };

/** The SDK asks for TLS even of an emulator; this takes it out. */
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

/** What `ServiceBusClient` is made of. */
export function connection(emulator) {
  const { connectionString, options } = TRANSPORTS[process.env.TRANSPORT ?? "tcp"](emulator);
  return { connectionString, options: { retryOptions, ...options } };
}
