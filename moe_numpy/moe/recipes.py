"""Published routers, each a configuration of the same pipeline.

Every recipe is a function of keyword settings that returns a :class:`Recipe`; its defaults are those of the paper or
of the implementation that its docstring names.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..ops import ReLU, Sigmoid, Softmax
from . import own_recipe
from .assignment import BalancedAssignment, Sinkhorn
from .balancers import AdaptiveL1, LossFreeBias, QuantileBalancing
from .capacity import Capacity
from .gates import Gate, PNormalize, Renormalize, Scale, SelectedSoftmax, SqrtSoftplus
from .layer import Recipe
from .losses import GlobalEntropy, Importance, Load, LocalEntropy, Loss, SwitchBalance, ZLoss
from .noise import Jitter, NormalNoise, ShazeerNoise
from .pools import MODALITIES, Pools
from .router import RouterConfig
from .selection import Dense, ExpertChoice, GroupLimited, Hash, RandomSecond, Threshold, TopK
from .tree_losses import TreeImportance, TreeLoad


@dataclass(frozen=True, eq=False)
class PublishedRecipe:
    """A recipe by name, with its origin. Call it with settings to get the :class:`Recipe`.

    For a recipe of one's own, ``paper`` is the file, and there is no year.
    """

    name: str
    year: int | None
    paper: str
    build: Callable[..., Recipe]
    small: Mapping[str, Any]  # settings for a model with 8 experts, where the published ones need more

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it takes, with their defaults."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    def __call__(self, **settings: Any) -> Recipe:
        """Build. ValueError for a setting that this recipe does not have, or that would change nothing."""
        unknown = sorted(settings.keys() - self.settings.keys())
        if unknown:
            has = ", ".join(self.settings) or "none"
            raise ValueError(f"recipe {self.name} has no setting {', '.join(unknown)}; it has: {has}")
        recipe = self.build(**settings)
        eval_factor = settings.get("eval_capacity_factor")
        if eval_factor is not None and (recipe.router is None or recipe.router.capacity is None):
            raise ValueError(f"eval_capacity_factor={eval_factor} needs a capacity_factor, and {self.name} has none")
        return recipe


RECIPES: dict[str, PublishedRecipe] = {}
Build = TypeVar("Build", bound=Callable[..., Recipe])


def published(year: int, paper: str, **small: Any) -> Callable[[Build], Build]:
    """Register a function that returns a recipe under its name."""

    def register(build: Build) -> Build:
        name = build.__name__.removesuffix("_")
        RECIPES[name] = PublishedRecipe(name, year, paper, build, small)
        return build

    return register


def find(name: str) -> PublishedRecipe:
    """The recipe of this name, or your own, FILE.py:FUNCTION; the name of the result then has the absolute path.

    Raises:
        ValueError: there is no such recipe; the message has the nearest names. See also :func:`own_recipe.load`.
    """
    if ":" in name or name.endswith(".py"):
        path, build = own_recipe.load(name)
        return PublishedRecipe(f"{path}:{name.rpartition(':')[2]}", None, str(path), build, {})
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are: {', '.join(RECIPES)}"
        raise ValueError(f"no recipe is called {name!r}{hint}")
    return RECIPES[name]


def _capacity(factor: float | None, eval_factor: float | None, **settings: Any) -> Capacity | None:
    """No limit in training is none in evaluation."""
    return None if factor is None else Capacity(factor, eval_factor=eval_factor, **settings)


def _losses(*parts: Loss) -> tuple[Loss, ...]:
    """The losses with a non-zero coefficient."""
    return tuple(part for part in parts if part.coefficient)


@published(1991, "Jacobs, Jordan, Nowlan, Hinton: Adaptive Mixtures of Local Experts")
def jacobs_1991() -> Recipe:
    """y = Σ_i g_i f_i(x) with g = softmax(h), every token to every expert (equation 1.1).

    The paper trains with a likelihood, :class:`moe_numpy.moe.mixture_1991.MixtureLikelihood`, not with the error
    of the sum: that makes experts compete instead of cooperate.
    """
    return Recipe(RouterConfig(Dense(), gates=()))


@published(1994, "Jordan, Jacobs: Hierarchical Mixtures of Experts and the EM Algorithm")
def hierarchical(
    *, groups: tuple[int, ...] = (2,), top_k: int | None = None, importance: float = 0.1, load: float = 0.1
) -> Recipe:
    """y = Σ_i g_i(x) Σ_j g_(j|i)(x) f_ij(x), softmax gates at all levels, everything dense (equations 1 to 3).

    ``groups`` has the branches of each level above the experts; (2,) is a tree of two levels, (2, 2) of three. With
    ``top_k``, the sparse tree of Shazeer et al. 2017, appendix B: noisy top-k at each level, and the importance and the
    load of all experts balanced from the root.
    """
    groups = tuple(groups)  # a list in a file of settings
    if top_k is None:
        return Recipe(RouterConfig(Dense(), gates=()), groups=groups)
    router = RouterConfig(TopK(top_k), scores=None, gates=(Gate(SelectedSoftmax),), noise=ShazeerNoise())
    losses = tuple(part for part in (TreeImportance(importance), TreeLoad(load)) if part.coefficient)
    return Recipe(router, groups=groups, tree_losses=losses)


@published(2017, "Shazeer et al.: Outrageously Large Neural Networks, equations 3 to 11", top_k=2)
def shazeer_2017(*, top_k: int = 4, importance: float = 0.1, load: float = 0.1) -> Recipe:
    """Noisy top-k: h′ = h + N(0,1) (softplus(x W_nᵀ) + 0.01), top k of h′, then softmax of those.

    Balanced by CV² of the importance and of the expected load. Follows the paper's sample variance; fastmoe's
    noisy_gate.py is the implementation to compare with.
    """
    return Recipe(
        RouterConfig(
            TopK(top_k),
            scores=None,
            gates=(Gate(SelectedSoftmax),),
            noise=ShazeerNoise(),
            losses=_losses(Importance(importance), Load(load)),
        ),
        experts="relu",
    )


@published(2020, "Lepikhin et al.: GShard, algorithm 1")
def gshard(
    *, capacity_factor: float | None = 1.0, eval_capacity_factor: float | None = None, balance: float = 0.01
) -> Recipe:
    """Softmax, top-2 renormalised, the second expert kept with probability min(1, 2 g₂); all first choices go first.

    The paper's capacity is 2T/E (section 2.2), a factor of 1 for two experts per token. The loss counts first
    choices only. Gate weights are normalised before anything is dropped, as in algorithm 1; fairscale normalises
    afterwards.
    """
    return Recipe(
        RouterConfig(
            RandomSecond(),
            gates=(Gate(Renormalize),),
            capacity=_capacity(capacity_factor, eval_capacity_factor),
            losses=_losses(SwitchBalance(balance, count="first")),
        ),
        experts="relu",
    )


@published(2021, "Fedus, Zoph, Shazeer: Switch Transformers, equations 1 to 6")
def switch(
    *,
    top_k: int = 1,
    capacity_factor: float | None = 1.25,
    eval_capacity_factor: float | None = 2.0,
    balance: float = 0.01,
) -> Recipe:
    """Softmax, one expert, its raw probability as gate weight (equation 2); jitter on the router's input.

    Raw, since the renormalised gate of one expert is always 1 and would give the router no gradient. Capacity and
    balance are those of the whole batch; transformers' switch_transformers takes both for each sequence. The capacity
    factor of evaluation is Mesh TensorFlow's capacity_factor_eval.
    """
    return Recipe(
        RouterConfig(
            TopK(top_k),
            gates=(),
            noise=Jitter(0.01),
            capacity=_capacity(capacity_factor, eval_capacity_factor),
            losses=_losses(SwitchBalance(balance)),
        ),
        experts="relu",
    )


@published(2021, "Lewis et al.: BASE Layers, equations 1 to 3")
def base() -> Recipe:
    """One expert each by optimal balanced assignment of the logits while training, greedy afterwards; gate σ(h)."""
    return Recipe(RouterConfig(BalancedAssignment(), scores=Sigmoid, choose_by="logits", gates=()), experts="relu")


@published(2022, "Clark et al.: Unified Scaling Laws for Routed Language Models, section 3.1; Megatron-LM router.py")
def sinkhorn(*, top_k: int = 1) -> Recipe:
    """Sinkhorn-balanced choice of the logits while training, greedy afterwards; gate σ(h) of the chosen.

    With more than one expert per token the gates are softmax(h), not renormalised, as in Megatron-LM.
    """
    scores = Sigmoid if top_k == 1 else Softmax
    return Recipe(RouterConfig(Sinkhorn(top_k), scores=scores, choose_by="logits", gates=()), experts="gelu")


@published(2021, "Roller et al.: Hash Layers for Large Sparse Models")
def hash_(*, vocab_size: int = 256, seed: int = 0) -> Recipe:
    """A fixed table from token id to expert; the expert's output has weight 1, and there is no router to learn."""
    return Recipe(RouterConfig(Hash(vocab_size, seed), gates=(Gate(Renormalize),)), experts="relu")


