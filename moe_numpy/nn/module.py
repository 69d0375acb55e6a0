"""Module and Parameter: the tree of trainable tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import devices
from ..autodiff import Tensor
from ..autodiff.arrays import is_float


class Parameter(Tensor):
    """A Tensor that training changes. Found by the Module that it is an attribute of."""

    __slots__ = ()

    def __init__(self, data: Any, name: str | None = None):
        super().__init__(data, requires_grad=True, name=name)


class Buffer(Tensor):
    """A Tensor that belongs to a Module's state but has no gradient: saved, loaded, changed by rules of its own."""

    __slots__ = ()

    def __init__(self, data: Any, name: str | None = None):
        super().__init__(data, name=name)


class Module:
    """A part of a model: parameters and other Modules as plain attributes, and a ``forward``.

    Lists and tuples of Modules are searched too. The name of a parameter is the path to it:
    ``layers.0.attention.query.weight``.
    """

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result; called by ``module(...)``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """The Modules directly below this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def named_modules(self, path: str = "") -> Iterator[tuple[str, "Module"]]:
        """This Module and every one below it, each with the path to it: empty, or ending in a dot."""
        yield path, self
        for name, child in self.children():
            yield from child.named_modules(f"{path}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter below this Module, with its path, in the order of definition."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield path + name, value

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every buffer below this Module, with its path."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Buffer):
                    yield path + name, value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter below this Module."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers training can change."""
        return sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        """Forget all gradients, before the next backward pass."""
        for parameter in self.parameters():
            parameter.grad = None

    def after_step(self) -> None:
        """Called once after each optimizer step, for rules that are not gradients; here and below."""
        for _, child in self.children():
            child.after_step()

    def train(self, mode: bool = True) -> "Module":
        """Switch noise and dropout on, or off with ``mode=False``, here and below."""
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self) -> "Module":
        """Switch noise and dropout off, here and below."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: Any = None) -> "Module":
        """Move parameters and buffers to a device, and cast the parameters to a type of floats; in place.

        Buffers keep their type. Gradients are forgotten.

        Args:
            device: ``"cpu"`` or ``"cuda"``; None leaves everything where it is.
            dtype: of the parameters, for instance ``devices.float_type("bfloat16")``; None leaves it.

        Raises:
            DeviceError: the device cannot be had.
            TypeError: ``dtype`` is no type of floats.
        """
        if dtype is not None and not is_float(np.dtype(dtype)):
            raise TypeError(f"dtype must be a type of floats, got {dtype}")
        for _, tensor in self._state():
            if device is not None:
                tensor.data = devices.put(tensor.data, device)
            if dtype is not None and isinstance(tensor, Parameter):
                tensor.data = tensor.data.astype(dtype, copy=False)
            tensor.grad = None
        return self

    def state_dict(self) -> dict[str, Any]:
        """The arrays of all parameters and buffers by name. They are not copies."""
        return {name: tensor.data for name, tensor in self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays into the parameters and buffers of the same names.

        Raises:
            ValueError: names or shapes differ; nothing has been changed then.
        """
        tensors = dict(self._state())
        missing, unknown = sorted(tensors.keys() - state.keys()), sorted(state.keys() - tensors.keys())
        if missing or unknown:
            raise ValueError(f"state does not fit {type(self).__name__}: missing {missing}, unknown {unknown}")
        for name, tensor in tensors.items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tensor.shape}, the state has {state[name].shape}")
        for name, tensor in tensors.items():
            tensor.data[...] = array_namespace(tensor.data).asarray(state[name])

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: Any = np.float32) -> Parameter:
    """A Parameter with entries drawn from N(0, std²).

    Drawn in float64 and then rounded, so that a float32 and a float64 model from one seed agree.
    """
    return Parameter((std * rng.standard_normal(shape)).astype(dtype))
