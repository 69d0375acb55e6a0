// How an expert looks: a colour of Okabe and Ito (2008), a pattern once they are used up, and always its number.

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"];
const PATTERNS = ["plain", "striped", "barred", "ruled"];

export function paintExpert(element, expert) {
  element.classList.add("expert");
  if (expert === undefined) {
    element.style.removeProperty("--colour");
    element.dataset.pattern = "none";
    return;
  }
  element.style.setProperty("--colour", COLOURS[expert % COLOURS.length]);
  element.dataset.pattern = PATTERNS[Math.floor(expert / COLOURS.length) % PATTERNS.length];
}

export function badge(expert) {
  const made = document.createElement("span");
  made.className = "badge";
  made.textContent = expert ?? "∅";
  paintExpert(made, expert);
  return made;
}

export function barOf(expert, share) {
  const bar = document.createElement("span");
  const filled = document.createElement("span");
  bar.className = "bar";
  filled.style.width = `${100 * share}%`;
  paintExpert(filled, expert);
  bar.append(filled);
  return bar;
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
