"""Schedules of a pipeline: how long devices wait, and how many micro-batches are in flight."""

from dataclasses import dataclass

from ..layers import require_at_least

#: One forward, one backward (Harlap et al. 2018); ZB1P (Qi et al. 2024); DualPipe (DeepSeek-V3 2024).
SCHEDULES = ("1f1b", "zb1p", "dualpipe")


@dataclass(frozen=True)
class Pipeline:
    """A schedule (DeepSeek-V3 2024, section 3.2.1 and table 2).

    Attributes:
        schedule: one of :data:`SCHEDULES`.
        stages: P.
        micro_batches: m, of a step.

    Raises:
        ValueError: the schedule is unknown, a number is below 1, or DualPipe has an odd number of either: it feeds
            micro-batches from both ends.
    """

    schedule: str
    stages: int
    micro_batches: int

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        require_at_least(1, self, "stages", "micro_batches")
        for name in ("stages", "micro_batches"):
            if self.schedule == "dualpipe" and getattr(self, name) % 2:
                raise ValueError(f"{name} must be even for dualpipe, got {getattr(self, name)}")

    @property
    def copies(self) -> int:
        """How often the weights of a stage are held: DualPipe's devices hold two stages, one from each end."""
        return 2 if self.schedule == "dualpipe" else 1

    def in_flight(self, stage: int) -> int:
        """Micro-batches whose activations a device of this stage keeps at once: P - stage, or P + 1 for DualPipe."""
        at_once = self.stages + 1 if self.schedule == "dualpipe" else self.stages - stage
        return min(at_once, self.micro_batches)

    def bubble(self, forward: float, backward: float, weights: float, both: float) -> float:
        """How long a device waits in a step, in the unit of its arguments.

            1f1b        (P - 1) (F + B)
            zb1p        (P - 1) (F + B - 2 W)
            dualpipe    (P/2 - 1) (F&B + B - 3 W)

        Args:
            forward: F, the time of a micro-batch's forward pass in a stage.
            backward: B, of its backward pass, W included.
            weights: W, of the gradients of weights.
            both: F&B, of a forward and a backward pass that run at the same time.
        """
        if self.schedule == "1f1b":
            return (self.stages - 1) * (forward + backward)
        if self.schedule == "zb1p":
            return (self.stages - 1) * (forward + backward - 2 * weights)
        return (self.stages / 2 - 1) * (both + backward - 3 * weights)
