"""Nothing comes from the GPU to the host unawares: the profiler sees as many copies as the code asked for."""

import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, Domain, Trainer, TrainingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning"),  # torch's, about its own default
]

LAYERS = 3


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="the profiler of torch counts the copies, also those of CuPy")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU, so its profiler sees no copies")
    torch.cuda.init()
    return torch


@pytest.fixture
def fetched(monkeypatch):
    """The shapes of what the code fetches deliberately."""
    from moe_numpy.kernels import on_cupy

    shapes, original = [], on_cupy.to_host

    def to_host(x):
        shapes.append(x.shape)
        return original(x)

    monkeypatch.setattr(on_cupy, "to_host", to_host)
    return shapes


def trainer(recipe, dtype, batch_size=8):
    text = np.random.default_rng(0).integers(32, 120, 20_000).astype(np.uint8)
    model = ModelConfig(d_model=64, num_layers=LAYERS, d_ff=64, context=64, recipe=recipe)
    config = TrainingConfig(steps=10, warmup=2, batch_size=batch_size, device="cuda", dtype=dtype)
    return Trainer(model, config, Corpus([Domain("noise", text[:18_000], text[18_000:])]))


def copies_to_the_host(torch, function):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if "Memcpy DtoH" in event.name]


def test_the_profiler_sees_what_cupy_copies(torch):
    import cupy

    x = cupy.arange(3)
    assert len(copies_to_the_host(torch, lambda: float(x[1]))) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", ["mixtral", "deepseek_v3", "gshard", "longcat", "shazeer_2017", "switch", "vmoe"])
def test_a_training_step_copies_only_what_it_asks_for(torch, fetched, recipe, dtype):
    t = trainer(recipe, dtype)
    for _ in range(3):
        t.step()
    fetched.clear()
    copies = copies_to_the_host(torch, t.step)
    assert len(copies) == len(fetched), (copies, fetched)
    assert len(fetched) == 1, fetched  # losses, drops, loads and the gradient norm
    assert t.not_recorded is None


def test_sorting_by_many_tokens_copies_nothing(torch, fetched):
    t = trainer("mixtral", "float32", batch_size=64)  # more tokens than on_cupy sorts by counting
    for _ in range(3):
        t.step()
    fetched.clear()
    copies = copies_to_the_host(torch, t.step)
    assert len(copies) == len(fetched) == 1, (copies, fetched)
