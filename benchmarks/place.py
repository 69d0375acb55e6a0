"""Where a measurement runs, and in which dtype."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_numpy import devices
from moe_numpy.autodiff.arrays import to_host


@dataclass(frozen=True)
class Place:
    """A device, "cpu" or "cuda", and a dtype, "float32" or "bfloat16"."""

    device: str = "cpu"
    dtype: str = "float32"

    @property
    def float_type(self) -> Any:
        """The dtype as NumPy knows it."""
        return devices.float_type(self.dtype)

    def generator(self, seed: int) -> Any:
        """Random numbers, drawn on the device: billions of weights would take minutes on the host."""
        return devices.generator(self.device, seed)

    def synchronize(self) -> None:
        """Wait until the device has finished all work, from either library."""
        if self.device == "cuda":
            import cupy

            cupy.cuda.Device().synchronize()

    def recorded(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """``run`` as one CUDA graph that is replayed; ``run`` itself on a CPU."""
        if self.device == "cpu":
            return run
        from moe_numpy.kernels.cuda_graph import CudaGraph

        return CudaGraph(run)

    def free(self) -> None:
        """Release unused memory of the device."""
        gc.collect()
        if self.device == "cuda":
            import cupy

            cupy.get_default_memory_pool().free_all_blocks()
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()

    def tensor(self, x: Any) -> Any:
        """A torch tensor over the memory of an array."""
        import torch

        return torch.from_numpy(x) if devices.on_host(x) else torch.from_dlpack(x)

    def array(self, tensor: Any) -> Any:
        """An array over the memory of a torch tensor."""
        tensor = tensor.detach()
        return tensor.numpy() if self.device == "cpu" else devices.namespace(self.device).from_dlpack(tensor)

    def torch_type(self) -> Any:
        """The dtype as torch calls it."""
        import torch

        return getattr(torch, self.dtype)


def largest_difference(a: Any, b: Any) -> tuple[float, float]:
    """max |a - b| and max |a|, in float32."""
    a, b = a.astype(np.float32, copy=False), b.astype(np.float32, copy=False)
    difference, scale = (abs(x).reshape(-1).max(keepdims=True) for x in (a - b, a))
    return float(to_host(difference)[0]), float(to_host(scale)[0])
