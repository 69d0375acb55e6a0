"""The weights of a published folder by name, whatever number format they are stored in.

NAME                          F32, F16, BF16 or F64
NAME, NAME_scale_inv          F8_E4M3 and the scales of its blocks (DeepSeek-V3)
NAME_blocks, NAME_scales      MXFP4 (gpt-oss): matrices [E, out, in]; NAME itself would be their transpose
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..formats import Matrix, fp8, mxfp4
from ..formats.bfloat16 import BFloat16Matrix
from ..formats.float32 import Float32Matrix
from ..formats.fp8 import FP8Matrix
from ..formats.mxfp4 import MXFP4Matrix
from ..typing import Array, Float
from .errors import PretrainedError, quoted
from .safetensors_file import StoredTensor

_PLAIN = ("F64", "F32", "F16", "BF16")
_EXPONENTS = ("F8_E8M0", "U8")  # of scales: powers of two
_BLOCKS, _SCALES, _SCALE_INV = "_blocks", "_scales", "_scale_inv"


class Weights:
    """Values by name, decoded when they are read.

    Args:
        tensors: the stored tensors by name.
        fp8_block: rows and columns of a block of FP8 weights; None if there should be none.

    Raises:
        PretrainedError: a tensor has a type without values, scales are missing or left over, or their shape is wrong.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], fp8_block: tuple[int, int] | None = None):
        self._tensors, self._fp8_block = tensors, fp8_block
        self._shapes: dict[str, tuple[int, ...]] = {}
        scales = set()
        self._require_one_kind()
        for name, tensor in tensors.items():
            if name.endswith(_BLOCKS):
                if name.removesuffix(_BLOCKS) in tensors:
                    raise PretrainedError(f"{tensor.file}: tensor {quoted(name)} is there without {_BLOCKS} too")
                self._shapes[name.removesuffix(_BLOCKS)] = self._packed_shape(name.removesuffix(_BLOCKS))
                scales.add(name.removesuffix(_BLOCKS) + _SCALES)
            elif tensor.dtype == "F8_E4M3":
                self._require_scales(tensor)
                self._shapes[name] = tensor.shape
                scales.add(name + _SCALE_INV)
            elif tensor.dtype in _PLAIN and not name.endswith(_SCALE_INV):
                self._shapes[name] = tensor.shape
        for name, tensor in tensors.items():
            known = name in self._shapes or name in scales or name.removesuffix(_BLOCKS) in self._shapes
            if not known:
                raise PretrainedError(
                    f"{tensor.file}: tensor {quoted(name)} is {tensor.dtype} and belongs to no weight: expected "
                    f"{', '.join(_PLAIN)}, F8_E4M3 with its scales, or MXFP4 blocks with theirs"
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight once it is decoded."""
        return self._shapes[name]

    def file_of(self, name: str) -> Any:
        """The file that holds a weight."""
        return self._tensors[name if name in self._tensors else name + _BLOCKS].file

    def is_mapped(self, name: str) -> bool:
        """Whether a weight is stored as it is used, so that its file can be mapped into memory."""
        return name in self._tensors and self._tensors[name].dtype in ("F32", "BF16")

    def mapped(self, name: str) -> Array:
        """A read-only view of the file: float32, or bfloat16 of the package ml_dtypes."""
        tensor = self._tensors[name]
        if tensor.dtype == "F32":
            return tensor.raw
        try:
            import ml_dtypes
        except ImportError as error:
            raise PretrainedError(
                f"{tensor.file} holds bfloat16, which needs the package ml_dtypes: python -m pip install ml_dtypes; "
                "or load copies, dtype=np.float32"
            ) from error
        return tensor.raw.view(ml_dtypes.bfloat16)

    def is_packed(self, name: str) -> bool:
        """Whether a weight is stored in MXFP4, as the transpose of what its name says."""
        return name not in self._tensors

    def matrix(self, name: str, raw: Sequence[np.ndarray]) -> Matrix | None:
        """A part of a weight as a matrix of the stored bits, not decoded and not transposed; None if it is none."""
        if self.is_packed(name):
            blocks, scales = raw
            return MXFP4Matrix(blocks, scales) if blocks.ndim == 3 else None
        if raw[0].ndim != 2:
            return None
        tensor = self._tensors[name]
        if tensor.dtype == "F8_E4M3" and self._tensors[name + _SCALE_INV].dtype in ("F32", *_EXPONENTS):
            assert self._fp8_block is not None
            codes, scales = raw
            return FP8Matrix(codes, scales, self._fp8_block)
        kinds: dict[str, type[Matrix]] = {"F32": Float32Matrix, "BF16": BFloat16Matrix}
        return kinds[tensor.dtype](raw[0]) if tensor.dtype in kinds else None  # type: ignore[call-arg]

    def values(self, name: str, part: Any = ...) -> Float[Array, "..."]:
        """The values in a new array: float32, or float64 where they are stored so.

        Args:
            name: of the weight.
            part: an index or a slice of the first axis; by default all.
        """
        return self.decoded(name, part, [tensor.raw[stored] for tensor, stored in self.stored(name, part)])

    def stored(self, name: str, part: Any = ...) -> list[tuple[StoredTensor, Any]]:
        """The tensors, and the part of each, that a part of a weight is decoded from: their bytes are enough."""
        if name not in self._tensors:
            return [(self._tensors[name + suffix], part) for suffix in (_BLOCKS, _SCALES)]
        tensor = self._tensors[name]
        if tensor.dtype != "F8_E4M3":
            return [(tensor, part)]
        if isinstance(part, slice):  # blocks may begin outside
            part = ...
        return [(tensor, part), (self._tensors[name + _SCALE_INV], part)]

    def decoded(self, name: str, part: Any, raw: Sequence[np.ndarray]) -> Float[Array, "..."]:
        """What :meth:`values` gives, from the stored bits of the parts that :meth:`stored` names."""
        if name not in self._tensors:
            return mxfp4.dequantise(*raw).swapaxes(-1, -2)
        tensor = self._tensors[name]
        if tensor.dtype == "F8_E4M3":
            assert self._fp8_block is not None
            codes, scales = raw
            stored_scales = self._tensors[name + _SCALE_INV]
            if stored_scales.dtype not in _EXPONENTS:
                scales = stored_scales.to_float32(scales)
            weights = fp8.dequantise(codes, scales, self._fp8_block)
            return weights[part] if isinstance(part, slice) else weights
        return np.array(raw[0]) if tensor.dtype == "F64" else tensor.to_float32(raw[0])

    def put(self, view: Any, name: str, values: Float[Array, "..."]) -> None:
        """Copy values of a weight into a view of our array. PretrainedError if one is beyond its type."""
        try:
            with np.errstate(over="raise", under="ignore", invalid="ignore"):
                view[...] = values.reshape(view.shape)
        except FloatingPointError as error:
            thing = f"{self.file_of(name)}: tensor {quoted(name)}"
            raise PretrainedError(f"{thing} has a value beyond the largest of {view.dtype}") from error

    def _require_one_kind(self) -> None:
        """PretrainedError for F16 beside BF16, which no model has: the bits of one make no sense as the other."""
        last = {tensor.dtype: tensor for tensor in self._tensors.values()}
        if "F16" in last and "BF16" in last:
            one, other = last["F16"], last["BF16"]
            raise PretrainedError(f"{one.file}: tensor {quoted(one.name)} is F16, but {quoted(other.name)} is BF16")

    def _require_scales(self, tensor: StoredTensor) -> None:
        thing = f"{tensor.file}: tensor {quoted(tensor.name)}"
        if self._fp8_block is None:
            raise PretrainedError(f"{thing} is FP8, but config.json has no quantization_config of FP8 in blocks")
        scales = self._tensors.get(tensor.name + _SCALE_INV)
        if scales is None:
            raise PretrainedError(f"{thing} is FP8 without its scales {quoted(tensor.name + _SCALE_INV)}")
        rows, columns = self._fp8_block
        expected = (*tensor.shape[:-2], *(-(-n // b) for n, b in zip(tensor.shape[-2:], (rows, columns), strict=False)))
        if len(tensor.shape) < 2 or scales.shape != expected:
            raise PretrainedError(
                f"{thing} of shape {list(tensor.shape)} in blocks of {rows} x {columns} needs scales {list(expected)}, "
                f"has {list(scales.shape)}"
            )
        if scales.dtype not in (*_PLAIN, *_EXPONENTS):
            raise PretrainedError(f"{scales.file}: tensor {quoted(scales.name)} is {scales.dtype}: expected scales")

    def _packed_shape(self, name: str) -> tuple[int, ...]:
        blocks, scales = self._tensors[name + _BLOCKS], self._tensors.get(name + _SCALES)
        thing = f"{blocks.file}: tensor {quoted(blocks.name)}"
        if scales is None:
            raise PretrainedError(f"{thing} is MXFP4 without its scales {quoted(name + _SCALES)}")
        fits = len(blocks.shape) >= 3 and blocks.shape[-1] == 16 and scales.shape == blocks.shape[:-1]
        if not fits or blocks.dtype != "U8" or scales.dtype != "U8":
            raise PretrainedError(
                f"{thing} is {blocks.dtype} {list(blocks.shape)} with scales {scales.dtype} {list(scales.shape)}: "
                "expected U8 [..., out, in / 32, 16] and U8 [..., out, in / 32]"
            )
        *batch, out, groups, _ = blocks.shape
        return (*batch, groups * mxfp4.BLOCK, out)
