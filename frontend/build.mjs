// Builds what browsers get from the sources beside this file: `make assets`.
// Written into the folder that is named, or into the package.

import { build } from "esbuild";
import { copyFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? path.join(here, "../django_leadexec/static/django_leadexec");

const options = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  // A file of its own, and the comment that names it: ManifestStaticFilesStorage knows both.
  sourcemap: "linked",
  // The source maps name their sources as beside what is built, wherever that is written.
  outdir: here,
  write: false,
  target: ["chrome111", "firefox113", "safari16.4"],
  logLevel: "warning",
};

const built = await Promise.all([
  build({
    ...options,
    entryPoints: [
      { in: "leadexec.js", out: "leadexec.min" },
      { in: "leadexec.css", out: "leadexec.min" },
    ],
    format: "iife",
  }),
  build({ ...options, entryPoints: [{ in: "module.js", out: "leadexec.esm" }], format: "esm" }),
]);
for (const file of built.flatMap((result) => result.outputFiles)) {
  await writeFile(path.join(target, path.basename(file.path)), file.contents);
}
// Beside the module, where TypeScript looks for its types.
await copyFile(path.join(here, "leadexec.esm.d.ts"), path.join(target, "leadexec.esm.d.ts"));
