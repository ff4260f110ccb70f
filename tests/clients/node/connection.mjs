// How the clients of a check get to the emulator.

const retryOptions = { maxRetries: 0, timeoutInMs: 15_000 };

/** What `ServiceBusClient` is made of. */
export function connection(emulator) {
  return { connectionString: emulator.connection_string, options: { retryOptions } };
}
