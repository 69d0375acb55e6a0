"""Library code must not reach for ``np.`` on an array that may live on a GPU, nor bring it to the host unawares.

:class:`Device` stands for such an array. It computes through NumPy, but refuses to become a NumPy array: ``np.exp(x)``,
``np.asarray(x)`` and ``x + numpy_array`` all fail, as they do for arrays of CuPy. So does what a GPU would have to be
waited for: ``float(x)``, ``if x``, ``x.tolist()``, a loop over x, and a boolean mask as index, since the number of its
entries is wanted. The way back is ``to_host(x)`` alone. Kernels are the place where libraries may differ,
so the definition in NumPy serves here, on unwrapped arrays.
"""

import sys
import types
from dataclasses import asdict, replace

import array_api_compat
import jaxtyping
import numpy as np
import pytest
from published_models import DEEPSEEK, MINIMAX, MIXTRAL, make_published

from moe_numpy import devices, ops
from moe_numpy.autodiff import Tensor
from moe_numpy.instruments.routing_report import route_sentence
from moe_numpy.kernels import registry, to_host
from moe_numpy.kernels.kernel import GPU_IMPLEMENTATIONS
from moe_numpy.models import ModelConfig, Transformer, generate
from moe_numpy.moe import MoE, RouterConfig, make_layer, recipes
from moe_numpy.moe.capacity import DROP, Capacity
from moe_numpy.moe.selection import TopK
from moe_numpy.ops import CrossEntropy
from moe_numpy.pretrained import PublishedConfig, TensorFiles
from moe_numpy.training import (
    AdamW,
    Corpus,
    Domain,
    Run,
    Trainer,
    TrainingConfig,
    clip_factor,
    global_norm,
    loop,
)
from moe_numpy.training.evaluation import evaluate


def unwrap(value):
    if isinstance(value, Device):
        return value.inner
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value))
    if isinstance(value, dict):
        return {name: unwrap(v) for name, v in value.items()}
    return value


def wrap(value):
    if isinstance(value, np.ndarray | np.generic):
        return Device(np.asarray(value))
    return tuple(map(wrap, value)) if isinstance(value, tuple) else value


def refuse_hosts(values):
    for value in values:
        if isinstance(value, np.ndarray | np.generic):
            raise TypeError(f"a NumPy {type(value).__name__} among arrays of a device")
        if isinstance(value, list | tuple):
            refuse_hosts(value)


def on_device(function):
    def call(*args, **kwargs):
        refuse_hosts([*args, *kwargs.values()])
        return wrap(function(*unwrap(args), **unwrap(kwargs)))

    return call


class Device:
    """An array of another library."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, inner):
        self.inner = inner

    def __array__(self, *args, **kwargs):
        raise TypeError("an array of a device does not silently become a NumPy array")

    def __array_namespace__(self, api_version=None):
        return namespace

    shape = property(lambda self: self.inner.shape)
    dtype = property(lambda self: self.inner.dtype)
    ndim = property(lambda self: self.inner.ndim)
    size = property(lambda self: self.inner.size)
    nbytes = property(lambda self: self.inner.nbytes)
    device = property(lambda self: 0)  # its number, as of CuPy
    T = property(lambda self: wrap(self.inner.T))

    def __len__(self):
        return len(self.inner)

    def __setitem__(self, index, value):
        refuse_hosts([index, value])
        refuse_masks(index)
        self.inner[unwrap(index)] = unwrap(value)

    def __getitem__(self, index):
        refuse_masks(index)
        return on_device(np.ndarray.__getitem__)(self, index)


def silent(self, *args, **kwargs):
    raise TypeError("values of a device are wanted on the host; use to_host(x)")


def refuse_masks(index):
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, Device) and part.dtype == bool:
            silent(part)


SILENT = "item tolist nonzero __bool__ __int__ __float__ __complex__ __index__ __iter__ __contains__"
for _name in SILENT.split():
    setattr(Device, _name, silent)


OPERATORS = """
    add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod pow rpow matmul rmatmul
    lt le gt ge eq ne and or xor neg abs invert
"""
METHODS = """
    reshape transpose sum mean max min argmax astype swapaxes copy all any round cumsum argsort var std
