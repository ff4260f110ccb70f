// Prints what the AsyncAPI parser finds wrong with a document, as JSON; exits 1 if any of it is an error.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const errors = diagnostics.filter(({ severity }) => severity === 0);
const told = diagnostics.map(({ code, message, path, severity }) => ({ code, message, path: path.join("."), severity }));
console.log(JSON.stringify({ valid: document !== undefined, diagnostics: told }, null, 2));
process.exit(document === undefined || errors.length ? 1 : 0);
