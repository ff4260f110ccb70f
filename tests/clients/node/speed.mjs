// Measures @azure/service-bus with the emulator: `node speed.mjs NAME COUNT`, for bench/emulator.py.
// Prints a JSON object: messages, seconds, and the processor seconds of this process.
import { ServiceBusClient } from "@azure/service-bus";

const [name, requested] = process.argv.slice(2);
const count = Number(requested);
const QUEUE = "speed";
const body = "x".repeat(256);
const bus = new ServiceBusClient(process.env.BENCH_CONNECTION_STRING);

async function inFlight(maximum, total, act) {
  let next = 0;
  const lane = async () => {
    while (next < total) {
      next += 1;
      await act();
    }
  };
  await Promise.all(Array.from({ length: maximum }, lane));
}

const scenarios = {
  async send_in_flight() {
    const sender = bus.createSender(QUEUE);
    await sender.sendMessages({ body });
    return timed(() => inFlight(100, count, () => sender.sendMessages({ body })));
  },
  async send_batches() {
    const sender = bus.createSender(QUEUE);
    await sender.sendMessages({ body });
    const batch = Array.from({ length: 100 }, () => ({ body }));
    return timed(() => inFlight(4, count / 100, () => sender.sendMessages(batch)));
  },
  async receive_complete() {
    const receiver = bus.createReceiver(QUEUE);
    await receiver.peekMessages(1);
    return timed(async () => {
      for (let done = 0; done < count; ) {
        const messages = await receiver.receiveMessages(Math.min(100, count - done), { maxWaitTimeInMs: 10_000 });
        if (messages.length === 0) throw new Error(`only ${done} of ${count} messages came`);
        done += messages.length;
        await Promise.all(messages.map((message) => receiver.completeMessage(message)));
      }
    });
  },
  async subscribe_complete() {
    const receiver = bus.createReceiver(QUEUE);
    await receiver.peekMessages(1);
    return timed(
      () =>
        new Promise((resolve, reject) => {
          let done = 0;
          const processMessage = async () => {
            done += 1;
            if (done === count) setTimeout(resolve, 0);
          };
          receiver.subscribe({ processMessage, processError: async (args) => reject(args.error) }, { maxConcurrentCalls: 100 });
        }),
    );
  },
};

async function timed(act) {
  const before = process.cpuUsage();
  const began = performance.now();
  await act();
  const { user, system } = process.cpuUsage(before);
  return { messages: count, seconds: (performance.now() - began) / 1000, client_cpu_seconds: (user + system) / 1e6 };
}

console.log(JSON.stringify(await scenarios[name]()));
process.exit(0); // no need to close the links