"""


def method(name):
    return lambda self, *args, **kwargs: on_device(getattr(np.ndarray, name))(self, *args, **kwargs)


for _name in OPERATORS.split():
    setattr(Device, f"__{_name}__", method(f"__{_name}__"))
for _name in ["iadd", "isub", "imul", "itruediv"]:

    def in_place(self, other, _operator=f"__{_name}__"):
        refuse_hosts([other])
        getattr(self.inner, _operator)(unwrap(other))
        return self

    setattr(Device, f"__{_name}__", in_place)
for _name in METHODS.split():
    setattr(Device, _name, method(_name))


def wrapped_module(module, name):
    fake = types.ModuleType(name)
    for attribute in dir(module):
        value = getattr(module, attribute)
        plain = isinstance(value, type) or not callable(value)
        setattr(fake, attribute, value if plain else on_device(value))
    return fake


namespace = wrapped_module(np, "device")
namespace.nonzero = namespace.flatnonzero = namespace.argwhere = namespace.unique = silent
namespace.asarray = lambda x, **settings: wrap(np.asarray(unwrap(x), **settings))  # the way onto the device
definitions = types.ModuleType("moe_numpy.kernels.on_device")
vars(definitions).update({name: on_device(kernel.definition) for name, kernel in registry.items()})
definitions.to_host = unwrap  # and the way back
definitions.where_true = on_device(lambda mask: (np.arange(len(mask)), mask))  # shapes follow from shapes


@pytest.fixture(autouse=True)
def devices_have_kernels(monkeypatch):
    """Arrays of a device get the definition. Shapes are not checked: the checker would look into the arrays."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setitem(GPU_IMPLEMENTATIONS, __name__, "on_device")
    monkeypatch.setitem(sys.modules, definitions.__name__, definitions)


def device(x):
    return Device(np.asarray(x))


def test_the_device_refuses_what_a_gpu_array_refuses():
    x = device(np.ones(3))
    mistakes = [lambda: np.exp(x), lambda: np.asarray(x), lambda: x + np.ones(3), lambda: np.ones(3) * x]
    mistakes += [lambda: float(x[0]), lambda: [0, 1][x[0]], lambda: bool(x[0] > 0), lambda: list(x), lambda: x.tolist()]
    mistakes += [lambda: x[0].item(), lambda: x[x > 0], lambda: 1.0 in x, lambda: namespace.nonzero(x)]
    for mistake in mistakes:
        with pytest.raises(TypeError):
            mistake()
    assert to_host(x).tolist() == [1, 1, 1]
    assert array_api_compat.array_namespace(x) is namespace
    assert isinstance(x.sum(), Device)


def run_both(function, *arrays):
    """Value and gradients on the device equal those on the host."""
    results = []
    for put, get in ((np.asarray, np.asarray), (device, unwrap)):
        leaves = [Tensor(put(a), requires_grad=a.dtype.kind == "f") for a in arrays]
        y = function(*leaves)
        y.backward(put(np.ones(y.shape, y.dtype)))
        results.append([get(y.data)] + [get(leaf.grad) for leaf in leaves if leaf.requires_grad])
    for host, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, host, rtol=1e-6, atol=1e-6)


SQUARE = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
HEADS = np.random.default_rng(1).standard_normal((1, 2, 3, 4)).astype(np.float32)
UNARY = [
    ops.ReLU,
    ops.Sigmoid,
    ops.Tanh,
    ops.Softplus,
    ops.GELU,
    ops.SiLU,
    ops.Softmax,
    ops.LogSoftmax,
    ops.Exp,
    ops.Negate,
]
UNARY += [ops.Transpose, ops.Sum, ops.Mean, ops.Max]
BINARY = [ops.Add, ops.Subtract, ops.Multiply, ops.Divide, ops.MatMul, ops.SwiGLU]


@pytest.mark.parametrize("op", UNARY)
def test_unary_ops(op):
    run_both(op.apply, SQUARE)


@pytest.mark.parametrize("op", BINARY)
def test_binary_ops(op):
    run_both(op.apply, SQUARE, SQUARE[::-1].copy())


def test_ops_of_a_transformer():
    run_both(lambda x, w: ops.RMSNorm.apply(x, w[0]), SQUARE, SQUARE)
    run_both(lambda x, w, b: ops.LayerNorm.apply(x, w[0], b[0]), SQUARE, SQUARE, SQUARE)
    run_both(lambda x, w: ops.Affine.apply(x, w, None), SQUARE, SQUARE)
    run_both(ops.CausalAttention.apply, HEADS, HEADS, HEADS)
    run_both(ops.RotaryEmbedding.apply, HEADS)
    run_both(lambda x: ops.LogSumExp.apply(x, axis=1), SQUARE)
    run_both(lambda x: ops.Concatenate.apply(x, x, axis=0), SQUARE)
    run_both(lambda x: ops.Reshape.apply(x, shape=(2, 8)), SQUARE)
    run_both(lambda x: x[1:, 2], SQUARE)


