// The page of a front end: runs scenarios with the samples and posts the outcomes to the test.
import { createQuote, flows } from "../../../docs/samples/front-end/front-end.mjs";
import { newRequest } from "../../../docs/samples/front-end/flows.mjs";

const scenarios = {
  async quote() {
    return createQuote("Contoso", 125);
  },
  async several() {
    const amounts = [1, 2, 3];
    const started = await Promise.all(amounts.map((amount) => flows.start("create-quote", { customer: "c", amount })));
    const results = await Promise.all(started.reverse().map((request) => flows.result(request, { timeout: 20_000 })));
    return results.map(({ output }) => output.amount);
  },
  async wrong_key() {
    const request = await flows.start("create-quote", { customer: "c", amount: 4 });
    const unread = await flows.result({ ...request, replyKey: newRequest().replyKey }, { timeout: 3_000 });
    return [unread, (await flows.result(request, { timeout: 20_000 })).output.amount];
  },
  async sent_again() {
    const request = newRequest();
    await flows.start("create-quote", { customer: "c", amount: 5 }, request);
    await flows.start("create-quote", { customer: "c", amount: 5 }, request);
    return (await flows.result(request, { timeout: 20_000 })).output.amount;
  },
  async stopped_wait() {
    const request = await flows.start("create-quote", { customer: "c", amount: 6 });
    const unread = { ...request, replyKey: newRequest().replyKey };
    const error = await flows.result(unread, { signal: AbortSignal.timeout(2_000) }).catch(({ name }) => name);
    return [error, (await flows.result(request, { timeout: 20_000 })).output.amount];
  },
  async form() {
    const frame = document.createElement("iframe");
    const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
    frame.src = "/sample/index.html";
    document.body.append(frame);
    await loaded;
    const page = frame.contentDocument;
    page.querySelector("button").click();
    return changed(page.querySelector("#state"));
  },
  async refusal() {
    config.claim = config.otherClaim;
    return createQuote("Contoso", 125).catch(({ message, retryable }) => [message, retryable]);
  },
  async nothing_yet() {
    return flows.result({ messageId: "m", correlationId: "unknown" }, { timeout: 500 });
  },
};

/** Return the text of an element when it no longer says that the flow runs. */
function changed(element) {
  return new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (element.textContent !== "" && !element.textContent.startsWith("The flow runs")) resolve(element.textContent);
    });
    observer.observe(element, { childList: true, characterData: true, subtree: true });
  });
}

async function runAll() {
  const outcomes = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    outcomes[name] = await scenario().then(
      (value) => ({ value }),
      (error) => ({ error: `${error?.code ?? ""} ${error?.stack ?? error}` }),
    );
  }
  return outcomes;
}

runAll().then((outcomes) => fetch("/outcomes", { method: "POST", body: JSON.stringify(outcomes) }));
