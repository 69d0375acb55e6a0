"""Where the numbers of a published tensor are in our parameters: one description for reading, writing and gradients."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

View = Callable[[Any], Any]
EACH = -1


def as_it_is(array: Any) -> Any:
    """The array."""
    return array


def transposed(matrix: Any) -> Any:
    """[out, in] as [in, out]."""
    return matrix.swapaxes(-1, -2)


@dataclass(frozen=True, eq=False)
class Piece:
    """A published tensor, or some of its rows, and the entries of one of our parameters that it holds.

    Attributes:
        published: its name in the files.
        ours: the name of the parameter or buffer.
        view: from that array, or from one expert's part of it, a view of those entries in the order of the published
            tensor. It may have more axes than that.
        expert: None: ``view`` takes the whole array. A number: it takes the part of this expert. EACH: of each expert
            in turn, along the first axis of the published tensor.
        shape: of the published tensor, where it is not that of the view, for each expert or not.
        rows: which rows of the published tensor; None for all.
    """

    published: str
    ours: str
    view: View = as_it_is
    expert: int | None = None
    shape: tuple[int, ...] | None = None
    rows: slice | None = None

    def entries(self, array: Any, expert: int | None = None) -> Any:
        """The view of our whole array, or of ``expert``'s part of it."""
        if self.expert is None:
            return self.view(array)
        return self.view(array[expert if self.expert == EACH else self.expert])

    def part(self, expert: int | None) -> Any:
        """What to read of the published tensor, for one expert where it holds EACH."""
        return expert if self.expert == EACH else ... if self.rows is None else self.rows

    def below(self, prefix: str) -> "Piece":
        """The same with a published name that begins with ``prefix``."""
        return replace(self, published=prefix + self.published) if prefix else self

    def published_shape(self, array: Any) -> tuple[int, ...]:
        """What the published tensor must have, given our array."""
        if self.shape is not None:
            return self.shape
        shape = tuple(self.entries(array, 0).shape)
        return (len(array), *shape) if self.expert == EACH else shape


@dataclass(frozen=True)
class OneByOne:
    """SwiGLU experts in three matrices each, such as ``mlp.experts.3.gate_proj.weight``.

    Attributes:
        path: the expert's, with ``{e}`` for its number.
        matrices: what gate, up and down are called.
    """

    path: str = "mlp.experts.{e}"
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    def pieces(self, layer: str, prefix: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Those of one layer, ``layer`` its published and ``prefix`` its name here."""
        gate_up, down = prefix + "gate_up", prefix + "down"
        num_experts, width, _ = arrays[gate_up].shape
        f, (gate, up, back) = width // 2, self.matrices
        for e in range(num_experts):
            path = layer + self.path.format(e=e)
            yield Piece(f"{path}.{gate}.weight", gate_up, lambda a: a[:f], e)
            yield Piece(f"{path}.{up}.weight", gate_up, lambda a: a[f:], e)
            yield Piece(f"{path}.{back}.weight", down, as_it_is, e)


@dataclass(frozen=True)
class Together:
    """Experts in one tensor for each matrix, [E, ., .].

    Attributes:
        names: from ours, after ``experts.``, to the published name in the layer.
        transposed: whether matrices are [in, out] there.
    """

    names: Mapping[str, str]
    transposed: bool = True

    def pieces(self, layer: str, prefix: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Those of one layer."""
        for ours, name in self.names.items():
            matrix = arrays[prefix + ours].ndim == 3
            view = transposed if matrix and self.transposed else as_it_is
            yield Piece(layer + name, prefix + ours, view, EACH)


@runtime_checkable
class Experts(Protocol):
    """A layout of experts: :class:`OneByOne`, :class:`Together`, or a family's own."""

    def pieces(self, layer: str, prefix: str, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Those of one layer, ``layer`` its published and ``prefix`` its name here."""


def pieces_of(
    arrays: Mapping[str, Any],
    names: Mapping[str, str],
    layer_path: str,
    experts: Experts,
    special: Mapping[str, Callable[[str, str, Mapping[str, Any]], Iterator[Piece]]],
) -> Iterator[Piece]:
    """The pieces of all parameters and buffers.

    Args:
        arrays: ours by name.
        names: from ours, with layers as ``layers.N.``, to published names. A name may stand for all that begins with it
            and a dot.
        layer_path: the published path of a layer, with ``{n}`` for its number and a dot at the end.
        experts: how they are stored.
        special: what is neither renamed nor an expert: by our name, a function of the published layer, our whole name
            and all arrays.
    """
    done = set()
    for name in arrays:
        number, rest = _split(name)
        path = "" if number is None else layer_path.format(n=number)
        if ".experts." in name:
            prefix = name[: name.index(".experts.") + len(".experts.")]
            if prefix not in done:
                done.add(prefix)
                yield from experts.pieces(path, prefix, arrays)
        elif rest in special:
            yield from special[rest](path, name, arrays)
        else:
            yield Piece(path + _renamed(rest, names), name)


def _split(name: str) -> tuple[str | None, str]:
    """The number of the layer and the rest of ``layers.3.attention.query.weight``; other names have no number."""
    if not name.startswith("layers."):
        return None, name
    _, number, rest = name.split(".", 2)
    return number, rest


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The published name. KeyError if this family has none."""
    if name in names:
        return names[name]
    stem, _, last = name.rpartition(".")
    if stem in names:
        return f"{names[stem]}.{last}"
    raise KeyError(name)
