"""A local search for experts on ranks: change one or two ranks at a time, so that the largest load falls.

``held[r, e]`` says whether rank r holds expert e; n_e = Σ_r held[r, e] replicas share its load evenly:

    load of rank r = Σ_e held[r, e] · load_e / n_e

Two kinds of steps relieve the most loaded rank:

- **exchange**: one of its experts and an expert of another rank change places, or goes where a place is empty;
- **replacement**: on one rank an expert leaves and another one comes, so that one has a replica less and one a replica
  more. Either can be no expert at all.

What comes or leaves is the index of an expert, or E for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..typing import Array, Bool, Float, Int

_ROUNDING = 1e-12  # relative; less is no difference
_UPHILL = 0.02  # what a round of the search may lose
_SHAKES = 2  # of a round, at most

Held = Bool[Array, "R E"]
Change = tuple[int, int, int]  # a rank, what leaves, what comes
Step = tuple[float, tuple[Change, ...]]  # the largest load of the ranks that change, and how they change


@dataclass(frozen=True)
class Balance:
    """Who holds what, and what follows from it. Where E is a column, it is nothing, which every rank can have."""

    held: Held
    load: Float[Array, " E"]
    places: int

    @property
    def nothing(self) -> int:
        """E."""
        return len(self.load)

    @cached_property
    def counts(self) -> Int[Array, " E1"]:
        """n_e."""
        return np.append(self.held.sum(axis=0), 1)

    @cached_property
    def share(self) -> Float[Array, " E1"]:
        """load_e / n_e."""
        return np.append(self.load, 0) / self.counts

    @cached_property
    def loads(self) -> Float[Array, " R"]:
        """Of the ranks."""
        return self.held @ self.share[:-1]

    @cached_property
    def has_room(self) -> Bool[Array, " R"]:
        """Whether each rank has a place for one more expert."""
        return self.held.sum(axis=1) < self.places

    @cached_property
    def on(self) -> Bool[Array, "R E1"]:
        """``held``, and nothing nowhere."""
        return np.concatenate([self.held, np.zeros((len(self.held), 1), bool)], axis=1)

    @cached_property
    def leaving(self) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """Ranks and what can leave them; nothing where there is room."""
        rank, expert = np.nonzero(np.concatenate([self.held, self.has_room[:, None]], axis=1))
        return rank, expert

    def copies(self, present: Held) -> int:
        """How many experts are on ranks that do not hold them at present."""
        return int((self.held & ~present).sum())

    def after(self, changes: tuple[Change, ...]) -> "Balance":
        """With these changes."""
        on = self.on.copy()
        for rank, leaves, comes in changes:
            on[rank, leaves], on[rank, comes] = False, True
        return Balance(on[:, :-1], self.load, self.places)

    def exchanges(self) -> Iterator[Step]:
        """The best exchange for the most loaded rank p: L_p - s_e + s_f and L_q + s_e - s_f, s the shares."""
        p, s = int(self.loads.argmax()), self.share
        e = np.flatnonzero(self.held[p])
        q, f = self.leaving
        other = (q != p) & ~self.on[p, f]
        q, f = q[other], f[other]
        largest = np.maximum(self.loads[p] - s[e] + s[f, None], self.loads[q, None] + s[e] - s[f, None])
        largest[self.held[q][:, e]] = np.inf
        if largest.size:
            i, j = divmod(int(largest.argmin()), len(e))
            yield float(largest[i, j]), ((p, int(e[j]), int(f[i])), (int(q[i]), int(f[i]), int(e[j])))

    def replacements(self) -> Iterator[Step]:
        """The best replacement: on rank p, or on another one by an expert of p, whose share then falls."""
        p, nothing = int(self.loads.argmax()), self.nothing
        r, a = self.leaving
        possible = (self.counts[a] > 1) | (a == nothing)
        r, a = r[possible], a[possible]
        allowed = ~self.on[r]
        allowed[r != p] &= self.on[p]
        allowed[a == nothing, nothing] = False
        i, b = np.nonzero(allowed)
        r, a = r[i], a[i]
        load, counts = np.append(self.load, 0), self.counts
        more = load / np.maximum(counts - 1, 1) - self.share  # for each other rank with what leaves
        less = load / (counts + 1) - self.share
        holders = np.where(self.on, self.loads[:, None], -np.inf)
        first, high = holders.argmax(axis=0), holders.max(axis=0)
        holders[first, np.arange(nothing + 1)] = -np.inf
        others = np.where(first[a] == r, holders.max(axis=0)[a], high[a])
        changed = self.loads[r] - self.share[a] + (load / (counts + 1))[b]
        largest = np.maximum(changed, np.maximum(others + more[a], (high + less)[b]))
        if largest.size:
            best = int(largest.argmin())
            yield float(largest[best]), ((int(r[best]), int(a[best]), int(b[best])),)

    def improved(self, goal: float) -> "Balance":
        """The best steps, until the largest load is at most the goal or no step helps."""
        now = self
        while now.loads.max() > goal:
            largest, changes = min((*now.exchanges(), *now.replacements()), default=(np.inf, ()))
            if not largest < now.loads.max() * (1 - _ROUNDING):
                break
            now = now.after(changes)
        return now

    def shaken(self, rng: np.random.Generator) -> "Balance":
        """After a random exchange and a random replacement."""
        now = self
        p, q = rng.permutation(len(self.held))[[0, -1]].tolist()
        leave, come = (np.flatnonzero(self.held[i] & ~self.held[j]) for i, j in ((p, q), (q, p)))
        if len(leave) and len(come):
            e, f = int(rng.choice(leave)), int(rng.choice(come))
            now = now.after(((p, e, f), (q, f, e)))
        replicas = np.argwhere(now.held & (now.counts[:-1] > 1))
        if len(replicas):
            r, a = rng.choice(replicas).tolist()
            now = now.after(((r, a, int(rng.choice(np.flatnonzero(~now.on[r])))),))
        return now


def search(start: Balance, goal: float, rounds: int, rng: np.random.Generator) -> Balance:
    """Improve, then shake and improve again, until the largest load is at most the goal; the best that was seen.

    Iterated local search (Lourenço, Martin and Stützle 2003). A round may end above the one before: by 2 % at first, by
    nothing at last.
    """
    best = now = start.improved(goal)
    for i in range(rounds):
        if best.loads.max() <= goal:
            break
        new = now
        for _ in range(rng.integers(1, _SHAKES + 1)):
            new = new.shaken(rng)
        new = new.improved(goal)
        if new.loads.max() <= now.loads.max() * (1 + _UPHILL * (1 - i / rounds)):
            now = new
        if new.loads.max() < best.loads.max():
            best = new
    return best


def with_fewer_copies(balance: Balance, present: Held, limit: float) -> Balance:
    """Copies taken back, one after the other, as long as no rank has more than the limit."""
    found = True
    while found:
        found = False
        for r, e in np.argwhere(balance.held & ~present).tolist():
            if not balance.held[r, e]:  # an exchange has taken it back
                continue
            for changes in _taking_back(balance, present, limit, r, e):
                fewer = balance.after(changes)
                if fewer.loads.max() <= limit:
                    balance, found = fewer, True
                    break
    return balance


def _taking_back(balance: Balance, present: Held, limit: float, r: int, e: int) -> Iterator[tuple[Change, ...]]:
    """Changes that spare rank r the copy of e, and need no other.

    An expert that left r, or nothing, comes instead of a replica; or e remains where it was, in exchange for an expert
    that was on r or is a copy there too, or for nothing. Then only the loads of two ranks change.
    """
    if balance.counts[e] > 1:
        for b in (balance.nothing, *np.flatnonzero(present[r] & ~balance.held[r]).tolist()):
            yield ((r, e, b),)
    loads, more = balance.loads, balance.share[e] - balance.share
    for q in np.flatnonzero(present[:, e] & ~balance.held[:, e]).tolist():
        fitting = np.append(balance.held[q] & ~balance.held[r] & (present[r] | ~present[q]), balance.has_room[q])
        for f in np.flatnonzero(fitting & (loads[r] - more <= limit) & (loads[q] + more <= limit)).tolist():
            yield (r, e, f), (q, f, e)
