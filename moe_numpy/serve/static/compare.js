// A text as the model was trained and with changes: the loss of each token, and what is written after it.

import { TokenStrip } from "./tokens.js";

const SHADES = 1.5; // nats that give the full colour
const SEEN = 0.05; // nats from which a difference is marked

const element = (id) => document.getElementById(id);
const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

export class Comparison {
  constructor() {
    this.differences = [];
    this.strip = new TokenStrip(
      element("differences"),
      (chip, token, n) => this.#mark(chip, n),
      (n) => this.#tell(n),
    );
  }

  hide() {
    element("compared").hidden = true;
  }

  show(before, after) {
    element("compared").hidden = false;
    const tokens = before.tokens.slice(0, before.prompt_tokens);
    this.before = tokens;
    this.after = after.tokens;
    this.differences = tokens.map((token, n) => (token.loss === null ? 0 : after.tokens[n].loss - token.loss));
    this.strip.clear();
    for (const token of tokens) this.strip.add(token);
    const difference = (after.mean_loss ?? 0) - (before.mean_loss ?? 0);
    element("loss-before").textContent = before.mean_loss?.toFixed(3) ?? "none";
    element("loss-after").textContent = after.mean_loss?.toFixed(3) ?? "none";
    element("loss-difference").textContent = signed(difference, 3);
    element("loss-difference").className = difference > 0 ? "worse" : "better";
    element("difference").textContent = "▲ is less expected than before, ▼ more expected.";
    element("continuations").hidden = !before.text && !after.text;
    element("text-before").textContent = before.text;
    element("text-after").replaceChildren(...marked(before.text, after.text));
    return signed(difference);
  }

  #mark(chip, n) {
    const difference = this.differences[n];
    const part = Math.min(Math.abs(difference) / SHADES, 1);
    const colour = difference > 0 ? "var(--worse)" : "var(--better)";
    chip.className = "difference";
    chip.style.setProperty("--colour", `color-mix(in oklab, ${colour} ${Math.round(100 * part)}%, var(--paper))`);
    chip.textContent = Math.abs(difference) < SEEN ? "·" : difference > 0 ? "▲" : "▼";
    return `loss ${signed(difference)}`;
  }

  #tell(n) {
    const [before, after] = [this.before[n].loss, this.after[n].loss];
    const losses = () => `loss ${before.toFixed(2)} → ${after.toFixed(2)}, ${signed(after - before)} nats`;
    element("difference").textContent = `Position ${n}: ${before === null ? "the first token has no loss" : losses()}.`;
  }
}

// The second text, marked from where it departs from the first.
function marked(before, after) {
  const [a, b] = [[...before], [...after]];
  let same = 0;
  while (same < b.length && a[same] === b[same]) same++;
  const rest = Object.assign(document.createElement("mark"), { textContent: b.slice(same).join("") });
  return [b.slice(0, same).join(""), ...(rest.textContent ? [rest] : [])];
}
