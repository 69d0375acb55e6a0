"""How devices share a model: nodes, pipeline stages, shards of the experts, copies of everything else."""

from dataclasses import dataclass

from ..layers import require_at_least


def shards(num_experts: int, devices: int) -> tuple[int, ...]:
    """Experts of each device: neighbours, and no device has two more than another. Their sum is ``num_experts``."""
    return tuple(num_experts * (i + 1) // devices - num_experts * i // devices for i in range(devices))


@dataclass(frozen=True)
class Layout:
    """devices = stages · data_parallel, and data_parallel = expert_parallel · expert_replicas.

    Neighbouring devices form a node, neighbouring nodes a stage. In a stage, every device has its own sequences and a
    copy of all but the experts, and ``expert_parallel`` neighbours share one copy of the experts.

    Attributes:
        devices: in all.
        nodes: in all; links within a node are fast.
        expert_parallel: devices that share one copy of a layer's experts.
        stages: of the pipeline.

    Raises:
        ValueError: numbers do not divide, as the message says.
    """

    devices: int
    nodes: int
    expert_parallel: int
    stages: int = 1

    def __post_init__(self) -> None:
        require_at_least(1, self, "devices", "nodes", "expert_parallel", "stages")
        for name in ("nodes", "stages"):
            if self.devices % getattr(self, name):
                raise ValueError(f"{name} must divide devices={self.devices}, got {getattr(self, name)}")
        if self.data_parallel % self.expert_parallel:
            raise ValueError(
                f"expert_parallel must divide the {self.data_parallel} devices of a stage, got {self.expert_parallel}"
            )
        if not self._fits(self.expert_parallel):
            raise ValueError(
                f"expert_parallel must divide the {self.devices_per_node} devices of a node or be a multiple of them, "
                f"got {self.expert_parallel}"
            )

    @classmethod
    def spread(cls, devices: int, nodes: int, num_experts: int, stages: int = 1) -> "Layout":
        """The layout in which the experts are spread over as many devices as possible, each with one at least."""
        alone = cls(devices, nodes, 1, stages)
        sizes = range(1, min(alone.data_parallel, max(num_experts, 1)) + 1)
        widest = max(size for size in sizes if alone.data_parallel % size == 0 and alone._fits(size))
        return cls(devices, nodes, widest, stages)

    @property
    def devices_per_node(self) -> int:
        """Devices of a node."""
        return self.devices // self.nodes

    @property
    def data_parallel(self) -> int:
        """Devices of a stage."""
        return self.devices // self.stages

    @property
    def expert_replicas(self) -> int:
        """Copies of the experts of a stage."""
        return self.data_parallel // self.expert_parallel

    @property
    def expert_nodes(self) -> int:
        """Nodes over which one copy of the experts is spread."""
        return max(1, self.expert_parallel // self.devices_per_node)

    def _fits(self, size: int) -> bool:
        """Whether groups of ``size`` neighbours cut each node, or each group, into equal parts."""
        return self.devices_per_node % size == 0 or size % self.devices_per_node == 0
