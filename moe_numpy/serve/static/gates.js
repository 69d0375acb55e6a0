// One token: its experts in a layer with their gate weights, and how expected it was.

import { badge, barOf } from "./experts.js";
import { nameOf, visible } from "./tokens.js";

export function showToken(place, token, position, i, layer) {
  const head = document.createElement("p");
  const name = visible(token.token);
  name.classList.add("token-name");
  const facts = [`position ${position}`, `layer ${layer.layer}`];
  if (name.classList.contains("invisible")) facts.unshift(nameOf(token.token));
  if (token.loss !== null && token.loss !== undefined) {
    facts.push(`loss ${token.loss.toFixed(2)} nats, p = ${Math.exp(-token.loss).toPrecision(2)}`);
  }
  head.append(name, Object.assign(document.createElement("span"), { className: "hint", textContent: facts.join(" · ") }));
  place.replaceChildren(head, gates(token.experts[i], token.gates[i]));
}

function gates(experts, weights) {
  if (!experts.length) {
    const said = "∅ No expert took it: the residual connection carries it past this layer.";
    return Object.assign(document.createElement("p"), { textContent: said });
  }
  const list = document.createElement("ul");
  list.className = "bars";
  const most = Math.max(...weights, 1); // gate weights need not sum to 1
  experts.forEach((expert, n) => {
    const row = document.createElement("li");
    const figure = Object.assign(document.createElement("span"), { className: "figure", textContent: weights[n].toFixed(3) });
    row.append(badge(expert), barOf(expert, weights[n] / most), figure);
    list.append(row);
  });
  list.ariaLabel = "Experts and gate weights";
  return list;
}
