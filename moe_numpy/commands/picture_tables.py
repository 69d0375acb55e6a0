"""What a model trained on pictures says of those held out, and which experts take patches and text: tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from ..moe.pools import MODALITIES
from .output import plain_table, print_title
from .shares import print_shares


def print_pictures(console: Console, found: Mapping[str, Any]) -> None:
    """How many held-out pictures get the right caption, class by class; ``found`` is PictureEvaluation.to_json()."""
    print_title(
        console,
        f"Pictures: {100 * found['accuracy']:.1f} % of {found['pictures']} held-out ones get the right caption "
        f"({found['caption_loss']:.3f} nats/byte)",
    )
    confusion, names = np.array(found["confusion"]), list(found["accuracy_by_class"])
    table = plain_table()
    for name in ("caption", "pictures", "right %", "most often mistaken for"):
        table.add_column(name, justify="left" if name.startswith(("caption", "most")) else "right")
    for i, name in enumerate(names):
        others = np.where(np.arange(len(names)) == i, 0, confusion[i])
        worst = int(others.argmax())
        mistake = f"{names[worst]} ({others[worst]})" if others[worst] else ""
        table.add_row(name, str(confusion[i].sum()), f"{100 * found['accuracy_by_class'][name]:.1f}", mistake)
    console.print(table)


def print_modalities(console: Console, found: Mapping[str, Any], layers: Sequence[int], shown: Sequence[int]) -> None:
    """Each expert's share of the assignments of a modality, in the layers shown."""
    shares = shares_of(found)
    for layer in shown:
        title = f"Layer {layer}: which experts take text and which take patches"
        print_shares(console, title, MODALITIES, shares[layers.index(layer)])


def shares_of(found: Mapping[str, Any]) -> Any:
    """Float[layers, modalities, experts], each expert's share of the assignments of a modality."""
    return np.array([found["load_by_modality"][name] for name in MODALITIES]).swapaxes(0, 1)
