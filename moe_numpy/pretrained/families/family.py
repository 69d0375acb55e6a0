"""How the models of one family are published: settings, names of tensors, layout of the experts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...models import ModelConfig, TransformerConfig
from ..fields import Fields
from ..pieces import Experts, OneByOne, Piece, pieces_of

_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # in old files; computed from config.json
_PREDICTS = ".eh_proj.weight"  # only a layer that predicts a further token has it


@dataclass(frozen=True, eq=False)
class Family:
    """One family of published models.

    Attributes:
        transformer: the model that the settings describe.
        names: from our names to the published ones; those of a layer without the path to it. A name may stand for all
            that begins with it and a dot.
        experts: how they are stored.
        special: by our name, the pieces of what is neither renamed nor an expert; of the published path of the layer,
            our whole name and all arrays.
        layer: the published path of a layer, ``{n}`` its number.
        prefix: what all published names begin with.
        further: a pattern of tensors that are no part of the language model.
        written: the settings to write for a model that was read with these.
        settings_of: the settings that come closest to a configuration of ours; None where none could.
        balance: the setting that is the coefficient of the balance loss, which transformers takes over all layers at
            once; None for a family without one there.
        further_layers: whether there may be layers after the last that predict further tokens, no part of it either.
    """

    transformer: Callable[[Fields], TransformerConfig]
    names: Mapping[str, str]
    experts: Experts = field(default_factory=OneByOne)
    special: Mapping[str, Callable[[str, str, Mapping[str, Any]], Iterator[Piece]]] = field(default_factory=dict)
    layer: str = "model.layers.{n}."
    prefix: str = ""
    further: str | None = None
    written: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    settings_of: Callable[[ModelConfig], dict[str, Any]] | None = None
    balance: str | None = "router_aux_loss_coef"
    further_layers: bool = False

    @property
    def embedding(self) -> str:
        """The published name of the embedding matrix."""
        return f"{self.prefix}{self.names['embedding']}.weight"

    @property
    def output(self) -> str:
        """The published name of the output matrix, which tied models do not have."""
        return f"{self.prefix}{self.names['output']}.weight"

    def pieces(self, arrays: Mapping[str, Any]) -> Iterator[Piece]:
        """Where the published tensors belong in our arrays."""
        for piece in pieces_of(arrays, self.names, self.layer, self.experts, self.special):
            yield piece.below(self.prefix)

    def num_layers(self, names: Iterable[str]) -> int:
        """Of how many layers these published tensors are."""
        return len({self._layer_of(name) for name in names} - {None})

    def skipped(self, names: Iterable[str], num_layers: int) -> set[str]:
        """Those of these published tensors that are no part of a model with so many layers."""
        names = list(names)
        predicting = {self._layer_of(name) for name in names if self.further_layers and name.endswith(_PREDICTS)}
        further = {number for number in predicting if number is not None and number >= num_layers}
        return {name for name in names if self._is_further(name) or self._layer_of(name) in further}

    def _is_further(self, name: str) -> bool:
        return bool(_COMPUTED.search(name) or (self.further is not None and re.match(self.further, name)))

    def _layer_of(self, name: str) -> int | None:
        """The number of the layer in a published name."""
        start = self.prefix + self.layer.partition("{n}")[0]
        number = name.removeprefix(start).partition(".")[0] if name.startswith(start) else ""
        return int(number) if number.isdecimal() and len(number) < 10 else None
