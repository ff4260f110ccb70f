// Bundles page.mjs with the unmodified docs/samples/front-end.mjs for a browser: `node build.mjs OUTPUT`.
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
  nodePaths: [here("../node_modules")], // there are no packages beside the sample
  // Replacements for Node modules, from the bundling documentation of @azure/service-bus.
  alias: {
    os: "os-browserify",
    path: "path-browserify",
    stream: "stream-browserify",
    "@azure/identity": here("identity.mjs"),
  },
  define: { global: "globalThis" },
  inject: [here("node-globals.mjs")],
});
