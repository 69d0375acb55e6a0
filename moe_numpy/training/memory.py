"""A lower bound of the memory that training needs, to refuse what cannot fit before anything is allocated."""

import contextlib
import os
from pathlib import Path

from ..models import ModelConfig
from .config import TrainingConfig

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_BYTES_PER_PARAMETER = 16  # weight, gradient and two moments in float32


def least_parameters(config: ModelConfig) -> int:
    """A number of parameters that no model of this configuration falls below: 2Vd + L·2d² + (E or 1)·2df a layer.

    Dense layers beside sparse ones, routers and the third matrix of SwiGLU are left out.
    """
    d, f = config.d_model, config.d_ff
    sparse = -(-config.num_layers // config.moe_every) if config.num_experts else config.num_layers
    networks = max(config.num_experts, 1)
    return 2 * config.vocab_size * d + config.num_layers * 2 * d * d + sparse * networks * 2 * d * f


def require_memory(model: ModelConfig, training: TrainingConfig) -> None:
    """ValueError if training on the CPU needs more memory than this machine has.

    Counted are weights, gradients, moments, and per byte of a pass the logits and four vectors of width d a layer.
    """
    has = _memory()
    if has is None or training.device != "cpu":
        return
    per_token = 4 * (model.vocab_size + 4 * model.num_layers * model.d_model)
    needs = _BYTES_PER_PARAMETER * least_parameters(model) + training.batch_size * model.context * per_token
    if needs > has:
        raise ValueError(
            f"training needs at least {needs / 2**30:,.1f} GiB of memory, this machine has {has / 2**30:,.1f}: "
            f"{least_parameters(model):,} parameters or more, batch_size={training.batch_size} sequences of "
            f"context={model.context}"
        )


def _memory() -> int | None:
    """The memory of this machine or container in bytes; None where the system does not tell."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            found.append(int(Path(path).read_text()))
    return min(found, default=None)
