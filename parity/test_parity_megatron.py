"""Megatron-LM's routing rules, written here as formulas in PyTorch: choices, gate weights and their gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comparison import difference, route, router_on_logits

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, RouterConfig, recipes
from moe_numpy.moe.assignment import Sinkhorn, sinkhorn
from moe_numpy.moe.balancers import LossFreeBias, QuantileBalancing
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.gates import Gate, Renormalize, Scale, SelectedSoftmax, SqrtSoftplus
from moe_numpy.moe.losses import SwitchBalance, ZLoss
from moe_numpy.moe.selection import GroupLimited, TopK
from moe_numpy.ops import Sigmoid

T, E, K = 48, 16, 4
DTYPES = ["float32", "float64"]
SCORES = {
    "sigmoid": torch.sigmoid,
    "sqrt_softplus": lambda h: torch.sqrt(torch.log1p(torch.exp(h))),
}


def draw(dtype, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape or (T, E)).astype(dtype)


def limit(dtype):
    return 1e-5 if dtype == "float32" else 1e-10


def chosen(scores, k):
    """Boolean [T, E]: the k best of each row."""
    return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, scores.argsort(dim=1, descending=True)[:, :k], True)


def dense(routing):
    """Gate weights and choices as [T, E] arrays."""
    weight, kept = np.zeros((2, routing.num_tokens, routing.num_experts))
    weight[routing.token, routing.expert] = routing.gate.data
    kept[routing.token, routing.expert] = 1
    return weight, kept.astype(bool)


def compare_weights(config, h, formula, rng=None, bias=None):
    """Differences of weights and of dL/dh, for L = Σ w r with random r; the choices must be equal.

    ``formula(h)`` returns gate weights and choices, both [T, E].
    """
    mine = Tensor(h, requires_grad=True)
    router = router_on_logits(config, h)
    if bias is not None:
        router.balancer_state.data[...] = bias
    routing = router(mine, Batch(len(h), rng is not None, rng))
    weight, kept = dense(routing)
    theirs = torch.tensor(h, requires_grad=True)
    w, choice = formula(theirs)
    np.testing.assert_array_equal(kept, choice.numpy())

    r = draw(h.dtype, *h.shape, seed=9)
    routing.gate.backward(r[routing.token, routing.expert])
    (w * choice * torch.from_numpy(r)).sum().backward()
    return {"y": difference(weight, w * choice), "dh": difference(mine.grad, theirs.grad)}


def normalized(s, choice, epsilon=1e-20):
    picked = s * choice
    return picked / (picked.sum(dim=1, keepdim=True) + epsilon)


def best_groups(s, groups, top_groups, best):
    """Experts of the groups with the largest sums of their ``best`` best scores."""
    grouped = s.reshape(len(s), groups, -1)
    group_score = grouped.sort(dim=2, descending=True).values[:, :, :best].sum(dim=2)
    return chosen(group_score, top_groups).repeat_interleave(s.shape[1] // groups, dim=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_before_or_after_the_choice(dtype, check):
    before = RouterConfig(TopK(K), gates=())
    after = RouterConfig(TopK(K), scores=None, gates=(Gate(SelectedSoftmax),))

    def softmax_first(h):
        return torch.softmax(h, dim=1), chosen(h, K)

    def softmax_last(h):
        choice = chosen(h, K)
        return torch.softmax(torch.where(choice, h, -torch.inf), dim=1), choice

    for config, formula in ((before, softmax_first), (after, softmax_last)):
        check("megatron softmax", dtype, compare_weights(config, draw(dtype), formula), limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "function"), [("sigmoid", Sigmoid), ("sqrt_softplus", SqrtSoftplus)])
def test_scores_with_bias(name, function, dtype, check):
    bias = draw("float64", E, seed=1)
    gates = (Gate(Renormalize, epsilon=1e-20), Scale(2.5))
    config = RouterConfig(TopK(K), scores=function, gates=gates, balancer=LossFreeBias())

    def formula(h):
        s = SCORES[name](h)
        choice = chosen(s + torch.from_numpy(bias), K)
        return 2.5 * normalized(s, choice), choice

    check(f"megatron {name} and bias", dtype, compare_weights(config, draw(dtype), formula, bias=bias), limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "top_groups", "score"), [(4, 2, "top2"), (8, 4, "top2"), (3, 3, "max")])
def test_group_limited_top_k(k, top_groups, score, dtype, check):
    """A group counts with its k / top_groups best experts; ours with 1 or 2 of them, as in the two papers."""
    config = recipes.deepseek_v3(top_k=k, num_groups=8, top_groups=top_groups).router
    config = replace(config, selection=GroupLimited(k, 8, top_groups, score))
    bias = draw("float64", E, seed=1)

    def formula(h):
        s = torch.sigmoid(h)
        biased = s + torch.from_numpy(bias)
        allowed = best_groups(biased, 8, top_groups, k // top_groups)
        choice = chosen(torch.where(allowed, biased, -torch.inf), k)
        return 2.5 * normalized(s, choice), choice

    check("megatron groups", dtype, compare_weights(config, draw(dtype), formula, bias=bias), limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2])
def test_sinkhorn(k, dtype, check):
    """The matrix is the fixed point; the choice is its top k while training, and that of the logits afterwards."""

    def balanced(h, tolerance):
        cost = torch.exp(h.detach())
        d1 = torch.ones(E, dtype=h.dtype)
        error = np.inf
        while error > tolerance:
            d0 = 1 / (T * (cost * d1).sum(dim=1))
            previous, d1 = d1, 1 / (E * (cost * d0[:, None]).sum(dim=0))
            error = (d1 - previous).abs().mean()
        return cost * d0[:, None] * d1

    def formula(h, tolerance=1e-4):
        choice = chosen(balanced(h, tolerance) if tolerance else h, k)
        return torch.sigmoid(h) if k == 1 else torch.softmax(h, dim=1), choice

    h = draw(dtype)
    tight = 1e-6 if dtype == "float32" else 1e-13
    check(
        "megatron sinkhorn matrix",
        dtype,
        {"y": difference(T * sinkhorn(h, tight), T * balanced(torch.tensor(h), tight))},
        limit(dtype),
    )
    config = recipes.sinkhorn(top_k=k).router
    assert config.selection == Sinkhorn(k)
    check("megatron sinkhorn", dtype, compare_weights(config, h, formula, np.random.default_rng(0)), limit(dtype))
    check("megatron sinkhorn", dtype, compare_weights(config, h, lambda h: formula(h, None)), limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantile_balancing(dtype, check):
    """β' is the mean over micro-batches of a quantile of the columns; β follows it slowly and is centred."""
    k, ema = 2, 0.9
    config = recipes.quantile(top_k=k, ema=ema).router
    assert config.balancer == QuantileBalancing(k, ema)
    router = router_on_logits(config, draw(dtype))
    beta = torch.zeros(E, dtype=torch.float64)
    for step in range(3):
        observed = []
        for micro_batch in range(2):
            h = draw(dtype, T, E, seed=10 * step + micro_batch) + np.linspace(-1, 1, E, dtype=dtype)
            routing = router(Tensor(h, requires_grad=True), Batch(T, True, np.random.default_rng(0)))
            scores = torch.tensor(h, dtype=torch.float64)
            choice = chosen(scores - beta, k)
            np.testing.assert_array_equal(dense(routing)[1], choice.numpy())
            kept_out = (scores - beta).sort(dim=1, descending=True).values[:, k : k + 1]
            fair_share = T * k // E
            observed.append((scores - kept_out).sort(dim=0, descending=True).values[fair_share])
        router.after_step()
        beta = ema * beta + (1 - ema) * sum(observed) / len(observed)
        beta = beta - beta.mean()
        check("megatron quantile balancing β", dtype, {"y": difference(router.balancer_state.data, beta)}, limit(dtype))
    assert beta.abs().max() > 0.1

    def formula(h):
        choice = chosen(h - beta, k)
        return torch.softmax(torch.where(choice, h, -torch.inf), dim=1), choice

    differences = compare_weights(config, draw(dtype), formula, bias=beta.numpy())
    check("megatron quantile balancing", dtype, differences, limit(dtype))


