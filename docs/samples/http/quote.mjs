// Starts the flow "create-quote" through the HTTP gateway with `fetch` alone, and prints its output.
// On Node: GATEWAY=https://flows.contoso.com TOKEN=… node quote.mjs Contoso 125. In a page MSAL gives the token.
const { GATEWAY, TOKEN } = process.env;
const [customer, amount] = process.argv.slice(2);

const headers = { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" };
const key = { "Idempotency-Key": `"${crypto.randomUUID()}"` }; // keep it, and repeat the call with it after an error
const body = JSON.stringify({ customer, amount: Number(amount) });
const post = { method: "POST", headers: { ...headers, ...key }, body };
let answer = await fetch(`${GATEWAY}/v1/flows/create-quote/requests`, post);
const location = answer.headers.get("Location");
while (answer.status === 202) answer = await fetch(`${location}?wait=25`, { headers });
const result = await answer.json();
if (!answer.ok) throw new Error(`${result.code}: ${result.detail}`);
if (result.status !== "succeeded") throw new Error(`${result.status}: ${result.error.code}`);
console.log(JSON.stringify(result.output));
