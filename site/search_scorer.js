/* What a page is called counts more than what the code calls its objects: notebooks come before the API reference. */
var Scorer = {
  score: ([page, title, anchor, description, score]) => {
    if (description) return score; // an object of the code
    const asked = new URLSearchParams(location.search).get("q").toLowerCase().split(/\s+/);
    return score + (asked.every((word) => title.toLowerCase().includes(word)) ? 40 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
