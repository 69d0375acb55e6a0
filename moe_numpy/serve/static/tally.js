// What tokens chose: counts by layer, expert and token, and what follows from them.

const LEAST = 3; // choices of an expert by a token, to be called its favourite

export class Tally {
  constructor(layers) {
    this.choices = layers.map((layer) => new Array(layer.num_experts).fill(0));
    this.byToken = layers.map(() => new Map());
    this.tokens = 0;
  }

  add(token) {
    this.tokens += 1;
    token.experts.forEach((experts, i) => {
      const counts = this.byToken[i].get(token.token) ?? new Map();
      for (const expert of experts) {
        this.choices[i][expert] += 1;
        counts.set(expert, (counts.get(expert) ?? 0) + 1);
      }
      this.byToken[i].set(token.token, counts);
    });
  }

  // Of each expert of a layer, its part of all choices.
  shares(i) {
    const all = this.choices[i].reduce((sum, count) => sum + count, 0) || 1;
    return this.choices[i].map((count) => count / all);
  }

  // The tokens of the largest lift p(expert | token) / p(expert) above 1.
  favourites(i, expert, limit = 12) {
    const share = this.shares(i)[expert];
    const found = [];
    for (const [token, counts] of this.byToken[i]) {
      const count = counts.get(expert) ?? 0;
      const all = [...counts.values()].reduce((sum, each) => sum + each, 0);
      const lift = count / all / share;
      if (count >= LEAST && lift > 1) found.push({ token, lift, count });
    }
    return found.sort((a, b) => b.lift - a.lift || b.count - a.count).slice(0, limit);
  }
}
