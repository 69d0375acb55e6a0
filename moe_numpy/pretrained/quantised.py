"""Matrices in the files of a quantised model: one of our parameters [out, in] is some tensors, NAME and a suffix.

    float32     .weights F32 [out, in]
    bfloat16    .bits BF16 [out, in]
    int8        .codes I8 [out, in]              .scales BF16 [out, in / 32]
    int4        .codes U8 [out, in / 32, 16]     .scales BF16 [out, in / 32]
    mxfp4       .blocks U8 [out, in / 32, 16]    .scales U8 [out, in / 32]
    fp8         .codes F8_E4M3 [out, in]         .scales F32 [ceil(out / 128), ceil(in / 128)]

NAME is the published name, such as ``model.layers.0.self_attn.q_proj.weight``; where one published tensor holds
several of our matrices, it is followed by a dot and ours: ``Wqkv.weight.query``.

Experts are stored one by one, whatever the published layout: ``model.layers.0.mlp.experts.3.gate_up`` (W₁, for SwiGLU
the gate above the up projection) and ``model.layers.0.mlp.experts.3.down``. Biases of experts follow their expert:
``....experts.3.gate_up_bias.values`` F32. All tensors of an expert, and all experts of a layer, lie side by side, so
that an expert is read at once, unless a file ends there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import FORMATS, Matrix
from ..formats.fp8 import BLOCK
from ..formats.groups import GROUP
from ..inference.maps import format_for
from ..models import Transformer
from ..nn import Linear
from .errors import PretrainedError, quoted
from .pieces import Piece
from .quantisation import Quantisation
from .safetensors_file import STORAGE, StoredTensor

EXPERTS, REST = "experts", "rest"
OUTPUT = "output.weight"
_STAY = ("kv_up.", "shared_gate.")  # the decoder takes them as they are
_VALUES = "values"
_SUFFIXES = ("weights", "bits", "codes", "blocks", "scales", _VALUES)

Arrays = Mapping[str, tuple[str, tuple[int, ...]]]


def is_of_quantised(name: str) -> bool:
    """Whether a tensor of this name is part of a matrix that was quantised, or of such an expert."""
    return name.rpartition(".")[2] in _SUFFIXES


def arrays_of(format: str | None, shape: tuple[int, ...]) -> Arrays:
    """The suffix, stored type and shape of each tensor of a matrix [out, in]; of a vector without a format."""
    if format is None:
        return {_VALUES: ("F32", shape)}
    (out, width), groups = shape, (shape[0], shape[1] // GROUP)
    blocks = (-(-out // BLOCK[0]), -(-width // BLOCK[1]))
    known: dict[str, Arrays] = {
        "float32": {"weights": ("F32", shape)},
        "bfloat16": {"bits": ("BF16", shape)},
        "int8": {"codes": ("I8", shape), "scales": ("BF16", groups)},
        "int4": {"codes": ("U8", (*groups, GROUP // 2)), "scales": ("BF16", groups)},
        "mxfp4": {"blocks": ("U8", (*groups, GROUP // 2)), "scales": ("U8", groups)},
        "fp8": {"codes": ("F8_E4M3", shape), "scales": ("F32", blocks)},
    }
    return known[format]


@dataclass(frozen=True)
class Quantised:
    """One of our parameters as it is stored.

    Attributes:
        kind: EXPERTS or REST.
        names: without suffix: one, or one for each expert.
        format: of FORMATS; None for the biases of experts.
        shape: of the matrix or vector, or of each expert's.
    """

    kind: str
    names: Sequence[str]
    format: str | None
    shape: tuple[int, ...]

    @property
    def arrays(self) -> Arrays:
        """See :func:`arrays_of`."""
        return arrays_of(self.format, self.shape)


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix in the files, or the bias of an expert.

    Attributes:
        format: None for a bias.
        tensors: by suffix.
    """

    format: str | None
    tensors: Mapping[str, StoredTensor]

    def of(self, raw: Iterable[np.ndarray]) -> Any:
        """The Matrix of these bits of its tensors, without a copy; a bias as an array."""
        arrays = dict(zip(self.tensors, raw, strict=True))
        return np.array(arrays[_VALUES]) if self.format is None else FORMATS[self.format](**arrays)

    def read(self) -> Any:
        """The same from the mapped files. PretrainedError for a scale that is not finite."""
        found = self.of(tensor.raw for tensor in self.tensors.values())
        self.require_finite_scales(found)
        return found

    def require_finite_scales(self, found: Matrix | np.ndarray) -> None:
        """PretrainedError for a scale that is NaN or infinite."""
        tensor = self.tensors.get("scales")
        if tensor is None or isinstance(found, np.ndarray):
            return
        scales = found.arrays["scales"]
        if tensor.dtype == "BF16":
            wrong = (scales & 0x7F80) == 0x7F80
        else:
            wrong = scales == 255 if tensor.dtype == "U8" else ~np.isfinite(scales)
        if wrong.any():
            where = np.argwhere(wrong)[0].tolist()
            raise PretrainedError(f"{tensor.file}: tensor {quoted(tensor.name)} is NaN or infinite at {where}")


