// Prints the findings of the AsyncAPI parser for a document as JSON. Exits with 1 if one of them is an error.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const errors = diagnostics.filter(({ severity }) => severity === 0); // 0 is Error in the parser's scale
const findings = diagnostics.map(({ code, message, path, severity }) => ({ code, message, path: path.join("."), severity }));
console.log(JSON.stringify({ valid: document !== undefined, diagnostics: findings }, null, 2));
process.exit(document === undefined || errors.length ? 1 : 0);
