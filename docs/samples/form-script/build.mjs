// Builds the web resource: `npm install`, then `node build.mjs`.
import { build } from "esbuild";
import { options } from "./esbuild.config.mjs";

await build({ ...options, entryPoints: ["quote-form.mjs"], outfile: "dist/quote-form.js", minify: true });