def quantised_parameters(
    model: Transformer, pieces: Mapping[str, Sequence[Piece]], formats: Quantisation, output: str
) -> dict[str, Quantised]:
    """What is stored in a format, by our names.

    Args:
        model: with the shapes of its parameters.
        pieces: of each parameter.
        formats: of the model.
        output: the published name of the output matrix, which is stored even if it is the embedding: the embedding
            stays as it is.
    """
    found: dict[str, Quantised] = {}
    linear = {
        f"{path}weight" for path, m in model.named_modules() if isinstance(m, Linear) and not path.endswith(_STAY)
    }
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, shape in shapes.items():
        if ".experts." in name and formats.experts is not None:
            format = format_for(shape[-1], formats.experts) if len(shape) == 3 else None
            head, own = _head(pieces[name][0].published), name.rpartition(".")[2]
            names = [f"{head}.{e}.{own}" for e in range(shape[0])]
            found[name] = Quantised(EXPERTS, names, format, shape[1:])
        elif name in linear and formats.rest is not None:
            (piece,) = pieces[name]
            own = piece.published if piece.rows is None else f"{piece.published}.{name.split('.')[-2]}"
            found[name] = Quantised(REST, [own], format_for(shape[-1], formats.rest), shape)
    if formats.rest is not None and model.output is None:
        shape = model.embedding.weight.shape
        found[OUTPUT] = Quantised(REST, [output], format_for(shape[-1], formats.rest), shape)
    return found


def _head(published: str) -> str:
    """What the names of a layer's experts begin with, from that of one of their tensors."""
    before, inside, _ = published.partition(".experts.")
    return f"{before}.experts" if inside else f"{published.rsplit('.', 2)[0]}.experts"


def stored_matrices(
    folder: Any, tensors: Mapping[str, StoredTensor], parameters: Mapping[str, Quantised]
) -> dict[str, list[StoredMatrix]]:
    """The tensors of each parameter, one entry for each of its names.

    Raises:
        PretrainedError: a tensor is missing, has another type or shape, or there is one too many.
    """
    found: dict[str, list[StoredMatrix]] = {}
    used = set()
    for ours, parameter in parameters.items():
        found[ours] = []
        for name in parameter.names:
            own = {}
            for suffix, (dtype, shape) in parameter.arrays.items():
                full = f"{name}.{suffix}"
                if full not in tensors:
                    raise PretrainedError(f"{folder} lacks tensor {quoted(full)}")
                tensor = tensors[full]
                if (tensor.dtype, tensor.shape) != (dtype, shape):
                    raise PretrainedError(
                        f"{tensor.file}: tensor {quoted(full)} is {tensor.dtype} {list(tensor.shape)}, config.json "
                        f"makes it {dtype} {list(shape)}"
                    )
                used.add(full)
                own[suffix] = tensor
            found[ours].append(StoredMatrix(parameter.format, own))
    left = sorted(tensors.keys() - used)
    if left:
        more = f" and {len(left) - 1} more are" if len(left) > 1 else " is"
        raise PretrainedError(
            f"{tensors[left[0]].file}: tensor {quoted(left[0])}{more} no part of the model in config.json"
        )
    return found


def nbytes(arrays: Arrays) -> int:
    """Bytes of tensors with these types and shapes."""
    return sum(int(np.prod(shape)) * np.dtype(STORAGE[dtype]).itemsize for dtype, shape in arrays.values())
