"""Scaling laws fitted to trained models: coefficients with error bars, and how well they predict the widest models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from moe_numpy.accounting.scaling_laws import (
    PUBLISHED,
    FineGrained,
    Law,
    Point,
    Routed,
    intervals,
    percentiles,
)

from .scaling_sweep import SWEEPS, Model, Result, without_seed

LAWS: dict[str, type[FineGrained] | type[Routed]] = {"krajewski": FineGrained, "clark": Routed}
BESIDE = {"krajewski": "krajewski", "clark": "S-BASE"}  # published coefficients
_NEAR_END = 0.02  # of the end of a range that is searched


def chosen(law: str, name: str, results: Mapping[Model, Result]) -> list[Result]:
    """The models that a law is about: with one number of experts, or with whole experts and equally many tokens."""
    sweep = SWEEPS[name]
    usual = [each for each in results.values() if each.rate == 1]
    if law == "krajewski":
        return [each for each in usual if each.experts == sweep.fixed_experts]
    return [each for each in usual if each.granularity == 1 and each.tokens == sweep.fixed_tokens]


def point(result: Result) -> Point:
    """A trained model as a law sees it."""
    return Point(result.parameters, result.loss, result.tokens, result.experts, result.granularity)


def fitted(
    law: str, name: str, results: Mapping[Model, Result], resamples: int, on_resample: Callable[[], None]
) -> dict[str, Any]:
    """A law's coefficients, their intervals, its error, and its error for the widest models from all narrower ones.

    Raises:
        ValueError: the models do not suffice.
    """
    of_law, kind = chosen(law, name, results), LAWS[law]
    points = [point(each) for each in of_law]
    found = kind.fit(points)
    drawn: list[Law] = []
    for each in intervals(kind.fit, points, np.random.default_rng(0), resamples):
        drawn.append(each)
        on_resample()
    return {
        "models": len(points),
        "coefficients": asdict(found),
        "intervals": percentiles(drawn) if drawn else None,
        "at_a_limit": _at_a_limit(found),
        "error": _root_mean_square(found.loss(points) - _losses(points)),
        "widest": _widest(kind, points),
        "published": asdict(PUBLISHED[BESIDE[law]]),
        "predicted": [_predicted(each, loss) for each, loss in zip(of_law, found.loss(points).tolist(), strict=True)],
    }


def noise(results: Mapping[Model, Result]) -> dict[str, Any]:
    """The standard deviation of the loss over seeds: of all models that have several, pooled."""
    groups: dict[Model, list[float]] = {}
    for model, result in results.items():
        groups.setdefault(without_seed(model), []).append(result.loss)
    several = [np.array(losses) for losses in groups.values() if len(losses) > 1]
    squares = sum(float(((losses - losses.mean()) ** 2).sum()) for losses in several)
    freedom = sum(len(losses) - 1 for losses in several)
    return {"models": len(several), "deviation": (squares / freedom) ** 0.5 if freedom else None}


def other_rates(results: Mapping[Model, Result]) -> list[dict[str, Any]]:
    """What models lose with another learning rate than that of the rule."""
    return [
        {
            "parameters": result.parameters,
            "rate": result.rate,
            "more_loss": result.loss - results[usual].loss,
        }
        for model, result in results.items()
        if model.rate != 1 and (usual := Model(**{**asdict(model), "rate": 1.0})) in results
    ]


def _predicted(result: Result, loss: float) -> dict[str, Any]:
    names = ("parameters", "experts", "granularity", "tokens", "seed", "loss")
    return {**{name: getattr(result, name) for name in names}, "predicted": loss}


def _widest(kind: type[FineGrained] | type[Routed], points: Sequence[Point]) -> dict[str, Any] | None:
    most = max(each.parameters for each in points)
    narrower, widest = ([p for p in points if (p.parameters == most) is wanted] for wanted in (False, True))
    try:
        law = kind.fit(narrower)
    except ValueError:
        return None
    apart = law.loss(widest) - _losses(widest)
    mean = float(_losses(widest).mean())
    return {
        "models": len(widest),
        "parameters": most,
        "error": _root_mean_square(apart),
        "bias": float(apart.mean()),
        "if_constant": _root_mean_square(_losses(widest) - mean),
    }


def _at_a_limit(law: FineGrained | Routed) -> list[str]:
    """The exponents that were searched up to the end of their range: the models do not determine them."""
    return [
        name
        for name, (low, high) in law.RANGES.items()
        if not low * (1 + _NEAR_END) < getattr(law, name) < high * (1 - _NEAR_END)
    ]


def _losses(points: Sequence[Point]) -> Any:
    return np.array([each.loss for each in points])


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