def test_expert_bias_update():
    """b += γ sign(mean(c) - c) with the counts of all micro-batches of a step."""
    rate = 0.01
    router = router_on_logits(RouterConfig(TopK(2), scores=Sigmoid, balancer=LossFreeBias(rate)), draw("float64"))
    bias = torch.zeros(E, dtype=torch.float64)
    for step in range(4):
        counts = torch.zeros(E, dtype=torch.float64)
        for micro_batch in range(2):
            h = draw("float64", T, E, seed=10 * step + micro_batch) + np.linspace(-1, 1, E)
            router(Tensor(h), Batch(T, True, np.random.default_rng(0)))
            counts += chosen(torch.sigmoid(torch.tensor(h)) + bias, 2).sum(dim=0)
        router.after_step()
        bias = bias + rate * torch.sign(counts.mean() - counts)
        np.testing.assert_allclose(router.balancer_state.data, bias.numpy(), rtol=0, atol=1e-15)
    assert bias.abs().max() > 2 * rate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
@pytest.mark.parametrize(("drop", "k"), [("probability", 1), ("probability", 3), ("position", 1)])
def test_dropping(drop, k, factor, dtype, check):
    """ "probs": the C largest gate weights of each expert. "position": its first C tokens; the same for k = 1."""
    config = RouterConfig(TopK(k), gates=(), capacity=Capacity(factor, drop=drop))

    def formula(h):
        p, choice = torch.softmax(h, dim=1), chosen(h, k)
        places = int(np.ceil(T * k / E * factor))
        rank_by = p * choice if drop == "probability" else choice * torch.arange(T, 0, -1)[:, None]
        return p, choice & chosen(rank_by.T.detach(), places).T

    h = draw(dtype)
    assert len(route(config, h)[1].token) < k * T
    check(f"megatron dropping by {drop}", dtype, compare_weights(config, h, formula), limit(dtype))


