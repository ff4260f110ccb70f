// Redirects the connections of the SDK from `wss://{namespace}.servicebus.windows.net` to the emulator.
const { WebSocket } = globalThis;

globalThis.config ??= parent.config; // in the frame of the sample's page

globalThis.WebSocket = class extends WebSocket {
  constructor(_, protocols) {
    super(config.wsUrl, protocols);
  }
};
