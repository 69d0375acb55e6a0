"""The balance losses of transformers, and the router z-loss: values and gradients with respect to the logits."""

import numpy as np
import pytest
import torch
from comparison import difference, route
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.mixtral import modeling_mixtral
from transformers.models.olmoe import modeling_olmoe
from transformers.models.qwen2_moe import modeling_qwen2_moe
from transformers.models.qwen3_moe import modeling_qwen3_moe
from transformers.models.switch_transformers import modeling_switch_transformers as switch_transformers

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import RouterConfig
from moe_numpy.moe.losses import SwitchBalance, ZLoss, balance_of_layers
from moe_numpy.moe.selection import TopK
from moe_numpy.ops import Softmax

MIXTRAL_FAMILY = [modeling_mixtral, modeling_olmoe, modeling_qwen2_moe, modeling_qwen3_moe, modeling_gpt_oss]


@pytest.fixture
def check_loss(check):
    """Values to 1e-6; gradients, relative to their largest entry, to 1e-5 in float32 and 1e-6 in float64."""

    def check_both(name, dtype, differences):
        check(name, dtype, {what: value for what, value in differences.items() if what == "loss"}, 1e-6)
        check(name, dtype, differences, 1e-5 if dtype == "float32" else 1e-6)

    return check_both


def name_of(module):
    return module.__name__.rpartition(".")[2].removeprefix("modeling_")


def logits(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gradient_of(loss, *leaves):
    return [gradient.numpy() for gradient in torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("num_experts", "k"), [(8, 2), (16, 1), (16, 5)])
@pytest.mark.parametrize("module", MIXTRAL_FAMILY, ids=name_of)
def test_mixtral_family(module, num_experts, k, dtype, check_loss):
    """One layer. The value at perfect balance is k, not 1."""
    h = logits((40, num_experts), dtype)
    leaf = torch.tensor(h, requires_grad=True)
    theirs = module.load_balancing_loss_func((leaf,), num_experts, k)
    mine, routing = route(RouterConfig(TopK(k), losses=(SwitchBalance(1.0, at_balance="k"),)), h)
    routing.losses["balance"].backward()
    (dh,) = gradient_of(theirs, leaf)
    differences = {"loss": difference(routing.losses["balance"].data, theirs), "dh": difference(mine.grad, dh, floor=0)}
    check_loss(f"loss {name_of(module)}", dtype, differences)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "with padding"])
def test_mixtral_family_over_layers(padded, dtype, check_loss):
    """f and P are means over all layers. A mask is the same as leaving out the rows of padding tokens."""
    num_experts, k = 8, 2
    layers = [logits((2 * 12, num_experts), dtype, seed) for seed in range(3)]
    mask = np.ones((2, 12), bool)
    if padded:
        mask[0, 7:] = mask[1, 10:] = False
    leaves = [torch.tensor(h, requires_grad=True) for h in layers]
    theirs = modeling_mixtral.load_balancing_loss_func(
        tuple(leaves), num_experts, k, torch.from_numpy(mask) if padded else None
    )
    rows = mask.reshape(-1)
    mine = [Tensor(h[rows], requires_grad=True) for h in layers]
    loads = [np.bincount(np.argsort(-h[rows])[:, :k].reshape(-1), minlength=num_experts) for h in layers]
    loss = balance_of_layers([Softmax.apply(h, axis=-1) for h in mine], loads)
    loss.backward()
    dh = gradient_of(theirs, *leaves)
    assert not any(gradient[~rows].any() for gradient in dh)
    differences = {"loss": difference(loss.data, theirs)} | {
        f"dh {i}": difference(h.grad, gradient[rows], floor=0)
        for i, (h, gradient) in enumerate(zip(mine, dh, strict=True))
    }
    check_loss("loss of layers, padded" if padded else "loss of layers", dtype, differences)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_switch(dtype, check_loss):
    """Switch Transformer's, which is the mean of the losses of single sequences, and the z-loss."""
    batch, length, num_experts = 3, 14, 8
    h = logits((batch * length, num_experts), dtype)
    leaf = torch.tensor(h, requires_grad=True)
    grouped = leaf.reshape(batch, length, num_experts)
    probabilities = torch.softmax(grouped, dim=-1)
    theirs = {
        "balance": switch_transformers.load_balancing_loss_func(probabilities, probabilities.argmax(dim=-1)),
        "z": switch_transformers.router_z_loss_func(grouped),
    }
    config = RouterConfig(TopK(1), gates=(), losses=(SwitchBalance(1.0, scope="sequence"), ZLoss(1.0)))
    for name, loss in theirs.items():
        mine, routing = route(config, h, length)
        routing.losses[name].backward()
        torch_dh = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        differences = {
            "loss": difference(routing.losses[name].data, loss),
            "dh": difference(mine.grad, torch_dh, floor=0),
        }
        check_loss(f"loss switch, {name}", dtype, differences)
