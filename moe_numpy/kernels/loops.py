"""The compiled loops of ``on_numba``: plain Python over single entries, each on a range of rows ``lo ... hi-1``.

They run uncompiled, and can be stepped through, with NUMBA_DISABLE_JIT=1. Arrays are contiguous, results are written
into arrays of the caller, and indices are trusted: callers check them with ``first_outside`` first. Nothing here
computes eˣ: NumPy's own loop uses vector instructions and is several times as fast as a compiled scalar one, so callers
pass the exponentials in. A loop that would write to two arrays at once is split in two: where the compiler would have
to prove that many arrays do not overlap, it gives up on vector instructions.

There are no annotations: numba infers the types and compiles one version for each. ``zero``, ``one`` and ``width`` come
in the type of the entries: compiled, a float32 plus a Python integer is a float64.
"""

import math
from contextlib import suppress
from inspect import unwrap

import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher

from .keeping import KeptLoop


def _compiler(**options):
    """A decorator. The run-time checker of shapes has wrapped the function; numba needs the function itself."""

    def compile_on_use(loop):
        compiled = njit(nogil=True, error_model="numpy", **options)(unwrap(loop))
        if isinstance(compiled, Dispatcher):  # a plain function with NUMBA_DISABLE_JIT=1
            with suppress(RuntimeError):  # numba can write neither beside this file nor in the user's home
                compiled._cache = KeptLoop(compiled.py_func)
        return compiled

    return compile_on_use


compiled = _compiler()
# Sums may be reordered to use vector instructions. The order is fixed at compile time, as long as the loop of a sum
# stores nothing: before stores, compiled code compares addresses and may choose another loop.
summing = _compiler(fastmath={"reassoc", "contract"})


@summing
def _inner(a, b, zero):
    total = zero
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@compiled
def attend_row(q, keys, values, head, first, end, scale, sinks, h, scores, y, zero):
    """One query of head h, which sees keys first ... end-1 of a key head. Scores are those of the thread."""
    top = sinks[h] if len(sinks) else -np.inf
    for j in range(first, end):
        scores[j] = _inner(q, keys[j, head], zero) * scale
        top = max(top, scores[j])
    total = math.exp(sinks[h] - top) if len(sinks) else zero
    for j in range(first, end):
        scores[j] = math.exp(scores[j] - top)
        total += scores[j]
    for c in range(len(y)):
        y[c] = zero
    for j in range(first, end):
        e = scores[j] / total
        for c in range(len(y)):
            y[c] += e * values[j, head, c]


