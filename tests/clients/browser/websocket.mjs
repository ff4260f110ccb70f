// The SDK's connections go to the emulator instead of `wss://{namespace}.servicebus.windows.net`.
const { WebSocket } = globalThis;

globalThis.WebSocket = class extends WebSocket {
  constructor(_, protocols) {
    super(config.wsUrl, protocols);
  }
};
