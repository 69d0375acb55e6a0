"""Names for annotations: ``Float[Array, "T E"]`` is a floating-point array of shape [T, E].

Letters in shapes: T tokens (batch and time flattened), B batch, S sequence length, E experts, k experts per
token, N assignments, C capacity, d model width, f expert width, V vocabulary, H heads. ``...`` stands for any
number of axes. pytest checks shapes at run time.
"""

from typing import Any, TypeAlias

from jaxtyping import Bool, Float, Int, Shaped, UInt8, UInt16

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
Random: TypeAlias = Any  # numpy.random.Generator or moe_numpy.devices.DeviceGenerator

__all__ = ["Array", "Bool", "Float", "Int", "Random", "Shaped", "UInt8", "UInt16"]
