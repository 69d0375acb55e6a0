"""Writes tests/pretrained/configs: what transformers computes from tiny models whose weights are drawn by name.

    python parity/models/record.py

The tests that read it need neither torch nor transformers.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "parity"), str(ROOT / "tests" / "pretrained")]

from published import CONFIGS, direction, names_of, pattern, texts, values  # noqa: E402

from models.dialects import publish  # noqa: E402
from models.reference import build, close_choices, doubled, in_float64, published_gradients  # noqa: E402
from models.tiny_models import FAMILIES, cases  # noqa: E402
from moe_numpy.pretrained.fields import HARMLESS  # noqa: E402


def record(family: str, name: str) -> dict[str, Any]:
    """One model."""
    for seed in range(100):
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            build(family, name, 0).save_pretrained(folder)
            shapes = {tensor: array.shape for tensor, array in load_file(folder / "model.safetensors").items()}
            version_5 = json.loads((folder / "config.json").read_text())
            publish(folder, folder / "published")
            published = json.loads((folder / "published" / "config.json").read_text())
            width = version_5.get("hidden_size") or version_5["d_model"]
            drawn = {tensor: values(tensor, shape, seed, width) for tensor, shape in shapes.items()}
            save_file(drawn, folder / "model.safetensors", {"format": "pt"})
            ways = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": torch.float32}
            single = FAMILIES[family][1].from_pretrained(folder, **ways).eval()
        ids, cotangent = texts(seed)
        with in_float64():
            model = doubled(single)
            if close_choices(model, ids):
                continue
            weighted = model(torch.from_numpy(ids), use_cache=False).logits * torch.from_numpy(cotangent)
            weighted.sum().backward()
            slopes = published_gradients(model)
        alike = defaultdict(list)
        for tensor in sorted(shapes):
            alike[pattern(tensor)].append(tensor)
        tensors = {}
        for like, names in alike.items():
            numbers = [sorted(set(each)) for each in zip(*map(_numbers, names), strict=True)]
            slope = sum((slopes[tensor] * direction(tensor, shapes[tensor], seed)).sum() for tensor in names)
            tensors[like] = [list(shapes[names[0]]), float(f"{slope:.10g}"), numbers]
        made = {
            "published": _needed(published),
            "version_5": _needed(version_5),
            "seed": seed,
            "width": width,
            "tensors": tensors,
            "sums": [float(f"{x:.10g}") for x in weighted[1].sum(-1).detach().numpy()],
        }
        assert names_of(made) == shapes
        return made
    raise AssertionError(f"{family} {name}: close choices in 100 draws")


def _needed(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what changes no number."""
    kept = {key: value for key, value in settings.items() if key == "model_type" or key not in HARMLESS}
    return {key: _needed(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdecimal()]


def _line(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "))


def main() -> None:
    """All of them."""
    families: dict[str, dict[str, Any]] = defaultdict(dict)
    for family, name in cases():
        if name in FAMILIES[family][3]:
            families[family][name] = record(family, name)
            print(family, name, "seed", families[family][name]["seed"], flush=True)
    CONFIGS.mkdir(exist_ok=True)
    for family, models in families.items():
        lines = [
            f'"{name}": {{\n' + ",\n".join(f' "{k}": {_line(v)}' for k, v in model.items()) + "\n}"
            for name, model in models.items()
        ]
        (CONFIGS / f"{family}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
