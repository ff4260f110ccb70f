// The script of a model-driven form: a command starts the flow "create-quote" and writes its quote into the form.
// `node build.mjs` makes the web resource dist/quote-form.js, with the global object `QuoteForm`.
// - The event OnLoad of the form calls QuoteForm.onLoad, with the execution context as its first parameter.
// - A command of the command bar calls QuoteForm.createQuote, with PrimaryControl as its parameter.
import { outputOf, resumeFlow, startFlow, waitForResult } from "flow-worker-client";
import { token } from "./sign-in.mjs";

const gateway = "https://flows.contoso.com";
const NOTICE = "quote";

/** Find a request again that the form started before a reload. */
export function onLoad(event) {
  return show(event.getFormContext(), resumeFlow);
}

export function createQuote(form) {
  const valueOf = (column) => form.getAttribute(column).getValue();
  const input = { customer: valueOf("new_customer"), amount: valueOf("new_amount") };
  return show(form, (options) => startFlow("create-quote", input, options));
}

/** Begin a request, show its states as a notice of the form, and write the quote. */
async function show(form, begin) {
  const notify = (text, level) => form.ui.setFormNotification(text, level, NOTICE);
  // A slot for each row: a user may open several forms in one tab after the other.
  const options = { gateway, token, storage: sessionStorage, slot: `quote of ${form.data.entity.getId()}` };
  try {
    const request = await begin(options);
    if (request === null) return;
    const onState = ({ text }) => notify(text, "INFO");
    const { quote } = outputOf(await waitForResult(request, { ...options, onState }));
    form.getAttribute("new_quotenumber").setValue(quote);
    form.ui.clearFormNotification(NOTICE);
  } catch (error) {
    notify(error.message, "ERROR");
  }
}