@published(2021, "Riquelme et al.: Scaling Vision with Sparse Mixture of Experts, sections 2 to 4")
def vmoe(
    *,
    top_k: int = 2,
    capacity_factor: float | None = 1.05,
    eval_capacity_factor: float | None = None,
    importance: float = 0.005,
    load: float = 0.005,
) -> Recipe:
    """Softmax of noisy logits (σ = 1/E), top-k, no renormalisation; tokens queue in the order of their best score.

    Follows vmoe/nn/routing.py: importance is the sum of the softmax without noise, chosen or not; the threshold of the
    load is the k-th noisy logit of all experts; both CV² are of the population, and have the same coefficient.
    """
    return Recipe(
        RouterConfig(
            TopK(top_k),
            gates=(),
            noise=NormalNoise(),
            capacity=_capacity(capacity_factor, eval_capacity_factor, drop="batch_priority"),
            losses=_losses(Importance(importance, of="softmax", ddof=0), Load(load, rivals="all", ddof=0)),
        ),
        experts="gelu",
    )


@published(2021, "Du et al.: GLaM, section 3")
def glam(
    *, capacity_factor: float | None = 1.0, eval_capacity_factor: float | None = None, balance: float = 0.01
) -> Recipe:
    """The gating of GShard with GELU experts; the model has them in every other layer."""
    gating = gshard(capacity_factor=capacity_factor, eval_capacity_factor=eval_capacity_factor, balance=balance)
    return Recipe(gating.router, experts="gelu")


