"""Where no shape may depend on values, as on a GPU: dropped assignments stay in the list, and nothing else changes."""

import re
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck.cases import all_cases, run_case
from moe_numpy.moe import Recipe, RouterConfig, make_layer
from moe_numpy.moe.balancers import AdaptiveL1, LossFreeBias
from moe_numpy.moe.capacity import DROP, Capacity, LeaveOut
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.gates import DivideByAtLeast, Gate, PNormalize, Renormalize, Scale, SelectedSoftmax
from moe_numpy.moe.losses import Importance, Load, SwitchBalance, ZLoss
from moe_numpy.moe.noise import ShazeerNoise
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import ExpertChoice, RandomSecond, TopK

B, S, D, F, E = 3, 7, 6, 5, 8
TIGHT = Capacity(0.6)


def of(selection, capacity=TIGHT, *, experts="swiglu", shared=0, zero=0, groups=0, **settings):
    router = RouterConfig(selection, capacity=capacity, **settings)
    shared = {"shared_experts": shared, "gated_shared": bool(shared), "shared_bias": bool(shared)}
    return Recipe(router, experts, zero_experts=zero, groups=(groups,) if groups else (), **shared)


CASES = {name: published(**published.small) for name, published in RECIPES.items()}
CASES = {name: recipe for name, recipe in CASES.items() if recipe.router and recipe.router.capacity}
CASES |= {f"tight {name}": replace(r, router=replace(r.router, capacity=TIGHT)) for name, r in CASES.items()}
CASES |= {
    f"{drop}, {scope}, {'after' if after else 'before'}": of(
        TopK(2), Capacity(0.6, drop=drop, scope=scope), gate_after_dropping=after
    )
    for drop in DROP
    for scope in ("batch", "sequence", 4)
    for after in (False, True)
}
CASES |= {
    f"{experts}, {gate_on}": of(TopK(3), experts=experts, gate_on=gate_on, shared=gate_on == "input")
    for experts in ("swiglu", "relu", "gelu", "gpt_oss")
    for gate_on in ("output", "input")
}
GATES = [
    (Gate(Renormalize, epsilon=1e-3), Scale(2.0)),
    (Gate(DivideByAtLeast, least=0.4),),
    (Gate(SelectedSoftmax),),
    (Gate(PNormalize, p=2),),
    (Gate(PNormalize, p=np.inf), Scale(0.5), Gate(Renormalize)),
    (),
]
CASES |= {f"gates {gates}": of(TopK(3), gates=gates, gate_after_dropping=True) for gates in GATES}
LOSSES = (SwitchBalance(), SwitchBalance(scope="sequence", name="of sequences"), Importance(), ZLoss())
FIRST = (SwitchBalance(count="first"), SwitchBalance(scope="global", name="global"))
CASES |= {
    "losses": of(TopK(2), losses=(*LOSSES, Load()), noise=ShazeerNoise(), balancer=LossFreeBias(0.1)),
    "sent at random": of(RandomSecond(), Capacity(0.8), losses=LOSSES, balancer=AdaptiveL1()),
    "sent at random, by score": of(RandomSecond(), Capacity(0.8, drop="probability"), losses=FIRST),
    "sent at random, of groups": of(RandomSecond(), Capacity(0.8, scope=4), gate_after_dropping=True),
    "sent at random, of sequences": of(RandomSecond(), Capacity(0.8, drop="batch_priority", scope="sequence")),
    "sent at random, no limit": of(RandomSecond(), None, losses=LOSSES),
    "experts choose": of(ExpertChoice(1.5, "batch"), Capacity(0.5), gates=()),
    "zero experts": of(TopK(3), zero=3, gates=()),
    "two levels": of(TopK(2), Capacity(0.8), groups=2, losses=(ZLoss(),)),
    "no place at all": of(TopK(2), Capacity(1e-3, rounding="floor")),
    "room for all": of(TopK(2), Capacity(100.0)),
}  # fmt: skip


def uncut():
    """The shapes of a GPU."""
    return kernels.substitute("where_true", lambda mask: (np.arange(len(mask)), mask))


