// The page of a front end: runs scenarios with the functions of the sample and posts the outcomes to the test.
import "./websocket.mjs";
import { createQuote, newRequest, resultOf, startFlow } from "../../../docs/samples/front-end.mjs";

const scenarios = {
  async quote() {
    return createQuote("Contoso", 125);
  },
  async several() {
    const amounts = [1, 2, 3];
    const started = await Promise.all(amounts.map((amount) => startFlow("create-quote", { customer: "c", amount })));
    const results = await Promise.all(started.reverse().map((request) => resultOf(request, { timeout: 20_000 })));
    return results.map(({ output }) => output.amount);
  },
  async wrong_key() {
    const request = await startFlow("create-quote", { customer: "c", amount: 4 });
    const unread = await resultOf({ ...request, replyKey: newRequest().replyKey }, { timeout: 3_000 });
    return [unread, (await resultOf(request, { timeout: 20_000 })).output.amount];
  },
  async sent_again() {
    const request = newRequest();
    await startFlow("create-quote", { customer: "c", amount: 5 }, request);
    await startFlow("create-quote", { customer: "c", amount: 5 }, request);
    return (await resultOf(request, { timeout: 20_000 })).output.amount;
  },
  async refusal() {
    config.claim = config.otherClaim;
    return createQuote("Contoso", 125).catch(({ message }) => message);
  },
  async nothing_yet() {
    return resultOf({ messageId: "m", correlationId: "unknown" }, { timeout: 500 });
  },
};

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
