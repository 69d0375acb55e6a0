// Layers by experts: each layer's choices, as shares.

const NUMBERED = 16; // experts beside each other with a number in each cell

export class HeatMap {
  constructor(table, layers) {
    this.table = table;
    this.layers = layers;
    const most = Math.max(...layers.map((layer) => layer.num_experts));
    table.style.setProperty("--experts", most);
    table.classList.toggle("small", most > NUMBERED);
    const head = table.createTHead().insertRow();
    head.append(heading("Layer", "col"));
    const every = Math.ceil(most / NUMBERED);
    for (let e = 0; e < most; e++) head.append(heading(e % every ? "" : e, "col"));
    const body = table.createTBody();
    this.cells = layers.map((layer) => {
      const row = body.insertRow();
      row.append(heading(layer.layer, "row"));
      return Array.from({ length: layer.num_experts }, () => {
        const cell = row.insertCell();
        cell.append(document.createElement("span"));
        return cell;
      });
    });
  }

  update(tally, chosen, isOff) {
    const shares = this.cells.map((_, i) => tally.shares(i));
    const most = Math.max(...shares.flat(), 1e-9);
    this.cells.forEach((cells, i) => {
      cells[0].parentNode.classList.toggle("chosen", i === chosen);
      cells.forEach((cell, e) => {
        const share = shares[i][e];
        cell.style.setProperty("--share", (share / most).toFixed(3));
        cell.classList.toggle("off", isOff(i, e));
        cell.firstChild.textContent = tally.tokens ? Math.round(100 * share) : "";
        cell.title = `layer ${this.layers[i].layer}, expert ${e}: ${(100 * share).toFixed(1)} %`;
      });
    });
  }
}

function heading(text, scope) {
  return Object.assign(document.createElement("th"), { textContent: text, scope });
}
