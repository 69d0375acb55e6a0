// The page of a server: write, read, change the routing, compare.

import { Changes } from "./changes.js";
import { Comparison } from "./compare.js";
import { percent } from "./experts.js";
import { readFile } from "./long_text.js";
import { Reading } from "./reading.js";
import { savePage } from "./saving.js";
import { Refusal, describe, look, setKey, write } from "./server.js";
import { Tally } from "./tally.js";
import { offerThemes } from "./theme.js";

const SHOWN = "the text shown";
const element = (id) => document.getElementById(id);
const on = (id, event, act) => element(id).addEventListener(event, act);

let model, reading, changes, comparison;
let shown = null; // what the tokens on the page were made of
let running = new AbortController();
let comparing = new AbortController();

offerThemes(element("theme"));
on("key-form", "submit", (event) => {
  event.preventDefault();
  setKey(element("key").value);
  start();
});
start();

async function start() {
  try {
    model = await describe();
  } catch (error) {
    if (error.status !== 401) return tellProblem(error);
    if (!element("key-form").hidden) tellProblem(error);
    element("key-form").hidden = false;
    return element("key").focus();
  }
  element("key-form").hidden = true;
  element("problem").hidden = true;
  if (!model.sparse_layers.length) return tellProblem(new Refusal(0, "this model is dense: it has no experts to look at"));
  comparison = new Comparison();
  changes = new Changes(element("changes"), changed);
  reading = new Reading(model, {
    isOff: (i, expert) => changes.isOff(reading.layers[i].layer, expert),
    onSwitch: (expert) => changes.switch(reading.layer.layer, expert),
    onLayer: offerExperts,
    onToken: () => (element("pin-form").hidden = reading.strip.tokens[reading.strip.selected]?.written !== false),
  });
  element("count").max = model.most_tokens;
  await read();
  document.body.dataset.ready = "";
}

function read() {
  return run(async (signal) => {
    const { tokens } = await look({ text: shown.text }, signal);
    for (const token of tokens) add({ ...token, written: false });
  });
}

on("prompt-form", "submit", (event) => {
  event.preventDefault();
  run(async (signal) => {
    const { text, tokens, temperature, seed } = shown;
    const request = { model: model.name, prompt: text, max_tokens: tokens, temperature, seed };
    for await (const token of write(request, signal)) {
      signal.throwIfAborted();
      add(token);
    }
  });
});
on("read", "click", read);
on("stop", "click", () => running.abort());
on("prompt", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("prompt-form").requestSubmit();
});
on("reset", "click", () => {
  changes.clear();
  element("changes").focus();
});
on("top-k", "change", () => {
  if (element("top-k").reportValidity()) changes.topK(reading.layer.layer, element("top-k").valueAsNumber, reading.layer.top_k);
});
on("pin-form", "submit", (event) => {
  event.preventDefault();
  const position = reading.strip.selected;
  changes.pin(reading.layer.layer, position, reading.strip.tokens[position].token, Number(element("pin-expert").value));
});
on("file", "change", async () => {
  const [file] = element("file").files;
  if (!file) return;
  const tally = new Tally(reading.layers);
  const tell = (part) => (element("file-progress").textContent = `${Math.round(100 * part)} % read`);
  await guarded(() => readFile(file, model, (token) => tally.add(token), tell));
  reading.offerSource(file.name, tally);
  reading.chooseSource(file.name);
  element("file-progress").textContent = `${tally.tokens.toLocaleString("en")} tokens of ${file.name} read`;
});
on("save", "click", () => guarded(() => savePage(model, reading.strip.tokens)));

// A text begins: take what the form says, and let act() add its tokens.
async function run(act) {
  if (!reading || !element("prompt-form").reportValidity()) return;
  running.abort();
  const mine = (running = new AbortController());
  const [tokens, temperature, seed] = ["count", "temperature", "seed"].map((id) => element(id).valueAsNumber);
  shown = { text: element("prompt").value, tokens, temperature, seed, tally: new Tally(reading.layers) };
  reading.clear();
  reading.offerSource(SHOWN, shown.tally);
  changes.dropPins();
  comparison.hide();
  element("stop").ariaDisabled = "false";
  await guarded(() => act(mine.signal));
  if (running !== mine) return;
  element("stop").ariaDisabled = "true";
  say(`${reading.strip.length} tokens.`);
  await changed();
}

function add(token) {
  shown.tally.add(token);
  reading.read.add(token);
  reading.add(token);
}

// Read and continue the text again, as trained and with the changes.
async function changed() {
  element("changes-empty").hidden = changes.any;
  element("reset").hidden = !changes.any;
  comparison.hide();
  offerTopK(reading.layer);
  reading.refresh();
  comparing.abort();
  const mine = (comparing = new AbortController());
  element("comparing").hidden = true;
  if (!changes.any || !shown) return tellCache();
  const { text, tokens, temperature, seed } = shown;
  const asked = { text, tokens, temperature, seed };
  element("comparing").hidden = false;
  await guarded(async () => {
    shown.before ??= await look(asked, mine.signal);
    const after = await look({ ...asked, ...changes.request() }, mine.signal);
    const difference = comparison.show(shown.before, after);
    say(`The changes alter the loss by ${difference} nats per token.`);
  });
  if (comparing !== mine) return;
  element("comparing").hidden = true;
  await tellCache();
}

function offerExperts(layer) {
  element("pin-expert").replaceChildren(...Array.from({ length: layer.num_experts }, (_, e) => new Option(e, e)));
  offerTopK(layer);
}

function offerTopK({ layer, num_experts, top_k, top_k_can_change }) {
  const input = element("top-k");
  input.max = num_experts;
  input.value = changes.topKOf(layer) ?? top_k ?? "";
  input.disabled = !top_k_can_change;
}

async function tellCache() {
  const { layers } = await describe();
  const caches = layers.map((layer) => layer.cache).filter(Boolean);
  const sum = (name) => caches.reduce((total, cache) => total + cache[name], 0);
  element("cache").hidden = !caches.length;
  const rate = percent(sum("hits") / Math.max(sum("requests"), 1));
  element("cache").textContent = `${rate} of the experts asked for were in memory.`;
}

// An error is told on the page; one that comes from stopping is none.
async function guarded(act) {
  tellProblem(null);
  try {
    await act();
  } catch (error) {
    if (error.name !== "AbortError") tellProblem(error);
  }
}

function tellProblem(error) {
  element("problem").hidden = error === null;
  element("problem").textContent = error?.message ?? "";
}

function say(text) {
  element("said").textContent = text;
}
