// Starts the flow "create-quote" and prints its output: node quote.mjs CUSTOMER AMOUNT

import { FlowClient, outputOf } from "../front-end/flows.mjs";
import { claim, connected } from "./connection.mjs";

const [customer = "Contoso", amount = "125"] = process.argv.slice(2);
const bus = connected();
try {
  const flows = new FlowClient({ bus, claim });
  const request = await flows.start("create-quote", { customer, amount: Number(amount) });
  console.error(`message ID ${request.messageId}, correlation ID ${request.correlationId}`);
  console.log(JSON.stringify(outputOf(await flows.result(request))));
} finally {
  await bus.close();
}
