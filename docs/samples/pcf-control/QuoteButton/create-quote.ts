// Starts the flow "create-quote" through the HTTP gateway. For Service Bus instead of the gateway, this file is one line:
// export { createQuote } from "quote-front-end";

import { outputOf, startFlow, waitForResult } from "flow-worker-client";
import { token } from "./sign-in";

const gateway = "https://flows.contoso.com";

/** The output of the flow "create-quote". */
interface Quote {
  quote: string;
  customer: string;
  amount: number;
}

/** Return the quote for a customer. Throws for every end but success; `signal` ends the wait early. */
export async function createQuote(customer: string, amount: number, signal: AbortSignal): Promise<Quote> {
  // With the storage, another click with the same input after a lost connection is the same request.
  const options = { gateway, token, signal, storage: sessionStorage, slot: "quote-button" };
  const request = await startFlow("create-quote", { customer, amount }, options);
  return outputOf(await waitForResult<Quote>(request, options));
}
