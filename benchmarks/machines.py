"""What a byte, a FLOP, a second and a kilowatt-hour are assumed to cost where nothing is measured.

    joules = bytes · pJ per byte + FLOPs · pJ per FLOP + watts · seconds
    seconds = max(bytes / bandwidth, FLOPs / peak)

The picojoules are those of the memory and of the arithmetic alone, half of a multiplication and half of an addition per
FLOP. Instructions, caches, leakage, cooling and the power supply come on top, so that a real machine needs more. They
are from Jouppi et al. 2021, Ten Lessons From Three Generations Shaped Google's TPUv4i, table 2, for 7 nm:

    bfloat16: addition 0.11, multiplication 0.21 pJ; float32: 0.38 and 1.31
    64 bits from DDR3 or DDR4: 1300 pJ; from HBM2: 250 to 450, here 350

Horowitz 2014, Computing's Energy Problem (ISSCC), figure 1.1.9, has for 45 nm 0.9 and 3.7 pJ in float32, and 1300 to
2600 pJ for 64 bits of DRAM; O'Connor et al. 2017, Fine-Grained DRAM (MICRO), 3.9 pJ per bit of HBM2, 31 per byte. In
all of them a byte from memory costs as much as 70 to 270 FLOPs, which is what the comparison rests on.
"""

from dataclasses import dataclass

from moe_numpy.accounting import Decoding


@dataclass(frozen=True)
class Machine:
    """Assumptions about a machine.

    Attributes:
        pj_per_byte: of memory.
        pj_per_flop: of arithmetic.
        gb_per_s: bandwidth of the memory.
        gflops: peak of the arithmetic.
        watts: what it draws whatever it does, which counts for the time that a token takes.
    """

    pj_per_byte: float
    pj_per_flop: float
    gb_per_s: float
    gflops: float
    watts: float = 0.0

    def joules(self, cost: Decoding) -> float:
        """Of one token."""
        moved = cost.bytes * self.pj_per_byte + cost.flops * self.pj_per_flop
        return moved * 1e-12 + self.watts * self.seconds(cost)

    def seconds(self, cost: Decoding) -> float:
        """That one token takes, of the time of its batch: the longer of reading and computing."""
        return max(cost.bytes / self.gb_per_s, cost.flops / self.gflops) * 1e-9


#: ``cpu``: DDR4 and float32, at the speed of 2 cores of the Xeon and the EPYC of benchmarks/README.md.
#: ``gpu``: HBM2 and bfloat16, at the speed of an A100 SXM 80 GB (7 nm; NVIDIA's data sheet).
MACHINES = {
    "cpu": Machine(pj_per_byte=1300 / 8, pj_per_flop=(0.38 + 1.31) / 2, gb_per_s=25, gflops=440),
    "gpu": Machine(pj_per_byte=350 / 8, pj_per_flop=(0.11 + 0.21) / 2, gb_per_s=2039, gflops=312_000),
}


def price(joules: float, seconds: float, per_kwh: float, per_hour: float) -> float:
    """Of a million tokens, in whatever currency the two prices are in."""
    return 1e6 * (joules / 3.6e6 * per_kwh + seconds / 3600 * per_hour)
