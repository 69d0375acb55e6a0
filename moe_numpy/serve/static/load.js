// The experts of a layer with their load, each with a switch where somebody listens.

import { badge, barOf, percent } from "./experts.js";

export class ExpertList {
  constructor(list, onSwitch) {
    Object.assign(this, { list, onSwitch });
    this.rows = [];
  }

  show(layer) {
    this.rows = Array.from({ length: layer.num_experts }, (_, expert) => {
      const row = document.createElement("li");
      const bar = barOf(expert, 0);
      const figure = Object.assign(document.createElement("span"), { className: "figure" });
      row.append(this.onSwitch ? this.#switch(layer, expert) : badge(expert), bar, figure);
      return row;
    });
    this.list.replaceChildren(...this.rows);
  }

  update(shares, isOff) {
    const most = Math.max(...shares, 2 / shares.length);
    this.list.style.setProperty("--fair", 1 / shares.length / most);
    this.rows.forEach((row, expert) => {
      const [first, bar, figure] = row.children;
      const off = isOff(expert);
      row.classList.toggle("off", off);
      bar.firstChild.style.width = `${(100 * shares[expert]) / most}%`;
      figure.textContent = off ? "off" : percent(shares[expert]);
      if (this.onSwitch) first.ariaChecked = String(!off);
    });
  }

  #switch(layer, expert) {
    const button = document.createElement("button");
    button.type = "button";
    button.role = "switch";
    button.ariaLabel = `Expert ${expert} of layer ${layer.layer}`;
    button.append(badge(expert));
    button.addEventListener("click", () => this.onSwitch(expert));
    return button;
  }
}
