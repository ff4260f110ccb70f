/** The output of the flow "create-quote". */
export interface Quote {
  quote: string;
  customer: string;
  amount: number;
}

/** Return the quote for a customer. Throws for every end but success; `signal` ends the wait early. */
export function createQuote(customer: string, amount: number, signal?: AbortSignal): Promise<Quote>;
