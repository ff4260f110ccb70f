// How esbuild bundles front-end.mjs for browsers.
export const options = {
  entryPoints: ["front-end.mjs"],
  outfile: "dist/front-end.mjs",
  bundle: true,
  minify: true,
  format: "esm",
  platform: "browser",
  target: "es2022",
  logLevel: "warning",
  // Replacements for Node modules, from the bundling documentation of @azure/service-bus.
  alias: { os: "os-browserify", path: "path-browserify", stream: "stream-browserify" },
  define: { global: "globalThis" },
  inject: ["node-globals.mjs"],
};
