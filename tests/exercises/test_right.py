"""Right solutions by other ways than the library's: each earns all points."""

import pytest

from exercises.catalog import find
from exercises.grading.grade import grade_here, grade_source
from exercises.mistakes import collected, edits

# By exercise, as edits of the library's source, like its mistakes.
RIGHT = {
    1: """
one axis after the other: In a loop from the front.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ __import__("functools").reduce(lambda g, a: g.sum(axis=a, keepdims=True), axes, grad).reshape(shape)
from the last axis: In another order.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ __import__("functools").reduce(lambda g, a: g.sum(axis=a, keepdims=True), axes[::-1], grad).reshape(shape)
adds into zeros: np.add.at on a broadcast view of indices.
- return sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ y = np.zeros(shape, grad.dtype); at = np.broadcast_to(np.arange(y.size).reshape(shape), grad.shape)
+     np.add.at(y.reshape(-1), at, grad); return y
einsum: Letters for the axes that stay.
- return sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ kept = [i for i in range(grad.ndim) if i not in axes]
+     return np.asarray(np.einsum(grad, list(range(grad.ndim)), kept)).reshape(shape)
""",
    2: """
always both: Without asking who needs a gradient.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ b * grad, a * grad
np.multiply: By the function.
- return a * b
+ return np.multiply(b, a)
on the instance: Attributes instead of save.
- self.save(a, b)
+ self.factors = a, b
- a, b = self.saved
+ a, b = self.factors
""",
    3: """
matmul and einsum: Without flattening.
- y = _product(_rows(x), weight.T)
+ y = _rows(np.einsum("...i,oi->...o", x, weight))
- _product(g.T, _rows(x))
+ np.einsum("ro,ri->oi", g, _rows(x))
bias as the engine likes it: Leaves the sum over rows to the engine.
- sum_of(g, 0) if self.needs_grad(2)
+ grad if self.needs_grad(2)
row by row: A loop over the rows.
- _product(g.T, _rows(x))
+ sum((np.outer(a, b) for a, b in zip(g, _rows(x))), np.zeros_like(weight))
transposed twice: dW = (xᵀ g)ᵀ, a view.
- _product(g.T, _rows(x))
+ _product(_rows(x).T, g).T
""",
    4: """
a queue: First in, first out.
- op = ready.pop()
+ op = ready.pop(0)
""",
    5: """
scipy's way: Through the logarithm.
- return e / e.sum(axis=-1, keepdims=True)
+ top = x.max(axis=-1, keepdims=True); return np.exp(x - top - np.log(e.sum(axis=-1, keepdims=True)))
backwards sum: From the last entry.
- e.sum(axis=-1, keepdims=True)
+ e[..., ::-1].sum(axis=-1, keepdims=True)
factored out: y g - y Σ.
- y * (grad - (grad * y).sum(axis=-1, keepdims=True))
+ grad * y - y * np.einsum("...i,...i->...", grad, y)[..., None]
stored by columns: A Fortran-ordered result.
- return e / e.sum(axis=-1, keepdims=True)
+ return np.asfortranarray(e / e.sum(axis=-1, keepdims=True))
read-only: The result cannot be written to.
- return e / e.sum(axis=-1, keepdims=True)
+ y = e / e.sum(axis=-1, keepdims=True); y.flags.writeable = False; return y
""",
    6: """
logaddexp: The logarithm of a sum of exponentials by a ufunc.
- np.log(total[:, 0]) - shifted[np.arange(len(target)), target]
+ np.logaddexp.reduce(shifted, axis=1) - np.take_along_axis(shifted, target[:, None].astype(np.int64), axis=1)[:, 0]
one-hot: A comparison instead of indexing.
- difference[np.arange(len(target)), target] -= 1
+ difference -= np.arange(p.shape[1]) == target[:, None]
a sum over n: Instead of the mean.
- losses.mean() if self.ignored is None else losses[~self.ignored].mean()
+ (losses if self.ignored is None else losses[~self.ignored]).sum() / losses.dtype.type(self.n)
""",
    7: """
tanh: σ(x) = ½ (1 + tanh(x/2)).
- gate * sigmoid(gate) * up
+ up * (gate * (0.5 * (1 + np.tanh(0.5 * gate))))
expanded: σ + x σ - x σ².
- s * (1 + gate * (1 - s))
+ (s + gate * s - gate * s * s)
the overflow that is right: 1 / (1 + e⁻ˣ) with e⁻ˣ infinite is 0.
- gate * sigmoid(gate) * up
+ gate / (1 + np.exp(-gate)) * up
""",
    8: """
power of minus a half: Without a root.
- 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
+ ((x**2).sum(axis=-1, keepdims=True) / x.shape[-1] + eps) ** -0.5
from the textbook: r h - r³ x Σ h x / d.
- r * (h - x_hat * (h * x_hat).mean(axis=-1, keepdims=True))
+ r * h - r**3 * x * (h * x).sum(axis=-1, keepdims=True) / x.shape[-1]
einsum: For the weight.
- (grad * x_hat).reshape(-1, x.shape[-1]).sum(axis=0)
+ np.einsum("ri,ri->i", grad.reshape(-1, x.shape[-1]), x_hat.reshape(-1, x.shape[-1]))
""",
    9: """
another step: Relative to the entry.
- 1e-5 * max(1.0, abs(x[i]))
+ 2e-5 * (1 + abs(x[i]))
uniform: Another distribution.
- rng.standard_normal(np.shape(f(x)))
+ rng.uniform(-1, 1, np.shape(f(x)))
four points: A better rule.
- numeric[i] = np.sum(c * (f(above) - f(below))) / (2 * h)
+ numeric[i] = four(f, c, x, i, 1e-3)
- numeric = np.zeros(x.shape)
+ numeric = np.zeros(x.shape)
+     def four(f, c, x, i, h):
+         e = np.zeros_like(x); e[i] = h
+         return np.sum(c * (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e)))) / (12 * h)
""",
    10: """
logaddexp: For both sums.
- evidence = top + xp.log(total)
+ evidence = np.logaddexp.reduce(joint, axis=1, keepdims=True)
- log_g = e - xp.log(xp.exp(e).sum(axis=1, keepdims=True))
+ log_g = h - np.logaddexp.reduce(h, axis=1, keepdims=True)
einsum: For the squared distance.
- (error * error).sum(axis=2)
+ np.einsum("ted,ted->te", error, error)
""",
    11: """
sorted tuples: A list of pairs, with NaN last.
- return np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ key = lambda row: lambda i: (bool(np.isnan(row[i])), 0.0 if np.isnan(row[i]) else -row[i])
+     return np.array([sorted(range(len(row)), key=key(row))[:k] for row in scores], np.int64).reshape(len(scores), k)
narrower: int32 is wide enough.
- [:, :k]
+ [:, :k].astype(np.int32)
lexsort: By index, then by score.
- return np.argsort(-scores, axis=1, kind="stable")[:, :k]
+ e = np.arange(scores.shape[1])
+     return np.array([np.lexsort((e, -row))[:k] for row in scores], np.int64).reshape(-1, k)
""",
    12: """
a table of who belongs together: [N, N].
- take_rows(sum_by_key(s, token, num_tokens), token)
+ (token[:, None] == token[None]).astype(s.dtype) @ s
np.add.at: Into zeros.
- total = take_rows(sum_by_key(s, token, num_tokens), token)
+ total = np.zeros(num_tokens, s.dtype); np.add.at(total, token, s); total = total[token]
""",
    13: """
n first: Draws before it computes σ.
- sigma = Softplus
+ n = rng.standard_normal(h.shape).astype(h.dtype); sigma = Softplus
- h + sigma * _like(h, rng.standard_normal(h.shape)), sigma
+ sigma * n + h, sigma
""",
    14: """
erfc: By another function of scipy.
- normal_cdf(z)
+ (0.5 * __import__("scipy.special").special.erfc(-z / np.sqrt(2))).astype(z.dtype)
zeros for None: P = 1 has a gradient of zero.
- return None, None, None
+ return (np.zeros_like(grad),) * 3
sorted values: The threshold by np.sort.
- xp.take_along_axis(noisy, rival, axis=1)
+ np.array([[noisy[t, rival[t, e]] for e in range(h.shape[1])] for t in range(len(h))], h.dtype).reshape(h.shape)
""",
    15: """
row by row: A loop over rows.
- np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+ np.stack([sum(map(np.outer, grad[r], x[r]), np.zeros_like(x, shape=(grad.shape[1], x.shape[1])))
+                      for r in rows_of_experts(offsets)])
einsum: For the forward products.
- x[rows] @ weight[e].T
+ np.einsum("ni,oi->no", x[rows], weight[e])
""",
    16: """
counting sort: One pass with counters.
- return np.argsort(keys, kind="stable")
+ start = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=num_keys))]); order = np.empty(len(keys), np.int64)
+     for n, key in enumerate(keys.tolist()):
+         order[start[key]] = n; start[key] += 1
+     return order
lexsort: By place, then by key.
- np.argsort(keys, kind="stable")
+ np.lexsort((np.arange(len(keys)), keys))
sorted: Python's own sort is stable.
- np.argsort(keys, kind="stable")
+ np.array(sorted(range(len(keys)), key=keys.tolist().__getitem__), np.int64)
sixty-four bits: key and place in one number, where there is room.
- np.argsort(keys, kind="stable")
+ np.argsort(keys.astype(np.int64) * len(keys) + np.arange(len(keys)))
""",
    17: """
a table: One-hot times the rows.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ y = (token == np.arange(num_tokens)[:, None]).astype(r.dtype) @ (gate[:, None] * r)
rows of the identity: T × T numbers.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ y = np.eye(num_tokens, dtype=r.dtype)[token].T @ (gate[:, None] * r)
a loop: Row after row, from the last.
- np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
+ [y.__setitem__(token[n], y[token[n]] + gate[n] * r[n]) for n in reversed(range(len(r)))]
""",
    18: """
einsum: Per expert.
- grad[rows].T @ x[rows]
+ np.einsum("no,ni->oi", grad[rows], x[rows])
row by row: np.add.at on the experts.
- return np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])
+ e = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.astype(np.int64)))
+     dw = np.zeros((len(offsets) - 1, grad.shape[1], x.shape[1]), x.dtype)
+     np.add.at(dw, e, grad[:len(e), :, None] * x[:len(e), None]); return dw
""",
    19: """
einsum and broadcast: Without repeat.
- (f * mean_p).sum() * (num_experts / parts)
+ np.einsum("be,be->", f, mean_p) * (num_experts / parts)
- array_namespace(f).repeat(rows, self.num_tokens // f.shape[0], axis=0)
+ rows[np.arange(self.num_tokens) // max(self.num_tokens // f.shape[0], 1)]
""",
    20: """
Python's numbers: Added up without rounding.
- (centred * centred).sum()
+ v.dtype.type(__import__("math").fsum(c * c for c in centred.tolist()))
np.var: With its own ddof.
- (centred * centred).sum() / self.divisor
+ v.var() * v.dtype.type(n / self.divisor)
""",
    21: """
logaddexp: A ufunc that adds in logarithms.
- lse = top + xp.log(total)
+ lse = np.logaddexp.reduce(h, axis=1, keepdims=True)
- self.save(exp / total, lse)
+ self.save(np.exp(h - lse), lse)
""",
    22: """
a table: One row per entry, one column per key, summed downwards.
- order = np.argsort
+ if num_keys < 1000:
+         table = keys[:, None] == np.arange(num_keys); return (np.cumsum(table, axis=0) - 1)[table]
+     order = np.argsort
a loop: One counter per key.
- return position
+ seen = {}; return np.array([seen.__setitem__(k, seen.get(k, -1) + 1) or seen[k] for k in keys.tolist()], np.int32)
""",
    23: """
a table: One-hot, transposed.
- return add_rows(grad, token, self.num_tokens)
+ return (np.arange(self.num_tokens)[:, None] == token).astype(grad.dtype) @ grad
rows of the identity: T × T numbers.
- return take_rows(x, token)
+ return np.eye(len(x), dtype=x.dtype)[token] @ x
np.take: By the function.
- return take_rows(x, token)
+ return np.take(x, token, axis=0)
""",
    24: """
a loop with counters: Candidate after candidate.
- fits = place < size
+ taken = {}; fits = np.zeros(len(order), bool)
+     for m, q in zip(order.tolist(), queue.tolist()):
+         taken[q] = taken.get(q, 0) + 1; fits[m] = taken[q] <= size
""",
    25: """
np.add.at: Adds, though nothing occurs twice.
- scatter(grad, kept, self.num_candidates)
+ (lambda d: np.add.at(d, kept, grad) or d)(np.zeros(self.num_candidates, grad.dtype))
""",
    26: """
lexsort: Both keys at once.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token]; return np.lexsort((-best, candidates.rank))
sorted: Python's own sort.
- best = scores.max(axis=1)[candidates.token]
+ best = scores.max(axis=1)[candidates.token] if len(scores) else np.zeros(0)
+     return np.array(sorted(range(len(best)), key=lambda m: (candidates.rank[m], -best[m])), np.int64)
""",
    27: """
np.sign: By the function.
- self.rate * _sign(observed.mean() - observed)
+ np.sign(observed.sum() / len(observed) - observed) * self.rate
np.where: Case by case.
- return state + self.rate * _sign(observed.mean() - observed)
+ mean = observed.mean(); down = np.where(observed > mean, -self.rate, 0)
+     return state + np.where(observed < mean, self.rate, down).astype(state.dtype)
""",
    28: """
pairs of indices: Without a flat index.
- return take_rows(p.reshape(-1), at)
+ return p[token, expert]
""",
    29: """
a loop over sets and experts: Lists.
- chosen = top_k(rows, capacity)
+ best = lambda row: sorted(range(length), key=lambda t: (-row[t], t))[:capacity]
+     chosen = np.array([best(row) for row in rows], np.int64).reshape(len(rows), capacity)
""",
    30: """
combine first: The order of the two makes no difference.
- dispatch, combine = Softmax.apply(h, axis=1), Softmax.apply(h, axis=2)
+ combine = Softmax.apply(h); dispatch = Softmax.apply(h, axis=-2)
""",
    31: """
a loop: Python's own sort of groups.
- chosen = top_k(group_scores, self.top_groups)
+ best = lambda worth: sorted(range(self.num_groups), key=lambda g: -worth[g])[: self.top_groups]
+     chosen = np.array([best(w) for w in group_scores], np.int64).reshape(num_tokens, self.top_groups)
""",
    33: """
Integers of NumPy for the small ones: They compare equal.
- return total, active, 2 * matrices(top_k)
+ small = lambda n: np.int64(n) if n < 2**62 else n; return small(total), small(active), small(2 * matrices(top_k))
""",
    34: """
lexsort: Two keys.
- np.argsort(source * num_devices + destination, kind="stable")
+ np.lexsort((destination, source))
np.add.at: Counts pair by pair.
- rows = np.bincount(source * num_devices + destination, minlength=num_devices**2).reshape(num_devices, num_devices)
+ rows = np.zeros((num_devices, num_devices), np.int32); np.add.at(rows, (source, destination), 1)
""",
    35: """
integers of NumPy: Lists of them.
- send.tolist(), come.sum(axis=1).tolist()
+ list(send), list(come.sum(axis=1))
labels sorted: A stable sort of the slots of rows.
- _by_column(come)
+ np.argsort(np.repeat(np.tile(np.arange(come.shape[1]), len(come)), come.reshape(-1)), kind="stable")
rank after rank: Sums of slices, and by rank alone: the list is by expert already.
- np.add.reduceat(np.append(of_slots, 0), starts[:-1]) * (np.diff(starts) > 0)
+ np.array([of_slots[a:b].sum() for a, b in zip(starts, starts[1:])])
- None if self._stay_in_order else stable_order(slot, len(of_slots))
+ np.argsort(slot, kind="stable")
""",
    36: """
einsum: All rows and heads at once, with a mask.
- for i in range(n):
+ wide = np.repeat(keys, num_heads // num_kv_heads, axis=1), np.repeat(values, num_heads // num_kv_heads, axis=1)
+     at = np.arange(num_keys)
+     hidden = (at < first[:, None]) | (at > (num_keys - n + np.arange(n))[:, None])
+     with np.errstate(invalid="ignore", over="ignore"):
+         s = np.einsum("nhd,lhd->nhl", q, wide[0]) * q.dtype.type(scale)
+     s[np.broadcast_to(hidden[:, None], s.shape)] = -np.inf
+     top = s.max(axis=2, keepdims=True, initial=-np.inf)
+     top = top if sinks is None else np.maximum(top, sinks[:, None])
+     e = np.exp(s - top)
+     total = e.sum(axis=2) + (0 if sinks is None else np.exp(sinks - top[:, :, 0]))
+     some = [np.where(h[:, None, None], 0, wide[1]) for h in hidden]
+     each = [np.einsum("hl,lhd->hd", a, v) / t[:, None] for a, v, t in zip(e, some, total)]
+     return np.array(each).reshape(o.shape) if n else o
+     for i in range(n):
weights first: Divides before the values are added.
- o[i, h] = e @ values[seen, head] / total
+ o[i, h] = ((e / total)[:, None] * values[seen, head]).sum(axis=0)
""",
    37: """
rows of sixteen: np.add.reduce over the first of two axes adds row after row.
- lanes = np.zeros((len(x), out, 16), np.float32)
+ lanes = np.zeros((len(x), out, 16), np.float32); terms = x[:, None] * values
- lanes += x[:, None, start : start + 16] * values[:, start : start + 16]
+ lanes = lanes + terms[:, :, start : start + 16]
scale on x: Multiplies x by the scale and then by the code.
- x[:, None, start : start + 16] * values[:, start : start + 16]
+ (x[:, None, start : start + 16] * scales[:, start // 32][:, None]) * np.float32(
+             codes.reshape(out, width)[:, start : start + 16])
""",
    38: """
where: With the circle by where.
- (np.arange(num_layers) - history.layer - 1) % num_layers
+ np.where(np.arange(num_layers) > history.layer, 0, num_layers) + np.arange(num_layers) - history.layer - 1
turned round: A minus by exchanging the difference.
- history.expected, -unused, np
+ history.expected.copy(), history.last_turn - history.turn[:, None], np
""",
    39: """
products added: Elementwise, and a sum.
- y[n] = weights @ row
+ y[n] = (weights * row).sum(axis=1)
dot: The row in front.
- y[n] = weights @ row
+ y[n] = row.dot(weights.T)
stacked: A list of rows.
- return y
+ return np.stack([weights @ row for row in x]).astype(x.dtype) if len(x) else y
""",
    40: """
loads from what is held: Adds the shares up anew.
- int(np.where(allowed, loads, np.inf).argmin())
+ int(min(np.flatnonzero(allowed), key=lambda r: sum(sorted((share * held[r]).tolist(), reverse=True))))
""",
    41: """
unit by unit: Gathers rows by number.
- (gate * gate.dtype.type(self.input_scale)).reshape(parts, f // parts, d)
+ (self.input_scale * gate)[np.arange(f).reshape(parts, -1)]
- (down * down.dtype.type(down_scale)).reshape(d, parts, f // parts).swapaxes(0, 1)
+ np.stack(np.split(down, parts, axis=1)) * down.dtype.type(down_scale)
""",
    42: """
one after the other: Each combination by itself.
- linear_least_squares(terms(*mesh), target, nonnegative)
+ map(np.concatenate, zip(*(linear_least_squares(terms(*v), target, nonnegative) for v in np.array(mesh).T[..., None])))
""",
    43: """
by the matrix of a softmax: diag(p) - p pᵀ, and its row of the chosen expert.
- term = -of_chosen * p
+ term = of_chosen * (np.eye(p.shape[1], dtype=p.dtype)[best[:, c]] - p)
- term[rows, best[:, c]] += of_chosen[:, 0]
+ pass
argmax twice: Instead of a sort.
- best = top_k(h, 2)
+ first = h.argmax(axis=1); second = np.where(np.arange(h.shape[1]) == first[:, None], -np.inf, h).argmax(axis=1)
+         best = np.stack([first, second], axis=1)
masked logits: -∞ before the exponential.
- xp.where(close & rest, xp.exp(xp.minimum(h - top, 0)), 0).astype(h.dtype, copy=False)
+ np.exp(np.where(close & rest, h - top, -np.inf)).astype(h.dtype)
""",
    44: """
mean: The method of Tensors.
- Softmax.apply(h, axis=-1).sum(axis=0) * (1 / max(num_tokens, 1))
+ (Softmax.apply(h, axis=-1) * (1 / max(num_tokens, 1))).sum(axis=0)
nothing at once: Returns a constant without tokens.
- h = logits_of(trace, self.modality)
+ h = logits_of(trace, self.modality)
+     if not len(h.data):
+         return Tensor(np.zeros((), h.dtype))
""",
    45: """
a float of NumPy: As a sum gives it.
- float(np.abs(gap).sum() / len(correct))
+ np.abs(gap).sum() / len(correct)
searchsorted: Edges between the bins.
- np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
+ np.clip(np.searchsorted(np.arange(bins + 1), confidence * bins) - 1, 0, bins - 1)
means of bins: Step by step.
- gap = np.bincount(bin_of, confidence - correct, bins)
+ ns = np.bincount(bin_of, minlength=bins); n = np.maximum(ns, 1)
+     gap = ns * (np.bincount(bin_of, confidence, bins) / n - np.bincount(bin_of, correct, bins) / n)
""",
}
VARIANTS = [(n, collected(variant, "right", find(n).target)) for n, text in RIGHT.items() for variant in edits(text)]