@published(2022, "Zoph et al.: ST-MoE, equations 1 to 6; Mesh TensorFlow moe.py; Flaxformer moe_layers.py")
def st_moe(
    *,
    top_k: int = 2,
    second_threshold: float | None = 0.2,
    capacity_factor: float | None = 1.25,
    eval_capacity_factor: float | None = 2.0,
    balance: float = 0.01,
    z: float = 0.001,
) -> Recipe:
    """Softmax, top-2 renormalised, capacity without k, balance loss of first choices, router z-loss (equation 5).

    C is round(1.25 T/E), and round(2 T/E) in evaluation, for two experts per token (Flaxformer; Mesh TensorFlow rounds
    down; both have at least 4 places). In training the second expert is kept with probability
    min(1, g₂ / ``second_threshold``), as in Mesh TensorFlow. None always keeps it, as Flaxformer does, which also
    leaves the gate weights as they are. The paper's experts are GEGLU networks; these are SwiGLU.
    """
    if second_threshold is not None and top_k != 2:
        raise ValueError(f"second_threshold is for top_k=2, got top_k={top_k}; pass second_threshold=None")
    return Recipe(
        RouterConfig(
            TopK(top_k) if second_threshold is None else RandomSecond(second_threshold),
            capacity=_capacity(capacity_factor, eval_capacity_factor, rounding="round_without_k"),
            losses=_losses(SwitchBalance(balance, count="first"), ZLoss(z)),
        ),
    )


@published(2022, "Zhou et al.: Mixture-of-Experts with Expert Choice Routing, equations 1 and 2")
def expert_choice(*, capacity_factor: float = 2.0, scope: str = "sequence") -> Recipe:
    """Experts take their C best tokens by softmax over experts. Balanced by construction, but it sees the future."""
    return Recipe(RouterConfig(ExpertChoice(capacity_factor, scope), gates=()), experts="gelu")


