"""The JSON document of ``inspect``."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments.dependence import Explained
from ..instruments.findings import Findings
from ..instruments.routed_text import shares
from ..instruments.routing_report import SentenceRouting, by_byte_class
from .inspected import Inspected


def document_of(
    opened: Inspected, found: Findings, sentence: SentenceRouting, layer: int, figures: list[Path]
) -> dict[str, Any]:
    """All layers; the experts of each token of the sentence in one."""
    routed = found.routed
    model: dict[str, Any] = {"run" if opened.is_run else "model": str(opened.folder)}
    if opened.is_run:
        model["step"] = opened.step
    if opened.is_bytes:
        names, classes = by_byte_class(routed.counts(routed.ids, opened.model.vocab_size))
        model |= {
            "byte_classes": names,
            "byte_class_expert_by_layer": classes.tolist(),
            "typical_bytes_by_layer": _typical(opened, found, "byte"),
        }
    return model | {
        "layers": list(routed.layers),
        "num_experts": routed.num_experts,
        "tokens": len(routed),
        "domains": opened.domains,
        "separation": found.separation.tolist(),
        "domain_expert_by_layer": found.domain_shares.tolist(),
        "positions": found.position_names,
        "position_expert_by_layer": shares(found.position_expert).tolist(),
        "typical_tokens_by_layer": _typical(opened, found, "token"),
        "chosen_together_by_layer": [[asdict(pair) | {"lift": pair.lift} for pair in of] for of in found.pairs],
        "explained_by_layer": {label: [_explained(each) for each in of] for label, of in found.explained.items()},
        "expert_load": shares(routed.load).tolist(),
        "dropped_fraction": float(routed.dropped.sum() / max(routed.load.sum(), 1)),
        "sentence": _sentence(opened, sentence, layer),
        "figures": [str(figure) for figure in figures],
    }


def _typical(opened: Inspected, found: Findings, key: str) -> list[list[list[dict[str, Any]]]]:
    name = opened.tokenizer.name
    return [
        [[{key: t.label, "lift": t.lift, "count": t.count, "name": name(t.label)} for t in of] for of in experts]
        for experts in found.typical
    ]


def _explained(each: Explained) -> dict[str, float | None]:
    adjusted = None if math.isnan(each.adjusted) else each.adjusted
    return {"share": each.share, "chance": each.chance, "adjusted": adjusted}


def _sentence(opened: Inspected, sentence: SentenceRouting, layer: int) -> dict[str, Any]:
    i = sentence.layers.index(layer)
    experts = [
        [{"expert": int(e), "gate": float(gate[e])} for e in np.flatnonzero(asked)]
        for gate, asked in zip(sentence.gate[i], sentence.asked[i], strict=True)
    ]
    return {
        "bytes" if opened.is_bytes else "tokens": list(sentence.ids),
        "names": [opened.tokenizer.name(id) for id in sentence.ids],
        "first_choice_by_layer": sentence.first_choice.tolist(),
        "dropped_by_layer": sentence.dropped.tolist(),
        "layer": layer,
        "experts": experts,
    }