@compiled
def attend(q, keys, values, first, scale, sinks, scores, y, zero, lo, hi):
    """One query of one head after the other: ``lo ... hi-1`` of n H."""
    n, num_heads, _ = y.shape
    groups = num_heads // keys.shape[1]
    for r in range(lo, hi):
        i, h = divmod(r, num_heads)
        end = len(keys) - n + i + 1
        attend_row(q[i, h], keys, values, h // groups, first[i], end, scale, sinks, h, scores, y[i, h], zero)


@compiled
def top_k(scores, y, lo, hi):
    num_experts, k = scores.shape[1], y.shape[1]
    for t in range(lo, hi):
        found = 0
        for e in range(num_experts):
            s = scores[t, e]
            at = found  # slide left past every entry that s beats; an equal one stays before s
            while at > 0:
                other = scores[t, y[t, at - 1]]
                if not (s > other or (math.isnan(other) and not math.isnan(s))):
                    break
                at -= 1
            if at < k:
                found = min(found + 1, k)
                for j in range(found - 1, at, -1):
                    y[t, j] = y[t, j - 1]
                y[t, at] = e


@compiled
def first_outside(index, size):
    """The first n where ``index[n]`` is not one of 0 ... size-1, or -1."""
    for n in range(len(index)):
        if index[n] < 0 or index[n] >= size:
            return n
    return -1


@compiled
def ascend(offsets, end):
    """Whether offsets go from 0 to at most ``end`` and never down."""
    for e in range(1, len(offsets)):
        if offsets[e] < offsets[e - 1]:
            return False
    return offsets[0] == 0 and offsets[-1] <= end


@compiled
def counting_sort(keys, start, order):
    """``start[key]`` is where the entries with this key begin; it ends where the next key's begin."""
    for n in range(len(keys)):
        key = keys[n]
        order[start[key]] = n
        start[key] += 1


@compiled
def begin_of_keys(keys, start):
    """``start`` [num_keys + 1], zeros, becomes where the entries with each key begin; the last is their number."""
    for n in range(len(keys)):
        start[keys[n] + 1] += 1
    for key in range(1, len(start)):
        start[key] += start[key - 1]


@compiled
def position_by_key(keys, seen, y):
    for n in range(len(keys)):
        key = keys[n]
        y[n] = seen[key]
        seen[key] += 1


@compiled
def sum_by_key(values, keys, total):
    for n in range(len(keys)):
        total[keys[n]] += values[n]


@compiled
def max_by_key(values, keys, y):
    for n in range(len(keys)):
        value = values[n]
        if value > y[keys[n]] or math.isnan(value):
            y[keys[n]] = value


@compiled
def take_rows(x, index, y, lo, hi):
    for n in range(lo, hi):
        source = x[index[n]]
        row = y[n]
        for j in range(len(row)):
            row[j] = source[j]


@compiled
def add_rows(rows, order, start, y, lo, hi):
    """``order[start[i]:start[i+1]]`` are the rows with index i."""
    for i in range(lo, hi):
        total = y[i]
        for j in range(len(total)):
            total[j] = 0
        for n in order[start[i] : start[i + 1]]:
            row = rows[n]
            for j in range(len(total)):
                total[j] += row[j]


@compiled
def combine(r, gate, order, start, y, lo, hi):
    """As :func:`add_rows`, each row times its gate weight."""
    for t in range(lo, hi):
        total = y[t]
        for j in range(len(total)):
            total[j] = 0
        for n in order[start[t] : start[t + 1]]:
            row = r[n]
            g = gate[n]
            for j in range(len(total)):
                total[j] += row[j] * g


@summing
def combine_gradient(grad, r, gate, token, d_r, d_gate, zero, lo, hi):
    for n in range(lo, hi):
        dy = grad[token[n]]
        row, out = r[n], d_r[n]
        g = gate[n]
        total = zero
        for j in range(len(dy)):
            total += dy[j] * row[j]
        d_gate[n] = total
        for j in range(len(dy)):
            out[j] = dy[j] * g


@summing
def row_products(a, b, y, zero, lo, hi):
    for n in range(lo, hi):
        left, right = a[n], b[n]
        total = zero
        for j in range(len(left)):
            total += left[j] * right[j]
        y[n] = total


@compiled
def expert_sums(values, offsets, y, lo, hi):
    for e in range(lo, hi):
        total = y[e]
        for j in range(len(total)):
            total[j] = 0
        for n in range(offsets[e], offsets[e + 1]):
            row = values[n]
            for j in range(len(total)):
                total[j] += row[j]


@compiled
def add_expert_bias(y, bias, offsets, lo, hi):
    for e in range(lo, hi):
        b = bias[e]
        for n in range(offsets[e], offsets[e + 1]):
            row = y[n]
            for j in range(len(row)):
                row[j] += b[j]


# Activations. ``e`` holds exp(-x); s = one / (one + e) is the sigmoid of x. A row of x begins every x_step entries.


@compiled
def silu(e, x, y, one):
    for j in range(len(x)):
        y[j] = x[j] / (one + e[j])


@compiled
def silu_gradient(e, grad, x, dx, one):
    for j in range(len(x)):
        s = one / (one + e[j])
        dx[j] = grad[j] * s * (one + x[j] * (one - s))


@compiled
def swiglu(e, gate, gate_step, up, up_step, y, one):
    width = y.shape[1]
    for n in range(y.shape[0]):
        g, u = gate[n * gate_step : n * gate_step + width], up[n * up_step : n * up_step + width]
        e_row, y_row = e[n], y[n]
        for j in range(width):
            y_row[j] = g[j] / (one + e_row[j]) * u[j]


@compiled
def swiglu_gradient(e, grad, gate, gate_step, up, up_step, d, one):
    width = grad.shape[1]
    for n in range(grad.shape[0]):
        g, u = gate[n * gate_step : n * gate_step + width], up[n * up_step : n * up_step + width]
        d_g, d_u = d[n, :width], d[n, width:]
        e_row, grad_row = e[n], grad[n]
        for j in range(width):
            e_row[j] = one / (one + e_row[j])
        for j in range(width):
            d_u[j] = grad_row[j] * g[j] * e_row[j]
        for j in range(width):
            s = e_row[j]
            d_g[j] = grad_row[j] * u[j] * (s + g[j] * s * (one - s))


# Rows that sum to one.


@compiled
def shift_by_maximum(x, y, lo, hi):
    for n in range(lo, hi):
        row, out = x[n], y[n]
        top = row[0]
        for j in range(len(row)):
            top = row[j] if row[j] > top else top
        for j in range(len(row)):
            out[j] = row[j] - top


@summing
def divide_by_sum(y, zero, lo, hi):
    for n in range(lo, hi):
        row = y[n]
        total = zero
        for j in range(len(row)):
            total += row[j]
        for j in range(len(row)):
            row[j] /= total


@summing
def subtract_log_sum(e, y, zero, lo, hi):
    """``e`` holds exp(y) of the rows lo ... hi-1."""
    for n in range(lo, hi):
        row, e_row = y[n], e[n - lo]
        total = zero
        for j in range(len(row)):
            total += e_row[j]
        log = math.log(total)
        for j in range(len(row)):
            row[j] -= log


@summing
def softmax_gradient(grad, y, dx, zero, lo, hi):
    for n in range(lo, hi):
        g, p, out = grad[n], y[n], dx[n]
        total = zero
        for j in range(len(g)):
            total += g[j] * p[j]
        for j in range(len(g)):
            out[j] = p[j] * (g[j] - total)


@summing
def log_softmax_gradient(e, grad, dx, zero, lo, hi):
    """``e`` holds exp(y) of the rows lo ... hi-1."""
    for n in range(lo, hi):
        g, p, out = grad[n], e[n - lo], dx[n]
        total = zero
        for j in range(len(g)):
            total += g[j]
        for j in range(len(g)):
            out[j] = g[j] - p[j] * total


@compiled
def pick(x, column, y, lo, hi):
    for n in range(lo, hi):
        y[n] = x[n, column[n]]


@summing
def losses_and_softmax(p, losses, zero, lo, hi):
    """``p`` holds exp of shifted logits, ``losses`` the shifted logit of the target."""
    for n in range(lo, hi):
        row = p[n]
        total = zero
        for j in range(len(row)):
            total += row[j]
        for j in range(len(row)):
            row[j] /= total
        losses[n] = math.log(total) - losses[n]


@compiled
def cross_entropy_gradient(grad, p, target, dx, lo, hi):
    for n in range(lo, hi):
        g = grad[n]
        row, out = p[n], dx[n]
        for j in range(len(row)):
            out[j] = row[j] * g
        out[target[n]] -= g


# Normalisation and rotation.


@summing
def rms_norm(x, weight, eps, y, r, zero, one, width, lo, hi):
    d = x.shape[1]
    for n in range(lo, hi):
        row, out = x[n], y[n]
        total = zero
        for j in range(d):
            total += row[j] * row[j]
        r[n] = one / math.sqrt(total / width + eps)
        scale = r[n]
        for j in range(d):
            out[j] = row[j] * scale * weight[j]


@summing
def rms_norm_gradient(grad, x, r, weight, dx, dw, zero, width, lo, hi):
    """``dw``, zeros, takes the sum over these rows only."""
    d = x.shape[1]
    for n in range(lo, hi):
        g, row, out = grad[n], x[n], dx[n]
        scale = r[n]
        total = zero
        for j in range(d):
            total += g[j] * weight[j] * row[j]
        mean = total * scale / width  # of h x̂
        for j in range(d):
            dw[j] += g[j] * row[j] * scale
        for j in range(d):
            out[j] = scale * (g[j] * weight[j] - row[j] * scale * mean)


@compiled
def rotate(x, cos, sin, y, lo, hi):
    num_heads, length, half = x.shape[1], x.shape[2], x.shape[3] // 2
    for b in range(lo, hi):
        for h in range(num_heads):
            for s in range(length):
                c_row, s_row = cos[s], sin[s]
                first, second = x[b, h, s, :half], x[b, h, s, half:]
                y_first, y_second = y[b, h, s, :half], y[b, h, s, half:]
                for j in range(half):
                    y_first[j] = first[j] * c_row[j] - second[j] * s_row[j]
                for j in range(half):
                    y_second[j] = second[j] * c_row[j] + first[j] * s_row[j]


# Attention, one key head at a time.


@compiled
def mask_and_shift(e, length, first, sinks):
    """Row i keeps the first ``sinks`` columns, and key j if first[s] <= j <= L - S + s, s = i mod S; others become -∞.

    The row's maximum is subtracted.
    """
    for i in range(e.shape[0]):
        row, s = e[i], i % length
        start, stop = sinks + first[s], e.shape[1] - length + s + 1
        top = row[start]
        for j in range(start, stop):
            top = row[j] if row[j] > top else top
        for j in range(sinks):
            top = row[j] if row[j] > top else top
        for j in range(sinks):
            row[j] -= top
        for j in range(sinks, start):
            row[j] = -math.inf
        for j in range(start, stop):
            row[j] -= top
        for j in range(stop, e.shape[1]):
            row[j] = -math.inf


@summing
def row_sums(e, total, zero):
    for i in range(e.shape[0]):
        row = e[i]
        sum_ = zero
        for j in range(len(row)):
            sum_ += row[j]
        total[i] = sum_


@summing
def score_gradient(ds, g, o, e, zero):
    """ds = (ds - g · o) e in place."""
    for i in range(ds.shape[0]):
        row, e_row, g_row, o_row = ds[i], e[i], g[i], o[i]
        inner = zero
        for j in range(len(g_row)):
            inner += g_row[j] * o_row[j]
        for j in range(len(row)):
            row[j] = (row[j] - inner) * e_row[j]


# The optimizer.


@summing
def sum_of_squares(x, zero):
    """``zero`` is a float64, so that the sum is too."""
    total = zero
    for j in range(len(x)):
        total += (zero + x[j]) * (zero + x[j])
    return total


@compiled
def adamw(p, grad, m, v, keep, scale, beta1, one_minus_beta1, beta2, one_minus_beta2, root_c2, rate, eps):
    """``rate`` is lr / c₁ and ``root_c2`` is 1 / √c₂; all numbers have the type of the moments."""
    for j in range(len(p)):
        g = grad[j] * scale
        m[j] = m[j] * beta1 + g * one_minus_beta1
        v[j] = v[j] * beta2 + g * g * one_minus_beta2
        p[j] = p[j] * keep - m[j] / (math.sqrt(v[j]) * root_c2 + eps) * rate
