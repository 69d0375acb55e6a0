import json
import tracemalloc

import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.instruments.saved_bytes import dispatch_table, saved_by_dispatch, saved_bytes
from moe_numpy.moe import Batch, MoE, Router, RouterConfig, dispatch
from moe_numpy.moe.experts import SwiGLUExperts
from moe_numpy.moe.selection import TopK
from moe_numpy.ops import Exp, Reshape

STRATEGIES = {name: f for name, f in dispatch.STRATEGIES.items() if name != "exchange"}  # which needs several ranks


def case(T, d, f, E, k, dtype=np.float32, seed=0):
    """Tokens, where they go and experts."""
    rng = np.random.default_rng(seed)
    router = Router(RouterConfig(TopK(k)), d, E, rng=rng, dtype=dtype)
    x = rng.standard_normal((T, d)).astype(dtype)
    routing = router(Tensor(x), Batch(T))
    return x, routing, SwiGLUExperts(E, d, f, rng=rng, dtype=dtype)


def busiest(routing):
    return int(np.diff(routing.offsets).max())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 4), (np.float64, 8)])
@pytest.mark.parametrize("sizes", [(20, 8, 6, 4, 2), (31, 5, 7, 3, 1), (12, 4, 9, 5, 5)])
def test_formula_and_graph_agree_to_the_byte(strategy, sizes, dtype, size):
    x, routing, experts = case(*sizes, dtype=dtype)
    table = dispatch_table(*sizes, busiest(routing), float_size=size, index_size=routing.token.itemsize)
    assert saved_by_dispatch(strategy, x, routing, experts).total == table[strategy].total


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_what_the_forward_pass_leaves_allocated(strategy, monkeypatch):
    # The engine samples saved arrays to notice changes; with small experts, the samples would count.
    monkeypatch.setattr("moe_numpy.autodiff.function._fingerprint", lambda array: None)
    x, routing, experts = case(512, 96, 128, 8, 2)
    tokens = Tensor(x, requires_grad=True)
    counted = saved_by_dispatch(strategy, x, routing, experts).total
    with kernels.use("numpy"):  # the compiled kernels hand out memory that they have had before
        STRATEGIES[strategy](tokens, routing, experts)  # what is imported or cached at the first call does not count
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            y = STRATEGIES[strategy](tokens, routing, experts)
            allocated = tracemalloc.get_traced_memory()[0] - before - y.data.nbytes
        finally:
            tracemalloc.stop()
    assert allocated == pytest.approx(counted, rel=0.03)


def test_nothing_keeps_fewer_floats_than_sorted_and_the_mask_grows_with_the_square():
    at = {T: dispatch_table(T, 64, 96, 8, 2, T // 4) for T in (256, 1024)}
    for table in at.values():
        assert table["sorted"].float_bytes == min(row.float_bytes for row in table.rows)
    assert at[1024]["sorted"].float_bytes == 4 * at[256]["sorted"].float_bytes
    assert at[1024]["onehot"].float_bytes > 7 * at[256]["onehot"].float_bytes


def test_an_array_counts_once_and_leaves_do_not():
    x = Tensor(np.ones(10, np.float32), requires_grad=True)
    y = Exp.apply(x)  # keeps y
    assert saved_bytes(y * y).by_function == {"Multiply": 40}  # y twice and by Exp: one array
    assert saved_bytes(x * x).total == 0
    assert saved_bytes(Reshape.apply(x, shape=(2, 5)) * 2.0).total == 0  # a view of a leaf


def test_a_view_keeps_the_whole_array():
    y = Exp.apply(Tensor(np.ones(10, np.float32), requires_grad=True))
    assert saved_bytes(y[:2] * y[:2]).total == 40


def test_an_index_counts_too():
    x = Tensor(np.ones((4, 4), np.float32), requires_grad=True)
    i = np.array([0, 1, 2])
    assert saved_bytes(x[i]).by_function == {"GetItem": 24}
    assert saved_bytes(x[i, i + 1]).by_function == {"GetItem": 48}


def test_a_whole_layer_is_more_than_its_dispatch():
    layer = MoE(8, 6, 4, RouterConfig(TopK(2)), rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
    y, routing = layer(Tensor(x, requires_grad=True))
    whole = saved_bytes(y)
    assert whole.total > saved_by_dispatch("sorted", x, routing, layer.experts).total
    assert {"Softmax", "PickScores", "Renormalize"} <= set(whole.by_function)


def test_after_backward_nothing_is_kept():
    y = Exp.apply(Tensor(np.ones(10), requires_grad=True)).sum()
    y.backward()
    assert saved_bytes(y).total == 0


def test_as_text_and_json():
    x, routing, experts = case(20, 8, 6, 4, 2)
    table = dispatch_table(20, 8, 6, 4, 2, 16)
    assert str(table).splitlines()[0] == "T=20 d=8 f=6 E=4 k=2 C=16"
    assert [line.split()[0] for line in str(table).splitlines()[2:]] == list(STRATEGIES)
    assert f"{table['sorted'].total:,}" in str(table)
    assert len(json.loads(json.dumps(table.as_json()))["rows"]) == 4
    counted = saved_by_dispatch("sorted", x, routing, experts)
    assert str(counted).splitlines()[-1].split() == ["all", f"{counted.total:,}"]
    assert json.loads(json.dumps(counted.as_json()))["total"] == counted.total


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 8, 6, 4, 2, 16), "T must be positive, got 0"),
        ((20, 8, 6, 4, 2, 9), "C must be at least k T / E = 10, got 9"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        dispatch_table(*sizes)


def test_a_tensor_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="has no graph"):
        saved_bytes(Tensor(np.ones(3)))
