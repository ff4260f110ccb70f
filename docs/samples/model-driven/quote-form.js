// The script of a model-driven form: a command calls the Custom API new_StartQuote and shows the row of its result.
// The browser gets no token and no right on Service Bus: the form's session is all that this script uses.
// - Add this file as the web resource new_quote_form.js. It needs no build.
// - The event OnLoad of the form calls QuoteForm.onLoad, with the execution context as its first parameter.
// - A command of the command bar calls QuoteForm.createQuote, with PrimaryControl as its parameter.
var QuoteForm = (function () {
  "use strict";

  const TABLE = "new_flowrequest";
  const COLUMNS = "new_status,new_output,new_code,new_message,new_settledby";
  const NOTICE = "quote";
  const FIRST_PAUSE_SECONDS = 0.5;
  const MAX_PAUSE_SECONDS = 10;
  const MAX_WAIT_SECONDS = 600;
  const busy = new Set();

  class StartQuote {
    constructor(customer, amount) {
      this.customer = customer;
      this.amount = amount;
    }

    // Xrm.WebApi wants this on the prototype: own properties are the parameters of the call.
    getMetadata() {
      return {
        boundParameter: null,
        operationType: 0,
        operationName: "new_StartQuote",
        parameterTypes: {
          customer: { typeName: "Edm.String", structuralProperty: 1 },
          amount: { typeName: "Edm.Decimal", structuralProperty: 1 },
        },
      };
    }
  }

  /** Find a request again that the form started before a reload. */
  function onLoad(event) {
    const form = event.getFormContext();
    const correlationId = sessionStorage.getItem(slotOf(form));
    return correlationId === null ? Promise.resolve() : once(form, () => show(form, correlationId));
  }

  /** Start the flow for the values of the form, and write its quote into the form. */
  function createQuote(form) {
    return once(form, async () => {
      const valueOf = (column) => form.getAttribute(column).getValue();
      notify(form, "The quote is being requested.", "INFO");
      const answer = await Xrm.WebApi.online.execute(new StartQuote(valueOf("new_customer"), valueOf("new_amount")));
      const { CorrelationId } = await answer.json();
      sessionStorage.setItem(slotOf(form), CorrelationId);
      await show(form, CorrelationId);
    });
  }

  /** Wait for the end of the request, and show it. */
  async function show(form, correlationId) {
    // The text goes into a query, and other scripts of the origin can change the session storage.
    if (!/^[0-9a-f-]{36}$/i.test(correlationId)) {
      sessionStorage.removeItem(slotOf(form));
      throw new Error("The form remembers no valid request.");
    }
    notify(form, "The quote is being made.", "INFO");
    const row = await ended(correlationId);
    if (row === null) {
      notify(form, "The quote takes longer. Open the form again later.", "WARNING");
      return;
    }
    if (row.new_status === "unknown") {
      // The worker may settle this result later. So the form looks for it again when it is loaded.
      notify(form, `Nobody knows whether the quote was made. ${row.new_message}`, "WARNING");
      return;
    }
    sessionStorage.removeItem(slotOf(form));
    if (row.new_status !== "succeeded") {
      notify(form, `${row.new_message} (${row.new_code})`, "ERROR");
    } else if (row.new_output === null) {
      notify(form, "The quote was made. Its number is not in the record of the run.", "WARNING");
    } else {
      form.getAttribute("new_quotenumber").setValue(JSON.parse(row.new_output).quote);
      form.ui.clearFormNotification(NOTICE);
    }
  }

  /** Return the row of the request once its status is not "pending"; null after MAX_WAIT_SECONDS. */
  async function ended(correlationId) {
    const deadline = Date.now() + MAX_WAIT_SECONDS * 1000;
    let id = null;
    for (let seconds = FIRST_PAUSE_SECONDS; Date.now() < deadline; seconds = Math.min(seconds * 1.5, MAX_PAUSE_SECONDS)) {
      id = id || (await rowOf(correlationId));
      if (id !== null) {
        const row = await Xrm.WebApi.retrieveRecord(TABLE, id, `?$select=${COLUMNS}`);
        if (row.new_status !== "pending") return row;
      }
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
    return null;
  }

  /** Return the ID of the user's row with this correlation ID; null before the worker has taken the request. */
  async function rowOf(correlationId) {
    const user = Xrm.Utility.getGlobalContext().userSettings.userId.replace(/[{}]/g, "");
    // A user with a greater read privilege sees rows of others. Only the user's own row counts.
    const filter = `new_correlationid eq '${correlationId}' and _ownerid_value eq ${user}`;
    const query = `?$select=${TABLE}id&$filter=${filter}&$orderby=createdon asc&$top=1`;
    const { entities } = await Xrm.WebApi.retrieveMultipleRecords(TABLE, query);
    return entities.length === 0 ? null : entities[0][`${TABLE}id`];
  }

  /** Do one thing at a time for each row, so that a second click starts no second flow. */
  async function once(form, action) {
    const slot = slotOf(form);
    if (busy.has(slot)) return;
    busy.add(slot);
    try {
      await action();
    } catch (error) {
      notify(form, error.message, "ERROR");
    } finally {
      busy.delete(slot);
    }
  }

  function slotOf(form) {
    return `quote of ${form.data.entity.getId()}`;
  }

  function notify(form, text, level) {
    form.ui.setFormNotification(text, level, NOTICE);
  }

  return { onLoad, createQuote };
})();