@published(2023, "Puigcerver et al.: From Sparse to Soft Mixtures of Experts, algorithm 1")
def soft_moe(*, slots: int = 4) -> Recipe:
    """No choice at all: experts process weighted means of all tokens. It sees the future."""
    return Recipe(None, experts="gelu", slots=slots)


@published(2024, "Jiang et al.: Mixtral of Experts, section 2.1")
def mixtral(
    *,
    top_k: int = 2,
    capacity_factor: float | None = None,
    eval_capacity_factor: float | None = None,
    balance: float = 0.01,
    z: float = 0.0,
) -> Recipe:
    """Softmax, top-2, renormalised; nothing is dropped. Softmax(TopK(h)), as the paper writes, is the same function.

    The paper names no balance loss, and the coefficient 0.01 is ours. The published configurations have
    router_aux_loss_coef = 0.02 (8x7B) and 0.001 (8x22B), for another loss: ours is 1 at balance and taken layer by
    layer, that of transformers' mixtral, olmoe, qwen2_moe and qwen3_moe is k, with means over all layers:
    :func:`moe_numpy.moe.losses.balance_of_layers`.
    """
    return Recipe(
        RouterConfig(
            TopK(top_k),
            capacity=_capacity(capacity_factor, eval_capacity_factor),
            losses=_losses(SwitchBalance(balance), ZLoss(z)),
        )
    )


@published(2024, "Muennighoff et al.: OLMoE, section 2", top_k=2)
def olmoe(*, top_k: int = 8, balance: float = 0.01, z: float = 0.001) -> Recipe:
    """Softmax, top-8 of many small experts, no renormalisation, dropless."""
    return Recipe(RouterConfig(TopK(top_k), gates=(), losses=_losses(SwitchBalance(balance), ZLoss(z))))


@published(2024, "Qwen Team: Qwen2 Technical Report, section 2.2.2; transformers qwen2_moe", top_k=2, shared_experts=1)
def qwen2_moe(*, top_k: int = 4, normalize: bool = False, shared_experts: int = 4, balance: float = 0.001) -> Recipe:
    """Softmax, top-k, renormalised only if ``normalize``; a shared expert with the gate σ(x · w_s)."""
    return Recipe(
        RouterConfig(
            TopK(top_k),
            gates=(Gate(Renormalize),) if normalize else (),
            losses=_losses(SwitchBalance(balance)),
        ),
        shared_experts=shared_experts,
        gated_shared=True,
    )


@published(2025, "Qwen Team: Qwen3 Technical Report, section 2; transformers qwen3_moe", top_k=2)
def qwen3_moe(*, top_k: int = 8, normalize: bool = True, balance: float = 0.001) -> Recipe:
    """Softmax, top-8 of 128, renormalised; no shared expert; balanced over the global batch."""
    return Recipe(
        RouterConfig(
            TopK(top_k),
            gates=(Gate(Renormalize),) if normalize else (),
            losses=_losses(SwitchBalance(balance, scope="global")),
        )
    )


@published(2024, "Databricks: DBRX; transformers dbrx", top_k=2)
def dbrx(*, top_k: int = 4, p: float = 1.0, balance: float = 0.05) -> Recipe:
    """Softmax, top-4 of 16, gates divided by their p-norm."""
    return Recipe(RouterConfig(TopK(top_k), gates=(Gate(PNormalize, p=p),), losses=_losses(SwitchBalance(balance))))


@published(2024, "Dai et al.: DeepSeekMoE, equations 6 to 11", top_k=2, shared_experts=1)
def deepseek_moe(*, top_k: int = 6, shared_experts: int = 2, balance: float = 0.001) -> Recipe:
    """Many small experts, a few of which every token uses; softmax, top-k, no renormalisation."""
    return Recipe(
        RouterConfig(TopK(top_k), gates=(), losses=_losses(SwitchBalance(balance))),
        shared_experts=shared_experts,
    )