def results(recipe, dispatch="sorted", mask=None, training=True):
    """All that comes out of a layer, two passes and a step; and its last routing."""
    layer = make_layer(recipe, D, F, E, dispatch=dispatch, rng=np.random.default_rng(0), dtype=np.float64)
    layer.train(training)
    for i, parameter in enumerate(layer.parameters()):  # biases and noise weights are zero at first
        parameter.data += 0.3 * np.random.default_rng(i).standard_normal(parameter.shape)
    rng, noise, shown = np.random.default_rng(1), np.random.default_rng(2), {}
    for n in range(2):
        x, cotangent = rng.standard_normal((2, B, S, D))
        tokens = Tensor(x, requires_grad=True)
        y, routing = layer(tokens, noise, None, mask)
        objective = (y * cotangent).sum()
        (objective if routing.auxiliary_loss is None else objective + routing.auxiliary_loss).backward()
        statistics, kept = routing.statistics, routing.only_kept()
        lost = statistics.dropped
        shown |= {f"{name}, pass {n}": value for name, value in {
            "y": y.data, "dx": tokens.grad, "token": kept.token, "expert": kept.expert, "gate": kept.gate.data,
            "offsets": routing.offsets, "load": statistics.load, "importance": statistics.importance,
            "lost token": lost.token, "lost expert": lost.expert, "lost": statistics.num_dropped,
            "capacity": -1 if lost.capacity is None else lost.capacity, "fraction": statistics.dropped_fraction,
            **{f"loss {name}": loss.data for name, loss in routing.losses.items()},
        }.items()}  # fmt: skip
        assert int(statistics.num_dropped) == len(lost)
    shown |= {f"d {name}": parameter.grad for name, parameter in layer.named_parameters()}
    layer.after_step()
    return shown | {name: buffer.data for name, buffer in layer.named_buffers()}, routing


def compare(*arguments, **settings):
    expected, cut = results(*arguments, **settings)
    with uncut():
        found, whole = results(*arguments, **settings)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("loss"):  # sums of more zeros
            np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    return cut, whole


NAMES = list(CASES)


@pytest.mark.parametrize(
    ("name", "implementation"), [(name, "numpy") for name in NAMES] + [(name, "numba") for name in NAMES[::4]]
)
def test_nothing_changes(name, implementation):
    if implementation == "numba" and find_spec("numba") is None:
        pytest.skip("numba is not installed")
    with kernels.use(implementation):
        cut, whole = compare(CASES[name])
    asked, kept = whole.trace.candidates, len(cut.token)
    assert len(whole.token) == len(whole.expert) == whole.gate.shape[0] == len(asked.token)  # the shapes that count
    assert (whole.expert[kept:] == whole.num_experts).all()
    assert (whole.gate.data[kept:] == 0).all()
    assert whole.only_kept().gate.shape == cut.gate.shape


@pytest.mark.parametrize("name", NAMES[::3])
def test_nothing_changes_in_evaluation(name):
    compare(CASES[name], training=False)


@pytest.mark.parametrize("name", NAMES[1::3])
def test_nothing_changes_with_padding(name):
    compare(CASES[name], mask=np.arange(S) < np.array([[S], [4], [0]]))


@pytest.mark.parametrize("dispatch", STRATEGIES)
@pytest.mark.parametrize("name", ["batch_priority, 4, after", "gpt_oss, input", "zero experts", "two levels"])
def test_nothing_changes_in_any_strategy(name, dispatch):
    compare(CASES[name], dispatch=dispatch)


DROPPING = [c for c in all_cases() if re.match(r"drop_by_batch_priority.*after|switch_with_pad|gshard_so", c.name)]


@pytest.mark.no_cover
@pytest.mark.parametrize("case", DROPPING, ids=[c.name for c in DROPPING])
def test_finite_differences(case):
    with uncut():
        report = run_case(case)
    assert report.passed, report


def test_kept_weights_alone_have_a_gradient():
    gate = Tensor(np.array([1.0, np.nan, 3.0]), requires_grad=True)
    kept = LeaveOut.apply(gate, np.array([True, False, False]))
    kept.backward(np.array([2.0, np.nan, np.inf]))
    assert (kept.data.tolist(), gate.grad.tolist()) == ([1, 0, 0], [2, 0, 0])
