"""Gradient checks of whole layers: every recipe, dispatch strategy, loss and way of dropping."""

from dataclasses import replace

import numpy as np

from ...autodiff import Tensor
from ...moe import RouterConfig, make_layer
from ...moe.capacity import DROP, Capacity, KeepAssignments
from ...moe.dispatch import STRATEGIES
from ...moe.experts import GroupedAffine
from ...moe.gates import PickScores
from ...moe.layer import Recipe
from ...moe.losses import GlobalEntropy, Importance, Load, LocalEntropy, Loss, SwitchBalance, ZLoss
from ...moe.noise import ShazeerNoise
from ...moe.recipes import RECIPES
from ...moe.selection import TopK
from ...ops import Sigmoid
from . import Built, case

# Padding between tokens and behind them.
MASK = np.array([[True, False, True, True], [True, True, False, False]])
# Patches between text, and a sequence that begins with them.
MODALITY = np.array([[0, 1, 1, 0], [1, 1, 0, 0]])


def _layer(
    rng: np.random.Generator,
    recipe: Recipe,
    dispatch: str,
    mask: np.ndarray | None = None,
    modality: np.ndarray | None = None,
) -> Built:
    """Output and auxiliary losses of a whole layer, as a function of its input and of every parameter."""
    layer = make_layer(recipe, 3, 2, 8, dispatch=dispatch, rng=rng, dtype=np.float64)
    places = {
        name: (module, attribute)
        for path, module in layer.named_modules()
        for attribute in vars(module)
        if (name := path + attribute) in dict(layer.named_parameters())
    }
    token_ids = rng.integers(0, 256, (2, 4))

    def f(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        for (module, attribute), weight in zip(places.values(), weights, strict=True):
            setattr(module, attribute, weight)
        for _, module in layer.named_modules():
            module.forget_passes()  # a global balance loss counts earlier passes: f must depend on its inputs alone
        of_tokens = () if modality is None else (modality,)  # Soft MoE has none
        y, routing = layer(x, np.random.default_rng(0), token_ids, mask, *of_tokens)
        return (y,) if routing is None else (y, *routing.losses.values())

    weights = [p.data + 0.1 * rng.standard_normal(p.shape) for p in layer.parameters()]
    return f, [rng.standard_normal((2, 4, 3)), *weights]


def _register(
    name: str, recipe: Recipe, dispatch: str, mask: np.ndarray | None = None, modality: np.ndarray | None = None
) -> None:
    covers = (PickScores, KeepAssignments) if recipe.router else (GroupedAffine,)

    @case(*covers, name=name)
    def build(rng: np.random.Generator) -> Built:
        return _layer(rng, recipe, dispatch, mask, modality)


_LOSSES: dict[str, Loss] = {
    "balance_per_sequence": SwitchBalance(scope="sequence"),
    "balance_global": SwitchBalance(scope="global"),
    "balance_of_first_choices": SwitchBalance(count="first"),
    "balance_without_bias": SwitchBalance(count="unbiased"),
    "balance_k_at_balance": SwitchBalance(at_balance="k"),
    "balance_of_sigmoid_scores": SwitchBalance(scoring=Sigmoid),
    "z": ZLoss(),
    "importance": Importance(),
    "load": Load(),
    "local_entropy": LocalEntropy(),
    "global_entropy": GlobalEntropy(tau=3.0),
}


def _register_layers() -> None:
    """Every recipe with every dispatch strategy, some with padding, every loss, and every way of dropping."""
    for name, published in RECIPES.items():
        recipe = published(**published.small)
        for dispatch in STRATEGIES if recipe.router else ("sorted",):
            _register(f"{name}_{dispatch}", recipe, dispatch, modality=MODALITY if recipe.pools else None)
    for groups in ((2,), (2, 2)):
        settings = {"groups": groups, "top_k": 2, "importance": 0.1, "load": 0.1}
        _register(f"tree_of_{len(groups) + 1}_levels", RECIPES["hierarchical"](**settings), "sorted")
    of_pools = RECIPES["multimodal"]
    for pools in ("mixed", "shared"):
        recipe = of_pools(**dict(of_pools.small) | {"pools": pools})
        _register(f"multimodal_{pools}_pools", recipe, "sorted", modality=MODALITY)
    _register("multimodal_with_padding", of_pools(**of_pools.small), "sorted", MASK, MODALITY)
    for of_images in (LocalEntropy(modality=1), GlobalEntropy(tau=3.0, modality=1)):
        router = RouterConfig(TopK(2), losses=(of_images,))
        recipe = replace(RECIPES["mixtral"](), router=router)
        _register(f"loss_{of_images.name}_of_images", recipe, "sorted", modality=MODALITY)
    for name in ("mixtral", "switch", "expert_choice", "deepseek_v3", "hierarchical", "soft_moe"):
        _register(f"{name}_with_padding", RECIPES[name](**RECIPES[name].small), "sorted", MASK)
    for name, loss in _LOSSES.items():
        noise = ShazeerNoise() if isinstance(loss, Load) else None
        router = RouterConfig(TopK(2), noise=noise, losses=(loss,))
        _register(f"loss_{name}", replace(RECIPES["mixtral"](), router=router), "sorted")
    for drop in DROP:
        for after in (False, True):
            router = RouterConfig(TopK(2), capacity=Capacity(0.6, drop=drop), gate_after_dropping=after)
            name = f"drop_by_{drop}_gated_{'after' if after else 'before'}"
            _register(name, replace(RECIPES["mixtral"](), router=router), "sorted")


_register_layers()
