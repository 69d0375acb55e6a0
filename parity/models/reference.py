"""One tiny model on disk, as published, with the numbers that transformers computes from it."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from torch.overrides import TorchFunctionMode
from transformers.utils import logging

from .packed import pack, unpack
from .tiny_models import FAMILIES, STORED, configuration

logging.disable_progress_bar()
LENGTH, PROMPT, NEW = 48, 20, 12  # tokens of a text, of the prompt, of its continuation
NUDGE = 2e-6  # ten times what rounding to float32 changes in an embedding
GRADIENT = "gradient "  # before the names of parameters in ref.npz


class Float64(TorchFunctionMode):
    """float64 wherever the modelling code writes float32: in norms, softmax, rotary angles and routers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call itself, with the type replaced."""
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
        kwargs = {key: torch.float64 if v is torch.float32 else v for key, v in (kwargs or {}).items()}
        return function(*args, **kwargs)


@contextmanager
def in_float64() -> Iterator[None]:
    """Models are built and run in float64 throughout."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64():
            yield
    finally:
        torch.set_default_dtype(default)


def draw(model: torch.nn.Module, rng: np.random.Generator, bias_mean: float = 0.0) -> None:
    """Weights with standard deviation 1.7 / sqrt(d), norms around 1, correction biases around ``bias_mean``.

    Every value is a bfloat16, so that the same model can be stored in either type.
    """
    std = 1.7 / model.config.hidden_size**0.5
    for name, tensor in sorted(model.state_dict().items()):
        values = std * rng.standard_normal(tuple(tensor.shape))
        if "norm" in name and name.endswith("weight") and tensor.ndim == 1:
            values += 1
        if "correction_bias" in name:
            values += bias_mean
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(values).bfloat16())


def build(family: str, name: str, seed: int) -> Any:
    """The model in float32, in evaluation mode."""
    model = FAMILIES[family][1](configuration(family, name)).eval()
    draw(model, np.random.default_rng(seed), -1.0 if name.startswith("negative_bias") else 0.0)
    if name in STORED:
        model = _rounded(model, name)
    model.set_experts_implementation("eager")
    return model


def _rounded(model: Any, kind: str) -> Any:
    """The model with weights that the number format ``kind`` has: written, packed, unpacked and read."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_numpy(f"{folder}/model.safetensors")
        save_numpy(unpack(pack(kind, tensors)), f"{folder}/model.safetensors", {"format": "pt"})
        return type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def doubled(model: Any) -> Any:
    """The same model in float64. Call it, and what it returns, inside :func:`in_float64`."""
    twin = type(model)(copy.deepcopy(model.config)).eval()
    twin.set_experts_implementation("eager")
    twin.load_state_dict(model.state_dict())
    twin.tie_weights()
    return twin


def logits_of(model: Any, ids: np.ndarray) -> np.ndarray:
    """Logits [N, T, V] without a cache."""
    with torch.no_grad():
        return model(torch.from_numpy(ids), use_cache=False).logits.numpy()


def continuation(model: Any, prompt: np.ndarray) -> tuple[np.ndarray, float]:
    """The greedy continuation, and the smallest lead of a winner over the second."""
    ids, lead = prompt[None], np.inf
    for _ in range(NEW):
        last = logits_of(model, ids)[0, -1]
        second, first = np.sort(last)[-2:]
        lead = min(lead, first - second)
        ids = np.concatenate([ids, [[last.argmax()]]], axis=1)
    return ids[0, len(prompt) :], lead


def losses(model: Any, ids: np.ndarray) -> tuple[torch.Tensor, float]:
    """Mean next-token cross entropy plus the balance loss where the family has one; the balance loss alone."""
    tokens = torch.from_numpy(ids)
    balanced = hasattr(model, "router_aux_loss_coef")
    answer = model(tokens, labels=tokens, use_cache=False, **({"output_router_logits": True} if balanced else {}))
    return answer.loss, float(answer.aux_loss.detach()) if balanced else 0.0


def published_gradients(model: Any) -> dict[str, np.ndarray]:
    """The gradients in the layout on disk: saved as if they were the weights of a model."""
    twin = copy.deepcopy(model)
    for parameter, copied in zip(model.parameters(), twin.parameters(), strict=True):
        copied.data.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    for name, buffer in twin.named_buffers():
        if name in twin.state_dict():
            buffer.zero_()
    with tempfile.TemporaryDirectory() as folder:
        twin.save_pretrained(folder)
        return load_numpy(f"{folder}/model.safetensors")


def close_choices(model: Any, ids: np.ndarray) -> bool:
    """Whether a change of the embeddings by ``NUDGE`` changes a choice of a router: logits then jump."""
    before = logits_of(model, ids)
    weight = model.get_input_embeddings().weight
    kept = weight.detach().clone()
    jumps = 0.0
    for seed in range(3):
        nudge = np.random.default_rng(seed).standard_normal(tuple(weight.shape))
        with torch.no_grad():
            weight.copy_(kept + NUDGE * torch.from_numpy(nudge))
        jumps = max(jumps, float(np.abs(logits_of(model, ids) - before).max()))
    with torch.no_grad():
        weight.copy_(kept)
    return jumps > 1e-3


def suitable(model: Any, single: np.ndarray, ids: np.ndarray) -> bool:
    """Whether rounding decides nothing: neither which expert is chosen nor which token is generated."""
    if np.abs(single - logits_of(model, ids)).max() > 5e-5 or close_choices(model, ids):
        return False
    tokens, lead = continuation(model, ids[0, :PROMPT])
    return lead > 2e-3 and model.config.eos_token_id not in tokens


def reference(model: Any, single: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What ``ref.npz`` holds: numbers of the float64 model, and the logits of the float32 one, ``single``."""
    loss, balance = losses(model, ids)
    loss.backward()
    return {
        "ids": ids,
        "logits": logits_of(model, ids),
        "logits32": single,
        "prompt": ids[0, :PROMPT],
        "continuation": continuation(model, ids[0, :PROMPT])[0],
        "loss": loss.detach().numpy(),
        "balance_loss": np.float64(balance),
        "balance_coefficient": np.float64(getattr(model, "router_aux_loss_coef", 0.0)),
        **{GRADIENT + name: gradient for name, gradient in published_gradients(model).items()},
    }


def make(family: str, name: str, folder: Path) -> None:
    """Save the model in ``folder`` as transformers does, with ``ref.npz``.

    Weights and texts are drawn anew until no choice is a close one, at most 40 times.
    """
    for seed in range(40):
        model = build(family, name, seed)
        ids = np.random.default_rng(seed).integers(2, model.config.vocab_size, (2, LENGTH))
        single = logits_of(model, ids)
        with in_float64():
            twin = doubled(model)
            numbers = reference(twin, single, ids) if suitable(twin, single, ids) else None
        if numbers:
            model.save_pretrained(folder)
            np.savez(folder / "ref.npz", **numbers)
            return
    raise AssertionError(f"{family} {name}: close choices in 40 draws")
