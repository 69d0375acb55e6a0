// The text shown, with all that can be read off it, as a file that needs no server.

import { emptyPage } from "./server.js";

export async function savePage(model, tokens) {
  const written = tokens.findIndex((token) => token.written);
  const promptTokens = written < 0 ? tokens.length : written;
  const content = { model, texts: [{ name: "Text", prompt_tokens: promptTokens, tokens }] };
  const json = JSON.stringify(content).replaceAll("<", "\\u003c");
  const page = (await emptyPage()).replace('id="saved">null<', () => `id="saved">${json}<`);
  const url = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  Object.assign(document.createElement("a"), { href: url, download: `${model.name}.html` }).click();
  URL.revokeObjectURL(url);
}
