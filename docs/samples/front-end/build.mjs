// Bundles the front end and prints its size: `npm run build`.
import { stat } from "node:fs/promises";
import { build } from "esbuild";
import { options } from "./esbuild.config.mjs";

await build(options);
const { size } = await stat(options.outfile);
console.log(`${options.outfile}: ${Math.round(size / 1024)} KB`);
