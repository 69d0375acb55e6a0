"""Kill ranks at random moments, resume, and compare the run with one that nothing disturbed.

    python -m benchmarks.kills [--kills 50] [--ranks 2 4] [--steps 40] [--seed 0]

A small deterministic run saves a checkpoint after every step. A third of the kills hit a life of the run anywhere, its
start included; a third shortly after a step; a third as soon as a checkpoint is being written. The killed rank is
drawn, the signal is SIGKILL. After each kill the newest checkpoint is verified, then the run is resumed. A run that
reaches its end is compared bit for bit: every line of the history but its seconds, and the last checkpoint.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from moe_numpy.commands.starting_ranks import JOB, mpiexec
from moe_numpy.training import Run, list_checkpoints, load_checkpoint

MODEL = {
    "d-model": 16, "num-layers": 2, "num-experts": 6, "d-ff": 8, "context": 16, "batch-size": 6, "checkpoint-every": 1,
    "parts": 4,
}  # fmt: skip
_POLL = 0.0005  # seconds


class Life:
    """One start of the run on several ranks, until it ends or is killed."""

    def __init__(self, folder: Path, num_ranks: int, steps: int, text: Path):
        self.folder, self.num_ranks = folder, num_ranks
        settings = {"out": folder, "steps": steps, "text": text} | MODEL
        new = ["--deterministic", *(f"--{name}={value}" for name, value in settings.items())]
        arguments = ["--resume", "--out", str(folder)] if (folder / "config.json").exists() else new
        self._lines = self._history_lines()
        self._shards = {path.name for path in _unnamed_shards(folder)}
        self._job = TemporaryDirectory(prefix="kills-")
        self._output = Path(self._job.name, "output")
        command = [mpiexec(), "-n", str(num_ranks), sys.executable, "-m", "moe_numpy", "train", *arguments]
        environment = os.environ | {JOB: self._job.name, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with open(self._output, "wb") as output:
            self._mpiexec = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self.began = time.perf_counter()

    @property
    def has_ended(self) -> bool:
        """Whether all ranks have."""
        return self._mpiexec.poll() is not None

    @property
    def trains(self) -> bool:
        """Whether it has come to its steps: at the start the history is cut back to the checkpoint."""
        return self._history_lines() != self._lines

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is half-written: a file has its temporary name, or no JSON names a shard yet."""
        shards = {path.name for path in _unnamed_shards(self.folder)}
        return self.trains and (any(self.folder.glob("checkpoint-*.tmp")) or bool(shards - self._shards))

    def processes(self) -> list[int]:
        """Those of the ranks, once all have started."""
        found = [int(path.name) for path in Path(self._job.name).iterdir() if path.name.isdecimal()]
        return found if len(found) == self.num_ranks else []

    def kill(self, process: int) -> bool:
        """SIGKILL for one rank; wait until all have ended. False if the run came to its end just before."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        killed = self._mpiexec.wait() == signal.SIGKILL  # so MPICH has it
        self._job.cleanup()
        return killed

    def require_success(self) -> None:
        """RuntimeError, with what it printed, if a run that was not killed did not end well."""
        if self._mpiexec.wait() != 0:
            raise RuntimeError(f"the run of {self.num_ranks} ranks failed:\n{self._output.read_text()}")
        self._job.cleanup()

    def _history_lines(self) -> int:
        history = self.folder / "history.jsonl"
        return history.read_bytes().count(b"\n") if history.exists() else 0


def _unnamed_shards(folder: Path) -> list[Path]:
    """Of the steps that have no JSON."""
    shards = folder.glob("checkpoint-*.safetensors")
    return [path for path in shards if not (folder / f"{path.name[:17]}.json").exists()]


def wait_for_moment(life: Life, usual_start: float, rng: np.random.Generator) -> bool:
    """Wait for a random moment at which all ranks live; False if the run has ended before."""
    kind = rng.choice(["anywhere", "after a step", "writing"])
    seconds = rng.uniform(0, usual_start * 1.5) if kind == "anywhere" else rng.uniform(0, 0.1)
    while not life.has_ended:
        time.sleep(_POLL)
        if not life.processes():
            continue
        if kind == "anywhere":
            there = time.perf_counter() - life.began > seconds
        else:
            there = life.is_writing if kind == "writing" else life.trains
        if there:
            if kind == "after a step":
                time.sleep(seconds)
            return not life.has_ended
    return False


def result(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What must be equal: the history without seconds, and the arrays of the last checkpoint."""
    history = [{name: v for name, v in record.items() if name != "seconds"} for record in Run.open(folder).history()]
    return history, {name: array.tobytes() for name, array in load_checkpoint(folder).arrays.items()}


def killed_runs(
    folder: Path, num_ranks: int, kills: int, steps: int, text: Path, rng: np.random.Generator, advance: Any
) -> tuple[Counter[str], list[Path], float]:
    """Runs that are killed so often in all, and resumed to their end: when they were hit, where they are, how long."""
    hit: Counter[str] = Counter()
    began, usual_start, done, runs = time.perf_counter(), 2.0, 0, [folder / f"{num_ranks}-1"]
    while True:
        life = Life(runs[-1], num_ranks, steps, text)
        if done < kills and wait_for_moment(life, usual_start, rng):
            if not life.kill(int(rng.choice(life.processes()))):
                continue
            done += 1
            hit["writing" if life.is_writing else "training" if life.trains else "starting"] += 1
            usual_start = max(usual_start, min(time.perf_counter() - life.began, 10))
            if list_checkpoints(runs[-1]):
                load_checkpoint(runs[-1])
            advance()
            continue
        life.require_success()
        if done == kills:
            return hit, runs, time.perf_counter() - began
        runs.append(folder / f"{num_ranks}-{len(runs) + 1}")


def main() -> None:
    """Print one row for each number of ranks; exit code 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="in all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=40, help="of a run; one that ends early is followed by another")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console, rng = Console(highlight=False), np.random.default_rng(arguments.seed)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("ranks", "kills", "at the start", "while writing", "runs", "seconds", "history", "last checkpoint"):
        table.add_column(title, justify="right")
    all_equal = True
    with TemporaryDirectory(prefix="kills-") as made, Progress(console=console, transient=True) as progress:
        folder = Path(made)
        text = folder / "text.txt"
        text.write_text("the cat sat on the mat, and the dog did not. " * 60)
        task = progress.add_task("An undisturbed run", total=arguments.kills)
        Life(folder / "undisturbed", 1, arguments.steps, text).require_success()
        undisturbed = result(folder / "undisturbed")
        for i, num_ranks in enumerate(arguments.ranks):
            progress.update(task, description=f"{num_ranks} ranks")
            share = arguments.kills // len(arguments.ranks) + (i < arguments.kills % len(arguments.ranks))
            hit, runs, seconds = killed_runs(
                folder, num_ranks, share, arguments.steps, text, rng, lambda: progress.advance(task)
            )
            results = [result(run) for run in runs]
            same = [all(each[part] == undisturbed[part] for each in results) for part in (0, 1)]
            all_equal &= all(same)
            words = ["the same bits" if equal else "DIFFERS" for equal in same]
            numbers = [num_ranks, share, hit["starting"], hit["writing"], len(runs), round(seconds)]
            table.add_row(*map(str, numbers), *words)
    console.print(table)
    sys.exit(0 if all_equal else 1)


if __name__ == "__main__":
    main()
