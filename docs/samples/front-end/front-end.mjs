// The flows of one browser front end. `npm run build` bundles it with @azure/identity and @azure/service-bus. The latter
// uses AMQP over WebSockets, because Service Bus's REST interface refuses cross-origin calls.
//
// Before you copy it: each user needs "Azure Service Bus Data Sender" on the request queue and "Data Receiver" on the
// reply queue. Every holder of the latter role can read every result in that queue. See docs/explanation/security.md.

import { InteractiveBrowserCredential } from "@azure/identity";
import { ServiceBusClient } from "@azure/service-bus";
import { FlowClient, outputOf } from "./flows.mjs";

const TENANT = "11111111-2222-3333-4444-555555555555";
const FRONT_END = "22222222-3333-4444-5555-666666666666"; // this page's own app registration
const WORKER_SCOPE = "api://66666666-7777-8888-9999-000000000000/.default"; // the worker's app registration
const NAMESPACE = "contoso.servicebus.windows.net";

const credential = new InteractiveBrowserCredential({ tenantId: TENANT, clientId: FRONT_END });
const bus = new ServiceBusClient(NAMESPACE, credential);

export const flows = new FlowClient({ bus, claim: async () => (await credential.getToken(WORKER_SCOPE)).token });

/** The handler of a button: return the quote for a customer. */
export async function createQuote(customer, amount, signal) {
  const request = await flows.start("create-quote", { customer, amount });
  return outputOf(await flows.result(request, { signal }));
}
