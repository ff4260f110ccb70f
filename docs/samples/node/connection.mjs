// Connects to Service Bus as the environment says: SERVICEBUS_NAMESPACE, for example contoso.servicebus.windows.net,
// with the identity that DefaultAzureCredential finds; or SERVICEBUS_CONNECTION_STRING, for example of the emulator.

import { DefaultAzureCredential } from "@azure/identity";
import { ServiceBusClient } from "@azure/service-bus";

const { SERVICEBUS_NAMESPACE, SERVICEBUS_CONNECTION_STRING, FLOW_WORKER_CLAIM, WORKER_SCOPE } = process.env;

/** Return a client for the namespace or connection string in the environment. */
export function connected() {
  if (SERVICEBUS_CONNECTION_STRING) return new ServiceBusClient(SERVICEBUS_CONNECTION_STRING);
  if (SERVICEBUS_NAMESPACE) return new ServiceBusClient(SERVICEBUS_NAMESPACE, new DefaultAzureCredential());
  throw new Error("Set SERVICEBUS_NAMESPACE or SERVICEBUS_CONNECTION_STRING.");
}

/** Return an access token for the worker: FLOW_WORKER_CLAIM, or one of this identity for WORKER_SCOPE. */
export async function claim() {
  if (FLOW_WORKER_CLAIM) return FLOW_WORKER_CLAIM.trim();
  if (!WORKER_SCOPE) throw new Error("Set WORKER_SCOPE, for example api://<client ID of the worker>/.default.");
  return (await new DefaultAzureCredential().getToken(WORKER_SCOPE)).token;
}
