// What can be read off a text that has been routed: the same on the server's page and in a saved file.

import { Favourites } from "./favourites.js";
import { showToken } from "./gates.js";
import { HeatMap } from "./heatmap.js";
import { ExpertList } from "./load.js";
import { paintExpert } from "./experts.js";
import { Tally } from "./tally.js";
import { TokenStrip } from "./tokens.js";

const element = (id) => document.getElementById(id);

export class Reading {
  // changes: what was switched off, and onSwitch(expert), where the model can be told.
  constructor(model, { isOff = () => false, onSwitch, onLayer = () => {}, onToken = () => {} } = {}) {
    this.layers = model.layers.filter((layer) => layer.kind === "sparse");
    Object.assign(this, { isOff, onLayer, onToken });
    this.i = 0; // of the layer shown
    this.read = new Tally(this.layers);
    this.source = this.read;
    this.strip = new TokenStrip(element("tokens"), (chip, token) => this.#mark(chip, token), (n) => this.#showToken(n));
    this.heat = new HeatMap(element("heat"), this.layers);
    this.experts = new ExpertList(element("experts"), onSwitch);
    this.favourites = new Favourites(element("favourites"));
    this.sources = new Map();
    this.offerSource("everything read", this.read);
    element("model").textContent = inWords(model, this.layers);
    element("layer").max = this.layers.length - 1;
    element("layer").addEventListener("input", () => this.showLayer(element("layer").valueAsNumber));
    element("source").addEventListener("change", () => this.chooseSource(element("source").value));
    this.showLayer(Math.floor((this.layers.length - 1) / 2));
  }

  get layer() {
    return this.layers[this.i];
  }

  showLayer(i) {
    this.i = i;
    const slider = element("layer");
    slider.value = i;
    slider.setAttribute("aria-valuetext", `layer ${this.layer.layer}`);
    element("layer-name").textContent = this.layer.layer;
    for (const place of document.querySelectorAll(".layer-number")) place.textContent = this.layer.layer;
    this.experts.show(this.layer);
    this.favourites.show(this.layer.num_experts, () => this.favourites.update(this.source, this.i));
    this.strip.markAll();
    if (this.strip.selected >= 0) this.#showToken(this.strip.selected);
    this.onLayer(this.layer);
    this.refresh();
  }

  clear() {
    this.strip.clear();
    element("tokens-empty").hidden = true;
    element("tokens-hint").hidden = false;
    const none = Object.assign(document.createElement("p"), { className: "hint", textContent: "No token yet." });
    element("token").replaceChildren(none);
    this.onToken();
  }

  add(token) {
    this.strip.add(token);
    this.refresh();
  }

  // Draw what depends on counts, once before the next frame.
  refresh() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.heat.update(this.read, this.i, this.isOff);
      this.experts.update(this.read.shares(this.i), (expert) => this.isOff(this.i, expert));
      this.favourites.update(this.source, this.i);
      this.#tellLoss();
      this.#follow();
    });
  }

  offerSource(name, tally) {
    if (!this.sources.has(name)) element("source").append(new Option(name, name));
    this.sources.set(name, tally);
    if (element("source").value === name) this.chooseSource(name);
  }

  chooseSource(name) {
    element("source").value = name;
    this.source = this.sources.get(name);
    this.refresh();
  }

  #mark(chip, token) {
    const expert = token.experts[this.i][0];
    paintExpert(chip, expert);
    chip.textContent = expert ?? "∅";
    return expert === undefined ? "no expert" : `expert ${expert}, gate ${token.gates[this.i][0].toFixed(2)}`;
  }

  #showToken(position) {
    showToken(element("token"), this.strip.tokens[position], position, this.i, this.layer);
    this.onToken();
  }

  // Until a token is chosen, the latest one is shown.
  #follow() {
    const { length, selected, tokens, list } = this.strip;
    if (!length || selected >= 0) return;
    this.#showToken(length - 1);
    if (tokens[length - 1].written) list.scrollTop = list.scrollHeight;
  }

  #tellLoss() {
    const losses = this.strip.tokens.map((token) => token.loss).filter((loss) => loss !== null);
    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    const said = losses.length ? `, loss ${mean.toFixed(3)} nats per token` : "";
    element("text-loss").textContent = `${this.strip.length} tokens${said}.`;
  }
}

function inWords(model, layers) {
  const each = [...new Set(layers.map((layer) => layer.num_experts))].join(" or ");
  const chosen = [...new Set(layers.map((layer) => layer.selection))].join(" or ");
  const plural = layers.length === 1 ? "layer" : "layers";
  return `${model.name}: ${layers.length} ${plural} of ${each} experts, ${chosen}`;
}
