"""``python -m benchmarks.new_domain``: a new domain for the demo's model, by new experts and by training everything.

    python -m benchmarks.new_domain [RUN] [--domain unicode|c] [--seed 0] [--steps 50] [--learning-rate 0.003]

Two domains that are on every machine with this package: ``unicode``, the names of characters in Python's unicodedata,
and ``c``, the headers that ship with NumPy. The seed draws batches and new rows. Losses are nats per byte of held-out
text, the old one as the mean over the old domains.
"""

import argparse
import json
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from moe_numpy.commands.output import plain_table
from moe_numpy.files import write_json_atomically
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.training import Corpus, Domain, Trainer, TrainingConfig, presets
from moe_numpy.training.changing_experts import with_new_experts
from moe_numpy.training.encoding import domain_of
from moe_numpy.training.evaluation import Evaluation, evaluate
from moe_numpy.training.freezing import all_but_experts

from .held_out import open_or_train

RESULTS = Path(__file__).parent / "results" / "new_domain.json"
COUNT = 2  # new experts in each layer
_WINDOWS = 48  # per domain
_FIT_WINDOWS = 32


def unicode_names() -> bytes:
    """A line per character that has a name of its own, such as ``λ GREEK SMALL LETTER LAMDA``."""
    named = ((chr(c), unicodedata.name(chr(c), "")) for c in range(sys.maxunicode + 1))
    lines = [f"{c} {name}\n" for c, name in named if name and not name.startswith(("CJK", "HANGUL SYLLABLE"))]
    return "".join(lines).encode()


def c_headers() -> bytes:
    """NumPy's own, in the order of their paths."""
    return b"\n".join(file.read_bytes() for file in sorted(Path(np.get_include()).rglob("*.h")))


TEXTS: dict[str, Callable[[], bytes]] = {"unicode": unicode_names, "c": c_headers}


@dataclass(frozen=True)
class Way:
    """A way to learn the new domain.

    Attributes:
        trained: what changes: "nothing", "everything", "new experts" with their rows of the router, or the same, "no
            rows".
        on: "new" text alone, or "both".
    """

    trained: str
    on: str = "both"

    def freeze(self, model: Transformer, num_old: int) -> tuple[str, ...]:
        """The patterns of what stays."""
        rows = ("layers.*.router.*",) if self.trained == "new experts, no rows" else ()
        return (*all_but_experts(model), f"*:0-{num_old - 1}", *rows)


WAYS = (
    Way("nothing"),
    Way("everything", "new"),
    Way("everything", "both"),
    Way("new experts", "both"),
    Way("new experts", "new"),
    Way("new experts, no rows", "new"),
)


def measure(model: Transformer, corpus: Corpus, new: Domain, way: Way, **training: Any) -> dict[str, Any]:
    """Train in one way; losses before and after, and how many parameters were trained."""
    config = model.config
    assert isinstance(config, ModelConfig)
    both, alone = Corpus([*corpus.domains, new]), Corpus([new])
    began = time.perf_counter()
    seed = training["seed"]
    if way.trained.startswith("new experts"):
        batch: Any = {"batch_size": _FIT_WINDOWS, "context": config.context, "seed": seed}
        texts = [each.batch(0, **batch).tokens for each in (corpus, alone)]
        changed = with_new_experts(config, model, COUNT, *texts, rng=np.random.default_rng([seed, 2]))
        training["freeze"] = way.freeze(changed.model, config.num_experts)
        start, config = changed.model, changed.config
    else:
        start = model
    trainer = Trainer(config, presets.training(**training), both if way.on == "both" else alone)
    trainer.model.load_state_dict(start.state_dict())
    windows = both.validation_windows(config.context, limit=_WINDOWS)

    def losses() -> tuple[float, float, Evaluation]:
        found = evaluate(trainer.model, windows, len(both.domains))
        return float(found.domain_loss[:-1].mean()), float(found.domain_loss[-1]), found

    first = losses()
    if way.trained != "nothing":
        trainer.train(lambda record: None)
    old, fresh, found = losses() if way.trained != "nothing" else first
    shares = found.domain_expert[..., model.num_routes :].sum(-1).mean(0)  # of all assignments of a domain
    return {
        "trained": way.trained,
        "on": way.on if way.trained != "nothing" else "-",
        "parameters": trainer.trained_parameters if way.trained != "nothing" else 0,
        "of": trainer.num_parameters,
        "old_at_start": first[0],
        "new_at_start": first[1],
        "old": old,
        "new": fresh,
        "old_to_new_experts": float(shares[:-1].mean()),
        "new_to_new_experts": float(shares[-1]),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Measure all ways, print a table, and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="run folder; without it the demo's model is trained first")
    parser.add_argument("--domain", choices=TEXTS, default="unicode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig.learning_rate)
    parser.add_argument("--record", action="store_true", help=f"keep the rows in benchmarks/results/{RESULTS.name}")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    model, corpus = open_or_train(arguments.run, console)
    new = domain_of(arguments.domain, TEXTS[arguments.domain]())
    training = {name: getattr(arguments, name) for name in ("seed", "steps", "learning_rate")}
    rows: list[dict[str, Any]] = []
    table = plain_table()
    for name in ("trained", "on text", "share", "new loss", "change", "old loss", "change"):
        table.add_column(name, justify="left" if name in ("trained", "on text") else "right")
    for way in WAYS:
        with console.status(f"{way.trained}, {way.on} ..."):
            row = measure(model, corpus, new, way, **training)
        rows.append({"domain": arguments.domain} | training | row)
        before = rows[0]
        cells = f"{row['new']:.3f}", f"{row['new'] - before['new']:+.3f}", f"{row['old']:.4f}"
        share = f"{row['parameters'] / row['of']:.1%}"
        table.add_row(row["trained"], row["on"], share, *cells, f"{row['old'] - before['old']:+.4f}")
        console.print(f"{row['trained']}, {row['on']}: {row['seconds']:.0f} s", style="dim")
    console.print(table)
    if arguments.record:
        kept = json.loads(RESULTS.read_bytes())["rows"] if RESULTS.exists() else []
        mine = {"domain": arguments.domain, **training}
        kept = [row for row in kept if {name: row[name] for name in mine} != mine]
        write_json_atomically(RESULTS, {"rows": [*kept, *rows]})


if __name__ == "__main__":
    main()