def test_loss_and_embedding():
    ids = np.array([3, 0, 3, 1])
    for put, get in ((np.asarray, np.asarray), (device, unwrap)):
        weight = Tensor(put(SQUARE), requires_grad=True)
        loss = ops.CrossEntropy.apply(ops.EmbeddingLookup.apply(weight, put(ids)), put(ids))
        loss.backward()
        gradient = get(weight.grad)
        expected = gradient if put is np.asarray else expected
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def on_host_and_device(build):
    """``build(put)`` makes modules and arrays with ``put`` and returns arrays; they are equal on both."""
    host, other = build(np.asarray), unwrap(build(device))
    for a, b in zip(host, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def move(module, put):
    for tensor in [*module.parameters(), *(b for _, b in module.named_buffers())]:
        tensor.data = put(tensor.data)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_every_recipe(recipe, training):
    published = recipes.find(recipe)
    x = np.random.default_rng(2).standard_normal((2, 12, 6)).astype(np.float32)
    ids = np.random.default_rng(4).integers(0, 256, (2, 12))

    def build(put):
        layer = make_layer(published(**published.small), 6, 5, 8, rng=np.random.default_rng(3)).train(training)
        move(layer, put)
        tokens = Tensor(put(x), requires_grad=True)
        y, routing = layer(tokens, np.random.default_rng(5), put(ids))
        y.backward(put(x), retain_graph=True)
        if routing is not None and routing.auxiliary_loss is not None:
            routing.auxiliary_loss.backward()
        layer.after_step()
        return [y.data, tokens.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]

    on_host_and_device(build)


@pytest.mark.parametrize("dispatch", ["padded", "onehot", "loop"])
def test_every_dispatch_strategy(dispatch):
    x = np.random.default_rng(2).standard_normal((12, 6)).astype(np.float32)

    def build(put):
        layer = MoE(6, 5, 8, recipes.mixtral(capacity_factor=1.0), dispatch=dispatch, rng=np.random.default_rng(3))
        move(layer, put)
        tokens = Tensor(put(x), requires_grad=True)
        y, _ = layer(tokens)
        y.backward(put(x))
        return [y.data, tokens.grad, *(p.grad for p in layer.parameters())]

    on_host_and_device(build)


def test_a_training_step():
    config = ModelConfig(d_model=16, num_layers=2, d_ff=8, num_heads=2, num_kv_heads=1, context=8)
    ids = np.random.default_rng(4).integers(0, 256, (2, 9))

    def build(put):
        model = Transformer(config, rng=np.random.default_rng(3))
        move(model, put)
        optimizer = AdamW(model.named_parameters(), lr=1e-3)
        output = model(put(ids[:, :-1].copy()), rng=np.random.default_rng(5))
        (CrossEntropy.apply(output.logits, put(ids[:, 1:].copy())) + output.auxiliary_loss).backward()
        norm = global_norm(p.grad for p in model.parameters())
        optimizer.step(gradient_scale=clip_factor(norm, 1.0))
        return [p.data for p in model.parameters()]

    on_host_and_device(build)


@pytest.fixture
def cuda(monkeypatch):
    """The device "cuda" has these arrays, and draws on the host: what is drawn is then the same on both."""
    original = devices.namespace
    monkeypatch.setattr(devices, "namespace", lambda name: namespace if name == "cuda" else original(name))
    monkeypatch.setattr(loop, "key_of", np.array)
    monkeypatch.setattr(loop, "DeviceGenerator", lambda key: np.random.default_rng(unwrap(key)))


@pytest.fixture
def fetched(monkeypatch):
    """The shapes of what comes to the host."""
    shapes = []

    def to_host(x):
        if isinstance(x, Device):
            shapes.append(x.shape)
        return unwrap(x)

    monkeypatch.setattr(definitions, "to_host", to_host)
    return shapes


def trainer(device, recipe="mixtral", **settings):
    rng = np.random.default_rng(0)
    texts = [rng.integers(low, low + 60, 400).astype(np.uint8) for low in (30, 100)]
    corpus = Corpus([Domain(name, t[:300], t[300:]) for name, t in zip("ab", texts, strict=True)])
    model = ModelConfig(d_model=16, num_layers=2, d_ff=8, num_heads=2, num_kv_heads=1, context=12, recipe=recipe)
    return Trainer(model, TrainingConfig(steps=4, warmup=1, batch_size=2, device=device, **settings), corpus)


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES.keys() - {"multimodal"}))  # on the CPU, with pictures
def test_the_trainer(recipe, cuda):
    host, other = trainer("cpu", recipe), trainer("cuda", recipe)
    for _ in range(2):
        expected, record = host.step(), other.step()
        assert record.loss == pytest.approx(expected.loss, rel=1e-5)
        assert record.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
        assert record.expert_load == expected.expert_load
        assert record.dropped_fraction == expected.dropped_fraction
    assert all(isinstance(p.data, Device) for p in other.model.parameters())


