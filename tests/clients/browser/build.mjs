// Bundles page.mjs, with docs/samples/front-end.mjs as it stands, for a browser: `node build.mjs OUTPUT`.
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

await build({
  entryPoints: [here("page.mjs")],
  outfile: process.argv[2],
  bundle: true,
  format: "iife",
  platform: "browser",
  logLevel: "warning",
  nodePaths: [here("../node_modules")], // the sample lies where there are none
  // What @azure/service-bus needs of Node, as its documentation tells those who bundle it.
  alias: {
    os: "os-browserify",
    path: "path-browserify",
    stream: "stream-browserify",
    "@azure/identity": here("identity.mjs"),
  },
  define: { global: "globalThis" },
  inject: [here("node-globals.mjs")],
});
