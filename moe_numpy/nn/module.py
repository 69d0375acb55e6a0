"""Module and Parameter: the tree of trainable tensors."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from numbers import Real
from types import GeneratorType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace

from .. import devices
from ..autodiff import Tensor
from ..autodiff.arrays import is_float
from ..typing import Random

Kind = TypeVar("Kind", bound=Tensor)


class Parameter(Tensor):
    """A Tensor that training changes, unless ``requires_grad`` is set to False; an attribute of a Module.


    Args:
        data: see :class:`Tensor`.
        name: see :class:`Tensor`.
        decay: whether weight decay applies to it: True for weight matrices and embeddings, stacked ones too; False for
            biases, stacked ones too, and for scales. None leaves it to the optimizer.

    Attributes:
        frozen: the entries along the first axis that training leaves as they are, such as experts of a stack. They have
            gradients like the others; the optimizer passes over them.
    """

    __slots__ = ("decay", "frozen")

    def __init__(self, data: Any, name: str | None = None, *, decay: bool | None = None):
        super().__init__(data, requires_grad=True, name=name)
        self.decay = decay
        self.frozen: frozenset[int] = frozenset()


class Buffer(Tensor):
    """A Tensor that belongs to a Module's state but has no gradient: saved, loaded, changed by rules of its own.

    Attributes:
        frozen: the entries along the first axis that those rules do not change in training.
    """

    __slots__ = ("frozen",)

    def __init__(self, data: Any, name: str | None = None):
        super().__init__(data, name=name)
        self.frozen: frozenset[int] = frozenset()


_unfinished: ContextVar[list[Callable[[], None]] | None] = ContextVar("unfinished", default=None)


def after_forward(note: Callable[[], None]) -> None:
    """Call ``note`` once the outermost Module that is running has returned; never, if it fails. At once outside any."""
    notes = _unfinished.get()
    if notes is None:
        note()
    else:
        notes.append(note)


class Module:
    """A part of a model: parameters and other Modules as plain attributes, and a ``forward``.

    Lists, tuples, dicts and dataclasses are searched too, at any depth; they may grow later. The name of a parameter is
    the path to it: ``layers.0.attention.query.weight``. What is found at several places counts once, under the first
    name: tied parameters are one parameter.

    Raises:
        TypeError: an attribute is a generator; or a set, an array or an attribute of the class holds parameters or
            Modules: they have no name there.
    """

    training = True
    num_stored = 0  # numbers of parameters that stay in files

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, value in vars(cls).items():
            for _ in _found(name, value, set()):
                raise TypeError(f"{cls.__name__}.{name} belongs to the class, so to no model; assign it in __init__")

    def __setattr__(self, name: str, value: Any) -> None:
        for _ in _found(name, value, set()):
            pass  # raises where something could never be found
        super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result; called by ``module(...)``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _unfinished.get() is not None:
            return self.forward(*args, **kwargs)
        notes: list[Callable[[], None]] = []
        token = _unfinished.set(notes)
        try:
            result = self.forward(*args, **kwargs)
        finally:
            _unfinished.reset(token)
        for note in notes:
            note()
        return result

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """The Modules directly below this one, with their names."""
        for name, value in self._own():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, path: str = "") -> Iterator[tuple[str, "Module"]]:
        """This Module and every one below it, once, each with the path to it: empty, or ending in a dot."""
        for at, module, _ in self._walk(path):
            yield at, module

    def named_parameters(self) -> "NamedParameters":
        """Every parameter below this Module, once, with its path, in the order of definition."""
        return NamedParameters(self)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every buffer below this Module, once, with its path."""
        return self._named(Buffer)

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter below this Module, once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers the parameters hold, frozen ones and those that stay in files included."""
        stored = sum(module.num_stored for _, module in self.named_modules())
        return stored + sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        """Set every ``.grad`` to None. It may come between forward and backward, so it forgets nothing else."""
        for parameter in self.parameters():
            parameter.grad = None

    def forget_passes(self) -> None:
        """Forget what forward passes left for :meth:`after_step`, for a step that failed; of this Module alone."""

    def after_step(self) -> None:
        """Called once after each optimizer step, for rules that are not gradients; here and below.

        A Module with a rule overrides it, and is then responsible for what is below it.
        """
        seen, pending = {id(self)}, [self]
        while pending:
            for _, child in pending.pop(0).children():
                if id(child) in seen:
                    continue
                seen.add(id(child))
                if type(child).after_step is Module.after_step:
                    pending.append(child)
                else:
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
        """Move parameters and buffers to a device, and cast the parameters to a floating-point type; in place.

        Buffers keep their type. Every ``.grad`` becomes None.

        Args:
            device: ``"cpu"`` or ``"cuda"``; None leaves everything where it is.
            dtype: of the parameters, for instance ``devices.float_type("bfloat16")``; None leaves it.

        Raises:
            DeviceError: the device is not available.
            TypeError: ``dtype`` is not a floating-point type.
        """
        if dtype is not None and not is_float(np.dtype(dtype)):
            raise TypeError(f"dtype must be a floating-point type, got {dtype}")
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
            ValueError: names or shapes differ; nothing is changed then.
            TypeError: a value is not made of real numbers; nothing is changed then either.
        """
        tensors, state = dict(self._state()), {name: _plain_array(name, value) for name, value in state.items()}
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

    def _own(self) -> Iterator[tuple[str, Any]]:
        """The Modules, parameters and buffers of this Module alone, also those in containers."""
        seen: set[int] = set()
        for name, value in vars(self).items():
            if isinstance(value, Module | Parameter | Buffer):
                yield name, value
            elif type(value) not in _PLAIN:
                yield from _found(name, value, seen)

    def _walk(self, path: str = "") -> Iterator[tuple[str, "Module", list[tuple[str, Any]]]]:
        """This Module and every one below it, once: the path to it, itself, and what it owns."""
        seen = set()
        pending: list[tuple[str, Module]] = [(path, self)]
        while pending:
            at, module = pending.pop()
            if id(module) not in seen:
                seen.add(id(module))
                own = list(module._own())
                yield at, module, own
                pending += [(f"{at}{name}.", v) for name, v in reversed(own) if isinstance(v, Module)]

    def _named(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        seen, names = set(), set()
        for path, _, own in self._walk():
            for name, value in own:
                if isinstance(value, Parameter | Buffer) and id(value) not in seen:
                    if path + name in names:
                        raise ValueError(f"two of the parameters or buffers are named {path + name!r}")
                    seen.add(id(value))
                    names.add(path + name)
                    if isinstance(value, kind):
                        yield path + name, value


class NamedParameters(Iterator[tuple[str, Parameter]]):
    """Iterates over the parameters of a Module, and says which: an optimizer can then see when others are added."""

    def __init__(self, module: Module):
        self.module = module
        self._found = module._named(Parameter)

    def __next__(self) -> tuple[str, Parameter]:
        return next(self._found)


_PLAIN = frozenset({int, float, bool, str, type(None)})  # most attributes, which need no search


def _found(name: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The Modules, parameters and buffers in a value, through containers, each once, but not into Modules."""
    if isinstance(value, Module | Parameter | Buffer):
        yield name, value
    elif type(value) not in _PLAIN and id(value) not in seen:
        seen.add(id(value))
        for key, item in _items(value):
            for path, found in _found(f"{name}.{key}", item, seen):
                if isinstance(value, Set | np.ndarray):
                    raise TypeError(
                        f"{name} is a {type(value).__name__} with a {type(found).__name__} in it, which has no name "
                        "there and would not be trained or saved; use a list, a tuple or a dict"
                    )
                yield path, found


def _items(container: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, by key; nothing of anything else."""
    if isinstance(container, Mapping):
        return container.items()
    if isinstance(container, str | bytes | bytearray | range):
        return ()
    if isinstance(container, Sequence | ValuesView | Set):
        return enumerate(container)
    if isinstance(container, np.ndarray) and container.dtype == object:
        return enumerate(container.flat)
    if isinstance(container, SimpleNamespace):
        return vars(container).items()
    if is_dataclass(container) and not isinstance(container, type):
        return ((field.name, getattr(container, field.name, None)) for field in fields(container))
    if isinstance(container, GeneratorType | map | filter | zip):
        raise TypeError(f"a {type(container).__name__} cannot be searched for parameters; make it a list")
    return ()


def _plain_array(name: str, value: Any) -> Any:
    value = value.data if isinstance(value, Tensor) else value if hasattr(value, "dtype") else np.asarray(value)
    try:
        return Tensor(value).data
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


class Unfilled:
    """In place of a generator: weights without memory, for a checkpoint to fill in."""


def normal(rng: Random | Unfilled, shape: tuple[int, ...], std: float, dtype: Any = np.float32) -> Parameter:
    """A Parameter with entries drawn from N(0, std²), to which weight decay applies.

    Drawn in float64 and then rounded, so that a float32 and a float64 model from one seed agree.

    Raises:
        TypeError: ``rng`` is not a generator.
        ValueError: ``std`` is not a number of at least 0.
    """
    if not (isinstance(std, Real) and 0 <= std < math.inf):
        raise ValueError(f"std must be a number of at least 0, got {std!r:.60}")
    if isinstance(rng, Unfilled):
        return Parameter(np.broadcast_to(np.zeros((), dtype), shape), decay=True)
    if not isinstance(rng, np.random.Generator | devices.DeviceGenerator):
        raise TypeError(f"rng must be a numpy.random.Generator, such as np.random.default_rng(0), got {rng!r:.60}")
    return Parameter((std * rng.standard_normal(shape)).astype(dtype), decay=True)


def constant(rng: Any, shape: int | tuple[int, ...], value: float, dtype: Any = np.float32) -> Parameter:
    """A Parameter with this value everywhere, to which no weight decay applies; with Unfilled, one without memory."""
    if isinstance(rng, Unfilled):
        return Parameter(np.broadcast_to(np.full((), value, dtype), shape), decay=False)
    return Parameter(np.full(shape, value, dtype), decay=False)
