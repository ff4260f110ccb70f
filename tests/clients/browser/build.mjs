// Bundles for a browser, with a stand-in for the sign-in and with the emulator in place of the namespace:
// `node build.mjs page OUTPUT` the scenarios of page.mjs; `node build.mjs sample OUTPUT` the sample as its project does.
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { options } from "../../../docs/samples/front-end/esbuild.config.mjs";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const sample = here("../../../docs/samples/front-end");
const [what, outfile] = process.argv.slice(2);

await build({
  ...options,
  absWorkingDir: sample,
  entryPoints: [what === "page" ? here("page.mjs") : "front-end.mjs"],
  outfile,
  minify: what === "sample",
  nodePaths: [here("../node_modules")], // so that the page needs no packages beside the sample
  alias: { ...options.alias, "@azure/identity": here("identity.mjs") },
  inject: [...options.inject, here("websocket.mjs")],
});