@published(
    2024,
    "DeepSeek-AI: DeepSeek-V2, section 2.2; transformers deepseek_v2",
    top_k=2,
    num_groups=4,
    top_groups=2,
    shared_experts=1,
)
def deepseek_v2(
    *,
    top_k: int = 6,
    num_groups: int = 8,
    top_groups: int = 3,
    scale: float = 16.0,
    shared_experts: int = 2,
    balance: float = 0.003,
) -> Recipe:
    """Softmax; the groups with the best single experts, then top-k inside them; raw scores times a constant."""
    return Recipe(
        RouterConfig(
            GroupLimited(top_k, num_groups, top_groups, "max"),
            gates=(Scale(scale),),
            losses=_losses(SwitchBalance(balance, scope="sequence")),
        ),
        shared_experts=shared_experts,
    )


@published(
    2024, "DeepSeek-AI: DeepSeek-V3, equations 12 to 20; transformers deepseek_v3", top_k=2, num_groups=4, top_groups=2
)
def deepseek_v3(
    *,
    top_k: int = 8,
    num_groups: int = 8,
    top_groups: int = 4,
    scale: float = 2.5,
    bias_rate: float = 0.001,
    shared_experts: int = 1,
    balance: float = 0.0001,
) -> Recipe:
    """s = σ(h); chosen by s + b, groups by their two best; gates from s alone, renormalised, times 2.5.

    b moves by ±γ after each step, without gradient. A small balance loss in each sequence remains; it counts the
    choice that s alone would have made (equation 18).
    """
    return Recipe(
        RouterConfig(
            GroupLimited(top_k, num_groups, top_groups, "top2"),
            scores=Sigmoid,
            gates=(Gate(Renormalize, epsilon=1e-20), Scale(scale)),
            balancer=LossFreeBias(bias_rate),
            losses=_losses(SwitchBalance(balance, scope="sequence", count="unbiased", scoring=Sigmoid)),
        ),
        shared_experts=shared_experts,
    )


@published(2026, "DeepSeek-AI: DeepSeek-V4, section 2.1; transformers deepseek_v4", top_k=2, shared_experts=1)
def deepseek_v4(
    *,
    top_k: int = 6,
    scale: float = 1.5,
    bias_rate: float = 0.001,
    shared_experts: int = 1,
    balance: float = 0.0001,
    hashed_ids: int = 0,
    seed: int = 0,
) -> Recipe:
    """s = √ln(1 + e^h); chosen by s + b among all experts; gates from s alone, renormalised, times 1.5 (Flash).

    V3's router with another score and without groups; ``bias_rate`` and ``balance`` are V3's, which the report follows
    where it says nothing else. With ``hashed_ids``, the size of the vocabulary, it is the router of the first three
    layers: a fixed table maps each token id to its experts, s is only their gate weight, and nothing is balanced. The
    table is drawn with ``seed``; a published one is a :class:`moe_numpy.moe.selection.GivenTable`. Not here: the clamp
    of the experts' hidden values at 10.
    """
    router = RouterConfig(
        TopK(top_k),
        scores=SqrtSoftplus,
        gates=(Gate(Renormalize, epsilon=1e-20), Scale(scale)),
        balancer=LossFreeBias(bias_rate),
        losses=_losses(SwitchBalance(balance, scope="sequence", count="unbiased", scoring=SqrtSoftplus)),
    )
    if hashed_ids:
        router = replace(router, selection=Hash(hashed_ids, seed, top_k), balancer=None, losses=())
    return Recipe(router, shared_experts=shared_experts)


@published(2025, "OpenAI: gpt-oss model card; transformers gpt_oss", top_k=2)
def gpt_oss(*, top_k: int = 4, balance: float = 0.9) -> Recipe:
    """Logits with a bias, top-4, softmax of those; experts with biases and a clamped SwiGLU."""
    return Recipe(
        RouterConfig(
            TopK(top_k),
            scores=None,
            gates=(Gate(SelectedSoftmax),),
            losses=_losses(SwitchBalance(balance, at_balance="k")),
            bias=True,
        ),
        experts="gpt_oss",
    )


@published(2025, "Meta: Llama 4; transformers llama4")
def llama4(*, top_k: int = 1, shared_experts: int = 1, balance: float = 0.001) -> Recipe:
    """σ of the best logit scales what the expert *sees*; a shared expert beside it."""
    return Recipe(
        RouterConfig(TopK(top_k), scores=Sigmoid, gates=(), gate_on="input", losses=_losses(SwitchBalance(balance))),
        shared_experts=shared_experts,
    )