@pytest.mark.parametrize(("number", "variant"), VARIANTS, ids=lambda v: v if isinstance(v, int) else v.name)
def test_a_right_solution_earns_all_points(number, variant):
    result = grade_here(find(number), lambda: variant.solution, 0)
    assert [(c.name, c.problem.message, c.problem.case) for c in result.checks if c.problem] == []


COMPILED = """
import numpy as np
from numba import njit

@njit(cache=True)
def position_by_key(keys, num_keys):
    seen = np.zeros(num_keys, np.int32)
    position = np.empty(len(keys), np.int32)
    for n, key in enumerate(keys):
        position[n] = seen[key]
        seen[key] += 1
    return position
"""


def test_compiled_code_may_ask_for_a_cache_and_a_file_may_begin_with_a_byte_order_mark():
    for number in (32, 22):  # one that is about numba, and one that is not
        assert grade_source(find(number), "\ufeff" + COMPILED, "exercises/work/ex32.py").passed


SORTING = """
import numpy as np
from numba import njit

@njit
def position_by_key(keys, num_keys):
    order = np.argsort(keys, kind="mergesort")
    position = np.zeros(len(keys), np.int64)
    for i in range(1, len(keys)):
        if keys[order[i]] == keys[order[i - 1]]:
            position[order[i]] = position[order[i - 1]] + 1
    return position
"""


def test_a_compiled_sort_is_no_single_pass():
    result = grade_source(find(32), SORTING, "exercises/work/ex32.py")
    assert [c.problem.message.split(";")[0] for c in result.checks if c.problem] == ["ValueError: it sorts the keys"]
