// Creates the table, its columns, the Custom API and the step through the Web API of an organization. Node 20 or later.
//
//   export DATAVERSE_URL="https://contoso.crm4.dynamics.com"
//   export DATAVERSE_TOKEN="$(az account get-access-token --resource "$DATAVERSE_URL" --query accessToken --output tsv)"
//   node create.mjs table          then `api`, and at last `step "NAME OF THE SERVICE ENDPOINT"`
//
// Each command may be repeated: it leaves what exists as it is. Set SOLUTION to the unique name of a solution to add
// everything to it. The token is that of a System Customizer.
import { readFile } from "node:fs/promises";

const url = `${process.env.DATAVERSE_URL.replace(/\/$/, "")}/api/data/v9.2/`;
const solution = process.env.SOLUTION ? { "MSCRM.SolutionUniqueName": process.env.SOLUTION } : {};

async function call(method, path, body) {
  const answer = await fetch(url + path, {
    method,
    headers: {
      Authorization: `Bearer ${process.env.DATAVERSE_TOKEN}`,
      Accept: "application/json",
      "Content-Type": "application/json",
      "OData-Version": "4.0",
      "OData-MaxVersion": "4.0",
      ...solution,
    },
    body: body && JSON.stringify(body),
    redirect: "error",
  });
  if (method === "GET" && answer.status === 404) return null;
  if (!answer.ok) throw new Error(`${method} ${path}: HTTP ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

const definition = async (name) => JSON.parse(await readFile(new URL(`definitions/${name}.json`, import.meta.url)));
const first = async (path) => (await call("GET", path)).value[0] ?? null;

async function create(name, path, body, existing) {
  if (existing !== null) return console.log(`${name} exists.`);
  await call("POST", path, body);
  console.log(`${name} is created.`);
}

const commands = {
  async table() {
    const table = await definition("table");
    const path = `EntityDefinitions(LogicalName='${table.SchemaName.toLowerCase()}')`;
    await create(table.SchemaName, "EntityDefinitions", table, await call("GET", `${path}?$select=LogicalName`));
    for (const column of await definition("columns")) {
      const existing = `${path}/Attributes(LogicalName='${column.SchemaName.toLowerCase()}')?$select=LogicalName`;
      await create(column.SchemaName, `${path}/Attributes`, column, await call("GET", existing));
    }
    await call("POST", "PublishAllXml", {});
  },

  // Register the assembly with ReturnCorrelationId first: it answers the call.
  async api() {
    const api = await definition("custom-api");
    const type = await first("plugintypes?$select=plugintypeid&$filter=typename eq 'ReturnCorrelationId'");
    if (type === null) throw new Error("Register the assembly with the plug-in ReturnCorrelationId first.");
    const existing = await first(`customapis?$select=customapiid&$filter=uniquename eq '${api.uniquename}'`);
    const body = { ...api, "PluginTypeId@odata.bind": `/plugintypes(${type.plugintypeid})` };
    await create(api.uniquename, "customapis", body, existing);
  },

  async step(endpointName) {
    const { uniquename } = await definition("custom-api");
    const step = await definition("step");
    const name = String(endpointName).replaceAll("'", "''");
    const endpoint = await first(`serviceendpoints?$select=serviceendpointid&$filter=name eq '${name}'`);
    if (endpoint === null) throw new Error(`There is no service endpoint '${endpointName}'. Register it first.`);
    const message = await first(`sdkmessages?$select=sdkmessageid&$filter=name eq '${uniquename}'`);
    if (message === null) throw new Error(`There is no message '${uniquename}'. Create the Custom API first.`);
    const steps = "sdkmessageprocessingsteps";
    const existing = await first(`${steps}?$select=${steps.slice(0, -1)}id&$filter=name eq '${step.name}'`);
    const body = {
      ...step,
      "sdkmessageid@odata.bind": `/sdkmessages(${message.sdkmessageid})`,
      "eventhandler_serviceendpoint@odata.bind": `/serviceendpoints(${endpoint.serviceendpointid})`,
    };
    await create(step.name, steps, body, existing);
  },
};

const [command, argument] = process.argv.slice(2);
if (!Object.hasOwn(commands, command ?? "")) {
  console.error("Usage: node create.mjs table | api | step NAME");
  process.exit(2);
}
await commands[command](argument);
