"""Rows that travel once, and shared experts beside the exchange: the values of one rank, and what is sent."""

import numpy as np
import pytest

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.sharding import share_experts
from moe_numpy.parallel import Alone, Holding
from moe_numpy.parallel.parts import run_parts

D, F, E = 6, 5, 8


def layer(recipe, dtype):
    return MoE(D, F, E, recipe, rng=np.random.default_rng(0), dtype=dtype)


def passed(recipe, tokens, *, dtype=np.float32, **holding):
    """By rank: y, dx, dW of the router and of the shared experts, dW of the experts that are here, bytes by kind."""
    size = len(tokens)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((sum(tokens), D)).astype(dtype)
    dy = rng.standard_normal((sum(tokens), D)).astype(dtype)
    ends = np.cumsum([0, *tokens])
    results = [None] * size

    def work(communicator):
        rank = communicator.rank
        moe = layer(recipe, dtype)
        share_experts(moe, communicator, deduplicate=holding.get("deduplicate", "none"))
        before = moe.holding
        moe.holding = Holding(communicator, before.placement, before.num_home, before.deduplicate,
                              holding.get("overlap", True))  # fmt: skip
        mine = slice(ends[rank], ends[rank + 1])
        own = Tensor(x[mine], requires_grad=True)
        y, _ = moe(own)
        y.backward(dy[mine])
        gradients = {name: p.grad for name, p in moe.named_parameters()}
        ledger = communicator.ledger
        sent = {kind: int(to.sum()) for kind, to in ledger.sent.items()}
        results[rank] = {"y": y.data, "dx": own.grad, "gradients": gradients, "sent": sent, "tally": ledger.tally}

    run_parts(Alone(), size, work)
    return results


def require_same(ours, theirs, equal=np.testing.assert_array_equal):
    for mine, other in zip(ours, theirs, strict=True):
        equal(mine["y"], other["y"])
        equal(mine["dx"], other["dx"])
        assert mine["gradients"].keys() == other["gradients"].keys()
        for name, gradient in mine["gradients"].items():
            if gradient is not None:
                equal(gradient, other["gradients"][name], err_msg=name)


RECIPES = {
    "mixtral": recipes.mixtral(top_k=4),
    "shared": recipes.qwen2_moe(top_k=4, shared_experts=2),
    "zero": recipes.longcat(top_k=4),
    "on the input": recipes.llama4(),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tokens", [[7, 5], [9, 0, 4]])
def test_exact_copies_have_the_bits_of_rows_that_travel_each(recipe, tokens):
    require_same(passed(RECIPES[recipe], tokens, deduplicate="exact"), passed(RECIPES[recipe], tokens))


@pytest.mark.parametrize("recipe", RECIPES)
def test_sums_equal_up_to_rounding(recipe):
    tokens = [7, 1, 5]

    def close(a, b, err_msg=""):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=err_msg)

    sums = passed(RECIPES[recipe], tokens, dtype=np.float64, deduplicate="sums")
    require_same(sums, passed(RECIPES[recipe], tokens, dtype=np.float64), close)


def test_every_direction_sends_distinct_tokens_only():
    """All tokens want four of eight experts, two ranks have four each: at most one row of a token goes to the other."""
    tokens, recipe = [40, 40], RECIPES["mixtral"]
    plain, exact, sums = (passed(recipe, tokens, deduplicate=how)[0]["sent"] for how in ("none", "exact", "sums"))
    ahead, back = ("rows", "gradients of answers"), ("answers", "gradients of rows")
    for kind in ahead:
        assert exact[kind] == sums[kind] <= 40 * D * 4 < plain[kind]
    for kind in back:
        assert exact[kind] == plain[kind]
        assert sums[kind] <= 40 * D * 4 < plain[kind]
    assert exact["masks"] == sums["masks"] == exact["rows"] // (D * 4)
    assert exact["gates"] == sums["gates"] == plain["rows"] // D


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("deduplicate", ["none", "exact"])
def test_overlap_changes_no_bit(gated, deduplicate):
    recipe = recipes.qwen2_moe(top_k=3, shared_experts=2) if gated else recipes.deepseek_v2(top_k=3, shared_experts=2)
    both = [passed(recipe, [6, 3], deduplicate=deduplicate, overlap=overlap) for overlap in (True, False)]
    require_same(*both)


class Slow(Alone):
    """A rank whose rows arrive when they are waited for; it notes the order of things."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def begin(self, rows, send, receive, kind):
        self.events.append(f"{kind} leave")
        events = self.events

        class OnTheWay:
            def wait(self):
                events.append(f"{kind} arrive")
                return rows

        return OnTheWay()


def test_shared_experts_are_computed_while_rows_and_their_gradients_travel():
    events = []
    moe = layer(RECIPES["shared"], np.float32)
    share_experts(moe, Slow(events))
    shared = moe.shared.forward

    def noted(x):
        class Seen(Function):
            def forward(self, x):
                events.append("shared forward")
                return x

            def backward(self, grad):
                events.append("shared backward")
                return grad

        return Seen.apply(shared(x))

    moe.shared.forward = noted
    x = Tensor(np.ones((5, D), np.float32), requires_grad=True)
    moe(x)[0].sum().backward()
    moved = [event for event in events if "rows" in event or "shared" in event]
    assert moved == [
        "rows leave", "shared forward", "rows arrive",
        "gradients of rows leave", "shared backward", "gradients of rows arrive",
    ]  # fmt: skip
