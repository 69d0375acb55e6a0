"""Module and Parameter: the tree of trainable tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..autodiff import Tensor


class Parameter(Tensor):
    """A Tensor that training changes. Found by the Module that it is an attribute of."""

    __slots__ = ()

    def __init__(self, data: Any, name: str | None = None):
        super().__init__(data, requires_grad=True, name=name)


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

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter below this Module, with its path, in the order of definition."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
        for child_name, child in self.children():
            for name, parameter in child.named_parameters():
                yield f"{child_name}.{name}", parameter

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

    def train(self, mode: bool = True) -> "Module":
        """Switch noise and dropout on, or off with ``mode=False``, here and below."""
        self.training = mode
        for _, child in self.children():
            child.train(mode)
        return self

    def eval(self) -> "Module":
        """Switch noise and dropout off, here and below."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """The arrays of all parameters by name. They are not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays into the parameters of the same names.

        Raises:
            ValueError: names or shapes differ; nothing has been changed then.
        """
        parameters = dict(self.named_parameters())
        missing, unknown = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
        if missing or unknown:
            raise ValueError(
                f"state does not fit {type(self).__name__}: missing {missing}, unknown {unknown}"
            )
        for name, parameter in parameters.items():
            if state[name].shape != parameter.shape:
                raise ValueError(f"{name} has shape {parameter.shape}, the state has {state[name].shape}")
        for name, parameter in parameters.items():
            parameter.data[...] = state[name]


def normal(
    rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: Any = np.float32
) -> Parameter:
    """A Parameter with entries drawn from N(0, std²).

    Drawn in float64 and then rounded, so that a float32 and a float64 model from one seed agree.
    """
    return Parameter((std * rng.standard_normal(shape)).astype(dtype))
