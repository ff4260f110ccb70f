// A front end's page: starts flows with the sample's functions and tells the test what became of them.
import "./websocket.mjs";
import { createQuote, resultOf, startFlow } from "../../../docs/samples/front-end.mjs";

const plays = {
  async quote() {
    return createQuote("Contoso", 125);
  },
  async several() {
    const amounts = [1, 2, 3];
    const started = await Promise.all(amounts.map((amount) => startFlow("create-quote", { customer: "c", amount })));
    const results = await Promise.all(started.reverse().map((one) => resultOf(one, { timeout: 20_000 })));
    return results.map(({ output }) => output.amount);
  },
  async refusal() {
    config.claim = config.otherClaim;
    return createQuote("Contoso", 125).catch(({ message }) => message);
  },
  async nothing_yet() {
    return resultOf({ messageId: "m", correlationId: "nobody's" }, { timeout: 500 });
  },
};

async function playAll() {
  const outcomes = {};
  for (const [name, play] of Object.entries(plays)) {
    outcomes[name] = await play().then(
      (value) => ({ value }),
      (error) => ({ error: `${error?.code ?? ""} ${error?.stack ?? error}` }),
    );
  }
  return outcomes;
}

playAll().then((outcomes) => fetch("/outcomes", { method: "POST", body: JSON.stringify(outcomes) }));