@published(2024, "Wang et al.: ReMoE, equations 6 to 9")
def remoe(*, average_k: float = 2.0) -> Recipe:
    """g = ReLU(h): each token has as many experts as positive logits, k on average by an adaptive L1 penalty."""
    return Recipe(RouterConfig(Threshold(0.0), scores=ReLU, gates=(), balancer=AdaptiveL1(average_k)))


@published(
    2025, "Meituan LongCat Team: LongCat-Flash, section 2.1; transformers longcat_flash", top_k=2, zero_experts=4
)
def longcat(*, top_k: int = 12, zero_experts: int = 256, scale: float = 6.0, bias_rate: float = 0.001) -> Recipe:
    """Softmax over real experts and some that return their input; chosen by p + b, gates p times a constant."""
    return Recipe(
        RouterConfig(TopK(top_k), gates=(Scale(scale),), balancer=LossFreeBias(bias_rate)),
        zero_experts=zero_experts,
    )


@published(
    2025,
    "Baidu: ERNIE 4.5 Technical Report, section 2 (pools); Mustafa et al. 2022: LIMoE (entropy losses)",
    top_k=2,
    image_experts=4,
    experts_of_both=2,
    shared_experts=1,
)
def multimodal(
    *,
    top_k: int = 6,
    pools: str = "separate",
    image_experts: int = 64,
    experts_of_both: int = 16,
    shared_experts: int = 2,
    balance: float = 0.01,
    local_entropy: float = 0.01,
    global_entropy: float = 0.01,
    experts_in_use: float = 4.0,
) -> Recipe:
    """Softmax, top-k, renormalised; shared experts for all tokens, the others in pools by modality.

    The last ``image_experts`` are for images. ``separate`` pools (ERNIE-4.5-VL): text has the others, and each
    modality its own router and balance loss. ``mixed``: the same, but ``experts_of_both`` in the middle belong to both
    pools. ``shared`` (LIMoE): one router and one pool, where each modality has a local entropy loss and a global one
    with τ = ln(``experts_in_use``). ``image_experts=0``: the model for text alone.
    """
    losses: list[Loss] = [SwitchBalance(balance)]
    found: Pools = ()
    if pools == "shared":
        tau = math.log(experts_in_use)
        for m, name in enumerate(MODALITIES):
            losses.append(LocalEntropy(local_entropy, m, f"{name} local_entropy"))
            losses.append(GlobalEntropy(tau, global_entropy, m, f"{name} global_entropy"))
    elif pools not in ("separate", "mixed"):
        raise ValueError(f"pools must be separate, mixed or shared, got {pools!r}")
    elif image_experts:
        of_both = experts_of_both if pools == "mixed" else 0
        text_end, image_begin = -image_experts + of_both // 2, -image_experts - of_both + of_both // 2
        if text_end >= 0:
            raise ValueError(f"experts_of_both={of_both} must be less than twice image_experts={image_experts}")
        found = ((0, text_end), (image_begin, None))
    return Recipe(RouterConfig(TopK(top_k), losses=_losses(*losses)), shared_experts=shared_experts, pools=found)


@published(2024, "Raposo et al.: Mixture-of-Depths, equation 1")
def mixture_of_depths(*, capacity_factor: float = 0.125) -> Recipe:
    """One network takes the best tokens, x + g f(x) with g = h, the raw logit; the others skip it. Not causal.

    Give it one expert.
    """
    return Recipe(RouterConfig(ExpertChoice(capacity_factor), scores=None, gates=()))


@published(2026, "Su: MoE Odyssey 6, balance by optimal allocation (kexue.fm/archives/11619); Megatron-LM")
def quantile(*, top_k: int = 2, ema: float = 0.9) -> Recipe:
    """Softmax, top-k of h - β renormalised; β is moved to where every expert gets its fair share.

    Proposed by Jianlin Su in February 2026 and validated at 32 billion parameters by Marin (Open Athena 2026). Follows
    Megatron-LM's qb_dual_update, whose ``ema`` smooths β; with 0, the default there, β is that of the last batch.
    """
    return Recipe(RouterConfig(TopK(top_k), choose_by="logits", balancer=QuantileBalancing(top_k, ema)))