def balance(p, count, k):
    """E Σ f_i P_i with f = c / (k T)."""
    return p.shape[1] * (count.to(p.dtype) / (k * len(p)) * p.mean(dim=0)).sum()


def compare_loss(config, h, name, theirs, leaf, length=None, passes=(), bias=None):
    """Values and gradients, the latter relative to their largest entry."""
    router = router_on_logits(config, h)
    if bias is not None:
        router.balancer_state.data[...] = bias
    for earlier in passes:
        router(Tensor(earlier), Batch(len(earlier), True))
    mine = Tensor(h, requires_grad=True)
    loss = router(mine, Batch(length or len(h))).losses[name]
    loss.backward()
    theirs.backward()
    return {"loss": difference(loss.data, theirs), "dh": difference(mine.grad, leaf.grad, floor=0)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_balance_loss_of_a_batch_and_of_all_micro_batches(dtype, check):
    h, earlier = draw(dtype), draw(dtype, seed=1)
    for scope, passes in (("batch", ()), ("global", (earlier,))):
        leaf = torch.tensor(h, requires_grad=True)
        count = sum(chosen(torch.tensor(x), K).sum(dim=0) for x in (h, *passes)) / (1 + len(passes))
        theirs = balance(torch.softmax(leaf, dim=1), count, K)
        config = RouterConfig(TopK(K), losses=(SwitchBalance(1.0, scope=scope),))
        differences = compare_loss(config, h, "balance", theirs, leaf, passes=passes)
        check(f"megatron balance loss, {scope}", dtype, differences, limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_balance_loss_of_sequences_for_deepseek_v3(dtype, check):
    """s normalised over experts; counts are those of s alone, without bias and groups; the mean over sequences."""
    h, length = draw(dtype), 12
    leaf = torch.tensor(h, requires_grad=True)
    s = torch.sigmoid(leaf)
    sequences = (s / s.sum(dim=1, keepdim=True)).split(length)
    theirs = sum(balance(p, chosen(p.detach(), K).sum(dim=0), K) for p in sequences) / len(sequences)
    config = recipes.deepseek_v3(top_k=K, num_groups=4, top_groups=2, balance=1.0).router
    differences = compare_loss(config, h, "balance", theirs, leaf, length, bias=draw("float64", E, seed=1))
    check("megatron balance loss, sequence", dtype, differences, limit(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_z_loss(dtype, check):
    h = 3 * draw(dtype)
    leaf = torch.tensor(h, requires_grad=True)
    theirs = torch.logsumexp(leaf, dim=1).square().mean()
    config = RouterConfig(TopK(K), losses=(ZLoss(1.0),))
    check("megatron z loss", dtype, compare_loss(config, h, "z", theirs, leaf), limit(dtype))
