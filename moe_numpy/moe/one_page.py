"""A Mixture of Experts on one page: forward, and every derivative by hand. Read this first.

T tokens of width d, E experts of width f, k experts per token, C places per expert. Each numbered block names the
file in which the library does it, and returns in ``backward``. A test holds page and library equal.

    y, loss, saved = forward(x, router, gate_proj, up_proj, down_proj, top_k=2, capacity=40)
    dx, d_router, d_gate_proj, d_up_proj, d_down_proj = backward(dy, dloss, saved)
"""

from typing import Any

import numpy as np

from ..typing import Array, Float


def forward(
    x: Float[Array, "T d"],
    router: Float[Array, "E d"],
    gate_proj: Float[Array, "E f d"],
    up_proj: Float[Array, "E f d"],
    down_proj: Float[Array, "E d f"],
    *,
    top_k: int,
    capacity: int,
) -> tuple[Float[Array, "T d"], Float[Array, ""], dict[str, Any]]:
    """y_t = Σ over the chosen experts e of g_te f_e(x_t), and the balance loss."""
    num_tokens, num_experts = len(x), len(router)

    # 1. Score every expert for every token: p = softmax(x W_gᵀ). (moe/router.py, ops/activations.py)
    logits = x @ router.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)

    # 2. Choose the k best per token; ties go to the lowest index. (moe/selection.py)
    expert = np.argsort(-p, axis=1, kind="stable")[:, :top_k].reshape(-1)
    token, rank = np.repeat(np.arange(num_tokens), top_k), np.tile(np.arange(top_k), num_tokens)

    # 3. Gate weights: the chosen scores s, renormalised, g = s / Σ s. (moe/gates.py)
    s = p[token, expert]
    total = np.bincount(token, s)[token]
    g = s / total

    # 4. Balance loss: E Σ f P, from the fraction f of the choices and the mean score P. (moe/losses.py)
    fraction = np.bincount(expert, minlength=num_experts) / len(expert)
    loss = num_experts * (fraction * p.mean(axis=0)).sum()

    # 5. Capacity: first choices queue before second choices; who finds no place is dropped. (moe/capacity.py)
    kept = np.zeros(len(expert), bool)
    for e in range(num_experts):
        queue = np.flatnonzero(expert == e)
        kept[queue[np.argsort(rank[queue], kind="stable")][:capacity]] = True

    # 6. Run each expert on its tokens (moe/experts.py), add the answers times g (moe/dispatch.py).
    y, experts = np.zeros_like(x), []
    for e in range(num_experts):
        mine = np.flatnonzero(kept & (expert == e))
        rows = x[token[mine]]
        a, b = rows @ gate_proj[e].T, rows @ up_proj[e].T
        sigma = 1 / (1 + np.exp(-a))
        hidden = a * sigma * b  # SwiGLU: silu(a) b
        answer = hidden @ down_proj[e].T
        y[token[mine]] += g[mine, None] * answer  # a token has each expert at most once, so no index repeats
        experts.append((mine, rows, a, b, sigma, hidden, answer))

    saved = {"x": x, "p": p, "token": token, "expert": expert, "g": g, "total": total, "fraction": fraction}
    return y, loss, saved | {"weights": (router, gate_proj, up_proj, down_proj), "experts": experts}


def backward(dy: Float[Array, "T d"], dloss: float, saved: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
    """The gradients of x and of the four weights, block by block from the last to the first."""
    x, p, token, expert, g = (saved[name] for name in ("x", "p", "token", "expert", "g"))
    router, gate_proj, up_proj, down_proj = saved["weights"]
    dx, dg = np.zeros_like(x), np.zeros_like(g)
    d_gate_proj, d_up_proj, d_down_proj = np.zeros_like(gate_proj), np.zeros_like(up_proj), np.zeros_like(down_proj)

    # 6. dg = answer · dy; da = dh b silu'(a), where silu'(a) = σ (1 + a (1 - σ)); db = dh silu(a).
    for e, (mine, rows, a, b, sigma, hidden, answer) in enumerate(saved["experts"]):
        dg[mine] = (answer * dy[token[mine]]).sum(axis=1)
        d_answer = g[mine, None] * dy[token[mine]]
        d_down_proj[e] = d_answer.T @ hidden
        d_hidden = d_answer @ down_proj[e]
        da, db = d_hidden * b * sigma * (1 + a * (1 - sigma)), d_hidden * a * sigma
        d_gate_proj[e], d_up_proj[e] = da.T @ rows, db.T @ rows
        dx[token[mine]] += da @ gate_proj[e] + db @ up_proj[e]

    # 5. A dropped choice contributed nothing: its dg stays 0.
    # 4. The loss is linear in p. The fractions are counts, constant for the derivative.
    dp = np.tile(dloss * len(router) * saved["fraction"] / len(x), (len(x), 1))

    # 3. ds_n = (dg_n - Σ_m dg_m g_m) / Σ s, with m over the choices of the same token.
    dp[token, expert] += (dg - np.bincount(token, dg * g)[token]) / saved["total"]

    # 2. A choice has no derivative: an expert that was not chosen gets its gradient from blocks 1 and 4 only.
    # 1. Softmax: dh = p (dp - Σ dp p). Then to the router's weight, and on to the tokens.
    d_logits = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    return dx + d_logits @ router, d_logits.T @ x, d_gate_proj, d_up_proj, d_down_proj
