// The page: it signs in as a user of the emulator, starts flows with flow-client.js and shows what the gateway answers.
import { FlowError, listFlows, outputOf, resumeFlow, startFlow, waitForResult } from "./flow-client.js";

const element = (id) => document.getElementById(id);
const [form, user, flow, input] = ["form", "user", "flow", "input"].map(element);
const settings = await (await fetch("settings")).json();
const LAST_USER = "user";
let listed = [];
let shown; // the request on the page
let waiting; // ends the wait

/** Return the client's options for a user. In production `token` is MSAL's `acquireTokenSilent`. */
function optionsOf(name) {
  return {
    gateway: settings.gateway,
    token: async () => {
      const response = await fetch("token", { method: "POST", body: JSON.stringify({ user: name }) });
      if (!response.ok) throw new Error(`The emulator gives no token for ${name}.`);
      return (await response.json()).access_token;
    },
    storage: sessionStorage, // so that a reload finds the request again
    slot: `request of ${name}`,
  };
}

function option(name, title) {
  return Object.assign(document.createElement("option"), { value: name, textContent: title ?? name });
}

function say(id, state, text) {
  element(id).dataset.state = state;
  element(id).textContent = text;
}

function clock(time) {
  return time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

/** Add a line to the state changes. */
function note(state, title, text) {
  const now = new Date();
  const line = document.createElement("li");
  const time = Object.assign(document.createElement("time"), { dateTime: now.toISOString(), textContent: clock(now) });
  const name = Object.assign(document.createElement("b"), { textContent: title });
  name.dataset.state = state;
  line.append(time, name, Object.assign(document.createElement("span"), { textContent: text }));
  element("history").append(line);
}

function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** Return an example of a flow's input. */
function exampleOf(schema) {
  const examples = { string: "Contoso", number: 125, integer: 5, boolean: true, array: [], object: {} };
  const properties = Object.entries(schema?.properties ?? {});
  return Object.fromEntries(properties.map(([name, { type }]) => [name, examples[type] ?? null]));
}

async function showFlows() {
  const name = user.value;
  const { roles } = settings.users.find((each) => each.name === name);
  element("roles").textContent = roles.length ? `Roles in the token: ${roles.join(", ")}` : "The token has no role.";
  element("other").replaceChildren(...settings.users.filter((each) => each.name !== name).map((each) => option(each.name)));
  flow.replaceChildren();
  element("start").disabled = true;
  try {
    const answer = await listFlows({ ...optionsOf(name), patience: 3 });
    if (user.value !== name) return; // another user was chosen meanwhile
    listed = answer;
    flow.replaceChildren(...listed.map((each) => option(each.name, each.title)));
    element("flows").textContent = listed.length ? "" : "This user may start no flow.";
  } catch (error) {
    element("flows").textContent = describe(error);
  }
  element("start").disabled = Boolean(waiting) || listed.length === 0;
  showExample();
}

function showExample() {
  const chosen = listed.find((each) => each.name === flow.value);
  if (chosen) input.value = pretty(exampleOf(chosen.input_schema));
  checkInput();
}

/** Return the input; undefined, with a message on the page, if it is no JSON. */
function checkInput() {
  let value;
  let problem = "";
  try {
    value = JSON.parse(input.value || "null");
  } catch (error) {
    problem = `The input is no JSON: ${error.message}`;
  }
  input.setAttribute("aria-invalid", String(problem !== ""));
  element("input-error").textContent = problem;
  return problem ? undefined : value;
}

function describe(error) {
  if (error.name === "AbortError") return "This page stopped waiting. The flow continues.";
  return error instanceof FlowError ? `${error.message} (${error.code})` : error.message;
}

/** Disable a button, and enable the other one. The focus moves along: a disabled button would lose it to the page. */
function swap(off, on, enabled = true) {
  const focused = document.activeElement === element(off);
  element(on).disabled = !enabled;
  if (focused) element(on).focus();
  element(off).disabled = true;
}

/** Let one request at a time use the page. `begin` starts or resumes it. */
async function run(name, begin) {
  waiting = new AbortController();
  swap("start", "stop");
  const options = { ...optionsOf(name), signal: waiting.signal };
  try {
    const request = await begin(options);
    if (!request) return;
    shown = request;
    element("read").disabled = false;
    say("other-state", "idle", `The request belongs to ${name}.`);
    element("other-answer").hidden = true;
    const result = await waitForResult(request, { ...options, onState: showPending });
    showResult(result);
  } catch (error) {
    say("state", "bad", describe(error));
    note("bad", error.code ?? "stopped", describe(error));
  } finally {
    waiting = undefined;
    swap("stop", "start", listed.length > 0);
  }
}

function showPending(pending) {
  say("state", "pending", pending.text);
  note("pending", pending.state, pending.text);
}

function showResult(result) {
  const good = result.status === "succeeded";
  let text = "The flow succeeded.";
  try {
    outputOf(result);
  } catch (error) {
    text = describe(error);
  }
  say("state", good ? "good" : "bad", text);
  note(good ? "good" : "bad", result.status, good ? "The result arrived." : text);
  element("outcome").hidden = false;
  element("result").textContent = pretty(good ? result.output : { status: result.status, error: result.error });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const value = checkInput();
  if (value === undefined) return input.focus();
  const [name, started] = [user.value, flow.value];
  element("history").replaceChildren();
  element("outcome").hidden = true;
  say("state", "pending", "The gateway gets the request …");
  return run(name, async (options) => {
    const request = await startFlow(started, value, options);
    note("pending", "accepted", `request ${request.id}`);
    return request;
  });
});

element("other-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = element("other").value;
  const { token } = optionsOf(name);
  say("other-state", "pending", `${name} asks the gateway …`);
  try {
    const headers = { Authorization: `Bearer ${await token()}` };
    const response = await fetch(`${settings.gateway}/v1/requests/${encodeURIComponent(shown.id)}`, { headers });
    const answer = await response.json();
    const refused = response.status === 404;
    const text = refused ? `${name} gets 404: for ${name} this request does not exist.` : `${name} gets ${response.status}.`;
    say("other-state", refused ? "good" : "bad", text);
    element("other-answer").hidden = false;
    element("other-answer").textContent = pretty(answer);
  } catch (error) {
    say("other-state", "bad", describe(error));
  }
});

user.addEventListener("change", () => {
  sessionStorage.setItem(LAST_USER, user.value);
  return showFlows();
});
flow.addEventListener("change", showExample);
input.addEventListener("input", checkInput);
element("stop").addEventListener("click", () => waiting?.abort());
addEventListener("offline", () => waiting && note("pending", "offline", "The page waits for the network."));
addEventListener("online", () => waiting && note("pending", "online", "The page asks the gateway again."));

element("gateway").textContent = settings.gateway;
user.replaceChildren(...settings.users.map((each) => option(each.name)));
const last = sessionStorage.getItem(LAST_USER);
if (settings.users.some((each) => each.name === last)) user.value = last;
const resumed = run(user.value, async (options) => {
  const request = await resumeFlow(options);
  if (request) note("pending", "resumed", `request ${request.id} of before the reload`);
  return request;
});
await Promise.all([showFlows(), resumed]);
