// Uses clients/javascript with a real gateway: GATEWAY, TOKEN and OTHER_TOKEN. Prints one JSON object.
import { listFlows, outputOf, resumeFlow, startFlow, waitForResult } from "../../../clients/javascript/flow-client.js";

const { GATEWAY: gateway, TOKEN: token, OTHER_TOKEN: other } = process.env;
const values = new Map();
const storage = {
  getItem: (name) => values.get(name) ?? null,
  setItem: (name, value) => values.set(name, value),
  removeItem: (name) => values.delete(name),
};
const options = { gateway, token, storage };
const codeOf = (promise) => promise.then(() => "none", ({ code, status, retryable }) => [code, status, retryable]);
const found = {};

const flows = await listFlows(options);
found.flows = flows.map(({ name }) => name).sort();
found.schema = flows.find(({ name }) => name === "create-quote").input_schema.required;

const started = await startFlow("create-quote", { customer: "Contoso", amount: 125 }, options);
found.stranger = await codeOf(waitForResult(started, { gateway, token: other }));
found.amount = outputOf(await waitForResult(await resumeFlow(options), options)).amount;
found.left = await resumeFlow(options);

const states = [];
const slow = await startFlow("slow-report", { month: "2026-11" }, options);
const onState = ({ state, text }) => states.push([state, text]);
found.slow = (await waitForResult(slow, { ...options, onState })).status;
found.states = states.map(([state]) => state);
found.texts = states.every(([, text]) => text.endsWith("."));

const [one, two] = await Promise.all([1, 2].map(() => startFlow("notify-team", { n: 1 }, { ...options, key: "same" })));
found.same = one.id === two.id;
found.reused = await codeOf(startFlow("notify-team", { n: 2 }, { ...options, key: "same" }));
found.invalid = await codeOf(startFlow("create-quote", { customer: "Contoso" }, options));
found.unknown = await codeOf(startFlow("no-such-flow", null, options));
found.token = await codeOf(startFlow("notify-team", null, { gateway, token: "x" }));
console.log(JSON.stringify(found));
