// A text as a row of tokens, to point at and to walk through with the arrow keys.

const NAMES = {
  " ": ["␣", "space"],
  "\n": ["↵", "newline"],
  "\t": ["⇥", "tab"],
  "\r": ["␍", "return"],
  "\ufffd": ["�", "part of a character"],
};

export const nameOf = (text) => NAMES[text]?.[1] ?? (text === "" ? "nothing" : text);

// The text of a token where everything must be visible.
export function visible(text) {
  const made = document.createElement("span");
  made.className = NAMES[text] ? "said invisible" : "said";
  made.textContent = NAMES[text]?.[0] ?? (text.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅");
  return made;
}

export class TokenStrip {
  // mark(chip, token, position) draws what stands below a token and returns it in words; show(position) tells of one.
  constructor(list, mark, show) {
    Object.assign(this, { list, mark, show });
    list.addEventListener("keydown", (event) => this.#walk(event));
    list.addEventListener("focus", () => {
      if (this.length && this.selected < 0 && list.matches(":focus-visible")) this.select(0);
    });
    list.addEventListener("click", (event) => this.#at(event, (position) => this.select(position)));
    list.addEventListener("mouseover", (event) => this.#at(event, (position) => this.show(position)));
    list.addEventListener("mouseleave", () => this.selected >= 0 && this.show(this.selected));
    this.clear();
  }

  get length() {
    return this.tokens.length;
  }

  clear() {
    this.list.replaceChildren();
    this.list.tabIndex = 0;
    this.list.removeAttribute("aria-activedescendant");
    this.options = [];
    this.tokens = [];
    this.selected = -1;
  }

  add(token) {
    const option = document.createElement("span");
    const chip = document.createElement("span");
    option.className = token.written ? "token written" : "token";
    option.role = "option";
    option.id = `${this.list.id}-${this.length}`;
    option.ariaSelected = "false";
    option.append(visible(token.token), chip);
    this.list.append(option);
    if (token.token.includes("\n")) this.list.append(document.createElement("br"));
    this.options.push(option);
    this.tokens.push(token);
    this.#mark(this.length - 1);
  }

  markAll() {
    this.options.forEach((_, position) => this.#mark(position));
  }

  select(position) {
    if (this.options[this.selected]) this.options[this.selected].ariaSelected = "false";
    this.selected = position;
    this.options[position].ariaSelected = "true";
    this.list.setAttribute("aria-activedescendant", this.options[position].id);
    this.options[position].scrollIntoView({ block: "nearest" });
    this.show(position);
  }

  #mark(position) {
    const option = this.options[position];
    const words = this.mark(option.lastChild, this.tokens[position], position);
    option.ariaLabel = `${nameOf(this.tokens[position].token)}, ${words}`;
  }

  #at(event, act) {
    const position = this.options.indexOf(event.target.closest(".token"));
    if (position >= 0) act(position);
  }

  #walk(event) {
    const to = {
      ArrowRight: () => this.selected + 1,
      ArrowLeft: () => this.selected - 1,
      ArrowDown: () => this.#line(1),
      ArrowUp: () => this.#line(-1),
      Home: () => 0,
      End: () => this.length - 1,
    }[event.key];
    if (!to || !this.length) return;
    event.preventDefault();
    this.select(Math.min(Math.max(to(), 0), this.length - 1));
  }

  // The token nearest to the selected one in the line below or above it.
  #line(step) {
    const place = (option) => option.getBoundingClientRect();
    const from = place(this.options[this.selected]);
    for (let row, best, i = this.selected + step; ; i += step) {
      const at = this.options[i] && place(this.options[i]);
      if (!at || (row !== undefined && at.top !== row)) return best ?? this.selected;
      if (at.top === from.top) continue;
      row = at.top;
      if (best === undefined || Math.abs(at.left - from.left) < Math.abs(place(this.options[best]).left - from.left)) best = i;
    }
  }
}
