// What routers are told: experts off, tokens pinned, another top-k. Each is shown with a button that takes it back.

import { nameOf } from "./tokens.js";

export class Changes {
  constructor(list, onChange) {
    Object.assign(this, { list, onChange });
    this.all = new Map();
  }

  get any() {
    return this.all.size > 0;
  }

  isOff(layer, expert) {
    return this.all.has(`off ${layer} ${expert}`);
  }

  switch(layer, expert) {
    const key = `off ${layer} ${expert}`;
    if (this.all.has(key)) this.#without(key);
    else this.#with(key, `layer ${layer}: expert ${expert} off`, { kind: "off", layer, expert });
  }

  pin(layer, position, token, expert) {
    const said = `layer ${layer}: ${nameOf(token)} at ${position} to expert ${expert}`;
    this.#with(`pinned ${layer} ${position}`, said, { kind: "pinned", layer, position, expert });
  }

  topK(layer, k, trained) {
    const key = `top_k ${layer}`;
    if (k === trained) this.#without(key);
    else this.#with(key, `layer ${layer}: top-${k}`, { kind: "top_k", layer, k });
  }

  topKOf(layer) {
    return this.all.get(`top_k ${layer}`)?.change.k;
  }

  // Positions are those of another text from now on.
  dropPins() {
    for (const [key, { change }] of this.all) if (change.kind === "pinned") this.all.delete(key);
    this.#draw();
  }

  clear() {
    this.all.clear();
    this.#changed();
  }

  // As the server's interface has them.
  request() {
    const of = (kind) => [...this.all.values()].map(({ change }) => change).filter((change) => change.kind === kind);
    return {
      off: of("off").map(({ layer, expert }) => ({ layer, experts: [expert] })),
      pinned: of("pinned").map(({ layer, position, expert }) => ({ layer, position, expert })),
      top_k: of("top_k").map(({ layer, k }) => ({ layer, k })),
    };
  }

  #with(key, said, change) {
    this.all.set(key, { said, change });
    this.#changed();
  }

  #without(key) {
    this.all.delete(key);
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.onChange();
  }

  #draw() {
    const items = [...this.all].map(([key, { said }]) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${said} ×` });
      button.ariaLabel = `Undo: ${said}`;
      button.addEventListener("click", () => {
        this.#without(key);
        (this.list.querySelector("button") ?? this.list).focus();
      });
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    this.list.replaceChildren(...items);
  }
}
