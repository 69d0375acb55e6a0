"""A lower bound of the memory that training needs, to refuse what cannot fit before anything is allocated."""

import contextlib
import os
from pathlib import Path

from ..models import ModelConfig
from ..models.transformer_config import Sparse
from .config import TrainingConfig
from .model_settings import ModelSettings

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_TRAINED, _FROZEN = 16, 4  # bytes of a parameter in float32: weight, gradient and two moments; weight


def least_parameters(config: ModelSettings) -> int:
    """A number of parameters that no model of this configuration falls below: 2Vd + L·2d² + (E or 1)·2df a layer.

    Dense layers beside sparse ones, routers and the third matrix of SwiGLU are left out; of a published model,
    attention too.
    """
    if not isinstance(config, ModelConfig):
        parts = config.transformer
        each = [layer.feed_forward for layer in parts.layers]
        widths = sum(part.d_ff * (part.num_experts if isinstance(part, Sparse) else 1) for part in each)
        return parts.d_model * (parts.vocab_size * (1 if parts.tied else 2) + 2 * widths)
    d, f = config.d_model, config.d_ff
    sparse = -(-config.num_layers // config.moe_every) if config.num_experts else config.num_layers
    networks = max(config.num_experts, 1)
    return 2 * config.vocab_size * d + config.num_layers * 2 * d * d + sparse * networks * 2 * d * f


def require_memory(
    model: ModelSettings, training: TrainingConfig, *, trained: int | None = None, frozen: int = 0
) -> None:
    """ValueError if training on the CPU needs more memory than this machine has.

    Counted are weights, gradients, moments, and what comes on top of them: in a pass, per token the logits and four
    vectors of width d a layer; or the copy that a checkpoint is written from, if that is more.

    Args:
        model: its settings.
        training: how to train it.
        trained: how many parameters are trained; where that is not known yet, the least there can be.
        frozen: how many are not.
    """
    has = _memory()
    if has is None or training.device != "cpu":
        return
    least = least_parameters(model)
    if trained is None:
        trained, frozen = (0, least) if training.freeze else (least, 0)
    if isinstance(model, ModelConfig):  # whose layers are not built: there may be too many
        vocab_size, d_model, context, num_layers = model.vocab_size, model.d_model, model.context, model.num_layers
    else:
        parts = model.transformer
        vocab_size, d_model, context, num_layers = parts.vocab_size, parts.d_model, parts.context, len(parts.layers)
    per_token = 4 * (vocab_size + 4 * num_layers * d_model)
    windows = training.batch_size + training.image_batch_size
    of_pass, of_checkpoint = windows * context * per_token, 12 * trained + 4 * frozen
    needs = _TRAINED * trained + _FROZEN * frozen + max(of_pass, of_checkpoint)
    if needs > has:
        raise ValueError(
            f"training needs at least {needs / 2**30:,.1f} GiB of memory, this machine has {has / 2**30:,.1f}: "
            f"{trained + frozen:,} parameters or more, batch_size={training.batch_size} sequences of "
            f"context={context}"
        )


def _memory() -> int | None:
    """The memory of this machine or container in bytes; None where the system does not tell."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            found.append(int(Path(path).read_text()))
    return min((size for size in found if size > 0), default=None)  # WebAssembly's sysconf says -1
