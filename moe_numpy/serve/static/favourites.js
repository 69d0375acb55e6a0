// The favourite tokens of two experts side by side.

import { badge } from "./experts.js";
import { nameOf, visible } from "./tokens.js";

export class Favourites {
  constructor(place) {
    this.sides = ["First expert", "Second expert"].map((name, n) => new Side(place, name, n));
  }

  show(numExperts, update) {
    for (const side of this.sides) side.offer(numExperts, update);
  }

  update(tally, i) {
    for (const side of this.sides) side.update(tally, i);
  }
}

class Side {
  constructor(place, name, expert) {
    this.expert = expert;
    this.select = document.createElement("select");
    this.head = Object.assign(document.createElement("div"), { className: "row" });
    this.list = Object.assign(document.createElement("ul"), { className: "favourites" });
    this.list.ariaLabel = `Favourite tokens of the ${name.toLowerCase()}`;
    const label = Object.assign(document.createElement("label"), { textContent: `${name} ` });
    label.append(this.select);
    this.head.append(label, badge(expert));
    const side = document.createElement("div");
    side.append(this.head, this.list);
    place.append(side);
  }

  offer(numExperts, update) {
    this.expert = Math.min(this.expert, numExperts - 1);
    this.select.replaceChildren(...Array.from({ length: numExperts }, (_, e) => new Option(e, e)));
    this.select.value = this.expert;
    this.select.onchange = () => {
      this.expert = Number(this.select.value);
      update();
    };
  }

  update(tally, i) {
    this.head.lastChild.replaceWith(badge(this.expert));
    const found = tally.favourites(i, this.expert).map(({ token, lift, count }) => {
      const item = document.createElement("li");
      const figure = Object.assign(document.createElement("span"), { className: "hint", textContent: `×${lift.toFixed(1)}` });
      item.title = `${nameOf(token)}: ${count} times`;
      item.append(visible(token), figure);
      return item;
    });
    const none = Object.assign(document.createElement("li"), { className: "hint", textContent: "none yet" });
    this.list.replaceChildren(...(found.length ? found : [none]));
  }
}
