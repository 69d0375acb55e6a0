"""The noisy gates of Shazeer et al. (2017) and V-MoE (2021), written from their equations in PyTorch.

fastmoe's noisy_gate.py and vmoe's routing.py follow the same equations.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comparison import difference

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, Router, recipes
from moe_numpy.moe.losses import LoadProbability

T, D, E = 30, 10, 8
DTYPES = ["float32", "float64"]


def limit(dtype):
    return 1e-5 if dtype == "float32" else 1e-10


def kth_excluding(noisy, k, i):
    """The k-th largest entry of each row without entry i (Shazeer et al. 2017, below equation 8)."""
    others = torch.cat([noisy[:, :i], noisy[:, i + 1 :]], dim=1)
    return others.sort(dim=1, descending=True).values[:, k - 1]


def load_of_shazeer(h, sigma, noisy, k):
    """P_ti = Φ((h_ti - kth_excluding(H_t, k, i)) / σ_ti), equation 9, one expert at a time."""
    columns = [(h[:, i] - kth_excluding(noisy, k, i)) / sigma[:, i] for i in range(h.shape[1])]
    return torch.special.ndtr(torch.stack(columns, dim=1))


def load_of_vmoe(h, sigma, noisy, k):
    """p_ti = 1 - Φ((the k-th largest of H_t - h_ti) / σ), appendix A.2."""
    threshold = noisy.sort(dim=1, descending=True).values[:, k - 1 : k]
    return 1 - torch.special.ndtr((threshold - h) / sigma)


def squared_cv(v, ddof):
    return v.var(correction=ddof) / v.mean().square()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rivals", "formula"), [("others", load_of_shazeer), ("all", load_of_vmoe)])
def test_load_probabilities(rivals, formula, dtype, k, seed, check):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((T, E))
    sigma = rng.uniform(0.3, 2, (T, E))
    arrays = [a.astype(dtype) for a in (h, sigma, h + sigma * rng.standard_normal((T, E)))]
    grad = rng.standard_normal((T, E)).astype(dtype)

    mine = [Tensor(a, requires_grad=True) for a in arrays]
    p = LoadProbability.apply(*mine, k=k, rivals=rivals)
    p.backward(grad)
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    q = formula(*theirs, k)
    q.backward(torch.from_numpy(grad))

    differences = {"y": difference(p.data, q)}
    differences |= {f"dx {i}": difference(a.grad, b.grad) for i, (a, b) in enumerate(zip(mine, theirs, strict=True))}
    check(f"load probability, rivals={rivals}", dtype, differences, limit(dtype))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["shazeer_2017", "vmoe"])
def test_gate_and_losses(name, dtype, k, check):
    """The whole gate with the same noise: weights, the sum of both losses, and the gradient of all of it."""
    rng = np.random.default_rng(k)
    config = getattr(recipes, name)(top_k=k, importance=0.1, load=0.2).router
    router = Router(replace(config, capacity=None), D, E, rng=rng, dtype=dtype)
    if router.noise_weight is not None:
        router.noise_weight.data[...] = 0.5 * rng.standard_normal((E, D))
    x = rng.standard_normal((T, D)).astype(dtype)
    noise = np.random.default_rng(7).standard_normal((T, E)).astype(dtype)
    r = rng.standard_normal((T, E)).astype(dtype)

    mine = Tensor(x, requires_grad=True)
    routing = router(mine, Batch(T, True, np.random.default_rng(7)))
    loss = (routing.gate * r[routing.token, routing.expert]).sum() + routing.auxiliary_loss
    loss.backward()
    weight = np.zeros((T, E))
    weight[routing.token, routing.expert] = routing.gate.data

    theirs, gate = torch.tensor(x, requires_grad=True), torch.tensor(router.weight.data, requires_grad=True)
    h = theirs @ gate.T
    parameters = {"weight": gate}
    if name == "shazeer_2017":
        parameters["noise_weight"] = torch.tensor(router.noise_weight.data, requires_grad=True)
        sigma = torch.nn.functional.softplus(theirs @ parameters["noise_weight"].T) + 1e-2
    else:
        sigma = torch.full_like(h, 1 / E)
    noisy = h + torch.from_numpy(noise) * sigma
    choice = torch.zeros(T, E, dtype=torch.bool).scatter(1, noisy.argsort(dim=1, descending=True)[:, :k], True)
    if name == "shazeer_2017":
        w = torch.softmax(torch.where(choice, noisy, -torch.inf), dim=1)
        importance, load, ddof = w.sum(dim=0), load_of_shazeer(h, sigma, noisy, k).sum(dim=0), 1
    else:
        w = torch.softmax(noisy, dim=1) * choice
        importance, load, ddof = torch.softmax(h, dim=1).sum(dim=0), load_of_vmoe(h, sigma, noisy, k).mean(dim=0), 0
    auxiliary = 0.1 * squared_cv(importance, ddof) + 0.2 * squared_cv(load, ddof)
    ((w * torch.from_numpy(r)).sum() + auxiliary).backward()

    differences = {
        "y": difference(weight, w),
        "loss": difference(routing.auxiliary_loss.data, auxiliary),
        "dx": difference(mine.grad, theirs.grad),
        **{f"dW {p}": difference(getattr(router, p).grad, tensor.grad) for p, tensor in parameters.items()},
    }
    check(f"noisy gate, {name}", dtype, differences, limit(dtype))
