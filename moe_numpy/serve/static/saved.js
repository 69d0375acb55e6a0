// A saved page: the model and texts that were routed stand in the file.

import { Reading } from "./reading.js";
import { offerThemes } from "./theme.js";

const { model, texts } = JSON.parse(document.getElementById("saved").textContent);
const choice = document.getElementById("saved-texts");
const reading = new Reading(model);

function show() {
  const { tokens, prompt_tokens } = texts[choice.selectedIndex];
  reading.clear();
  tokens.forEach((token, n) => reading.add({ ...token, written: n >= prompt_tokens }));
  if (tokens.length) reading.strip.select(0);
}

offerThemes(document.getElementById("theme"));
for (const { name, tokens } of texts) {
  choice.append(new Option(name));
  for (const token of tokens) reading.read.add(token);
}
choice.addEventListener("change", show);
show();
