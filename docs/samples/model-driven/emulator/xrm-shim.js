// A stand-in for the part of Power Apps' client API that quote-form.js uses. It calls the real paths of the Web API at
// its own origin, with the session's cookie, as a model-driven form does.
// Source: Microsoft Learn, "Xrm.WebApi.online.execute", "retrieveRecord", "retrieveMultipleRecords".

/** Return `Xrm` for the user of the session. `sets` names the entity set of each table. */
export async function connect(url, sets) {
  const api = `${url}/api/data/v9.2`;
  const { UserId } = await (await call("GET", `${api}/WhoAmI`)).json();

  const address = (table, suffix = "") => {
    if (!Object.hasOwn(sets, table)) throw failure(2147942402, `The table '${table}' is not in the metadata.`);
    return `${api}/${sets[table]}${suffix}`;
  };

  async function execute(request) {
    const own = Object.keys(request);
    if (own.includes("getMetadata")) throw failure(2147942402, "getMetadata is an own property: it is a parameter.");
    const { boundParameter, operationType, operationName, parameterTypes } = request.getMetadata();
    if (boundParameter !== null || operationType !== 0) throw failure(2147942402, "Only unbound actions.");
    const body = {};
    for (const name of own) {
      const type = parameterTypes[name];
      if (type?.structuralProperty !== 1) throw failure(2147942402, `'${name}' is no primitive parameter.`);
      body[name] = request[name];
    }
    return call("POST", `${api}/${operationName}`, body);
  }

  async function retrieveRecord(table, id, options = "") {
    return (await call("GET", address(table, `(${id.replace(/[{}]/g, "")})${encoded(options)}`))).json();
  }

  async function retrieveMultipleRecords(table, options = "", maxPageSize = 5000) {
    const prefer = { Prefer: `odata.maxpagesize=${maxPageSize}` };
    const page = await (await call("GET", address(table, encoded(options)), undefined, prefer)).json();
    return { entities: page.value, nextLink: page["@odata.nextLink"] };
  }

  return {
    WebApi: { online: { execute, retrieveRecord, retrieveMultipleRecords }, retrieveRecord, retrieveMultipleRecords },
    Utility: { getGlobalContext: () => ({ userSettings: { userId: `{${UserId.toUpperCase()}}` } }) },
  };
}

async function call(method, address, body, headers = {}) {
  const answer = await fetch(address, {
    method,
    headers: { Accept: "application/json", "OData-Version": "4.0", "OData-MaxVersion": "4.0", ...json(body), ...headers },
    body: body && JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const { code, message } = (await answer.json()).error;
  throw failure(Number(code), message);
}

const json = (body) => (body ? { "Content-Type": "application/json; charset=utf-8" } : {});
const encoded = (options) => options.replace(/ /g, "%20");

/** Power Apps rejects with an object whose `errorCode` is a positive number. */
function failure(errorCode, message) {
  return { errorCode, message };
}
