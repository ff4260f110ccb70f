// Bundles a front end of the gateway for a browser, with a stand-in for the sign-in: `node build-http.mjs FOLDER ENTRY OUTPUT`.
// The options are those of the folder's own esbuild.config.mjs.
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const [folder, entry, outfile] = process.argv.slice(2).map((path, index) => (index === 1 ? path : resolve(path)));
const { options } = await import(pathToFileURL(join(folder, "esbuild.config.mjs")));

await build({
  ...options,
  absWorkingDir: folder,
  entryPoints: [entry],
  outfile,
  minify: true,
  alias: {
    "@azure/msal-browser": here("msal.mjs"),
    "flow-worker-client": here("../../../clients/javascript/flow-client.js"),
  },
});