@pytest.mark.parametrize("values", [MIXTRAL, MINIMAX, DEEPSEEK], ids=["mixtral", "minimax_m2", "deepseek_v3"])
def test_the_trainer_of_a_published_model(values, cuda, fetched, tmp_path):
    make_published(tmp_path, values, tokenizer="{}")
    settings = replace(PublishedConfig.read(tmp_path, TensorFiles.open(tmp_path)), window=12)
    corpus, freeze = trainer("cpu").corpus, ("layers.1.feed_forward.router.*", "embedding.*")
    training = TrainingConfig(steps=4, warmup=1, batch_size=2, freeze=freeze)
    host, other = (Trainer(settings, replace(training, device=d), corpus, tmp_path) for d in ("cpu", "cuda"))
    fetched.clear()
    expected, record = host.step(), other.step()
    layers = len(settings.routed_layers)
    assert fetched == [(1 + 2 + layers * (1 + settings.num_experts),)]
    assert record.loss == pytest.approx(expected.loss, rel=1e-5)
    assert record.auxiliary_loss == pytest.approx(expected.auxiliary_loss, rel=1e-5)
    assert record.expert_load == expected.expert_load
    for (name, a), (_, b) in zip(host.model.named_buffers(), other.model.named_buffers(), strict=True):
        np.testing.assert_allclose(to_host(b.data), a.data, err_msg=name)


HOST = {"base", "hierarchical", "remoe", "sinkhorn"}  # where values decide a shape, or when to stop


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES.keys() - HOST - {"soft_moe", "multimodal"}))
def test_one_array_a_step_comes_to_the_host(recipe, cuda, fetched):
    t = trainer("cuda", recipe, accumulate=2)
    t.step()
    layers, experts = 2, t.model.num_routes
    assert fetched == [(1 + 2 * (2 + layers * (1 + experts)),)]  # Σ g²; of each pass both losses, drops and loads


@pytest.mark.parametrize("drop", DROP)
@pytest.mark.parametrize("after", [False, True])
def test_capacity_brings_nothing_to_the_host(drop, after, fetched):
    router = RouterConfig(TopK(2), capacity=Capacity(0.7, drop=drop, scope=5), gate_after_dropping=after)
    layer = MoE(6, 5, 8, router, rng=np.random.default_rng(3))
    move(layer, device)
    y, routing = layer(Tensor(device(np.ones((12, 6), np.float32))), np.random.default_rng(5))
    y.backward(y.data)
    assert fetched == []
    assert routing.token.shape == (24,)
    assert to_host(routing.statistics.num_dropped) == len(routing.statistics.dropped) > 0


def test_a_generator_draws_the_same_on_every_device(cuda):
    key = devices.key_of(3)
    host, other = devices.DeviceGenerator(key), devices.generator("cuda", 3)
    for name, arguments in [("random", ()), ("uniform", (1, 2)), ("standard_normal", ()), ("gumbel", ())]:
        a, b = (getattr(g, name)(*arguments, size=(3, 5)) for g in (host, other))
        np.testing.assert_array_equal(to_host(b), a)
    np.testing.assert_array_equal(to_host(other.permutation(9)), host.permutation(9))


def test_a_run_goes_from_device_to_device(cuda, tmp_path):
    begun, straight = trainer("cuda"), trainer("cpu")
    run = Run.start(tmp_path, begun.model.config, begun.config)
    run.append_history(asdict(begun.step()))
    begun.save(run)
    continued = trainer("cpu")
    continued.resume(run)
    for t in (straight, straight, continued):
        t.step()
    for a, b in zip(continued.model.parameters(), straight.model.parameters(), strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-4, atol=1e-5)
    back = trainer("cuda")
    back.resume(run)
    assert back.completed == 1
    np.testing.assert_array_equal(back.optimizer.first["norm.weight"].inner, begun.optimizer.first["norm.weight"].inner)


def test_evaluation_and_generation(cuda):
    host, other = trainer("cpu").model, trainer("cuda").model
    windows = trainer("cpu").corpus.validation_windows(12)
    expected, found = (evaluate(model, windows, 2) for model in (host, other))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_array_equal(found.assignments, expected.assignments)
    texts = [list(generate(m, np.array([65, 66]), 20, rng=np.random.default_rng(0))) for m in (host, other)]
    assert texts[0] == texts[1]
    routed = [route_sentence(model, b"ABC").first_choice.tolist() for model in (host, other)]
    assert routed[0] == routed[1]


def test_a_tensor_shows_its_values():
    x = Tensor(device(np.float32([1.5])))
    assert (x.item(), bool(x), repr(x)) == (1.5, True, "Tensor([1.5])")
