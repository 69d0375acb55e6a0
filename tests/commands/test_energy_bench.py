import json

import pytest
from typer.testing import CliRunner

from benchmarks import energy
from benchmarks.equal_quality import pairs
from benchmarks.machines import MACHINES, Machine, price
from benchmarks.rapl import EnergyError, Meter
from moe_numpy.accounting import Decoding, total_parameters

RANGE = 262_143_328_850


@pytest.fixture
def powercap(tmp_path):
    """Two packages, of which the second has memory of its own, and parts that must not be counted again."""
    root = tmp_path / "powercap"
    zones = {"0": "package-0", "0:0": "core", "1": "package-1", "1:0": "dram", "2": "psys"}
    for number, name in zones.items():
        zone = root / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(name + "\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (zone / "energy_uj").write_text("1000000\n")
    (root / "intel-rapl").mkdir()
    (root / "intel-rapl-mmio:0").mkdir()
    return root


def count(root, number, microjoules):
    (root / f"intel-rapl:{number}" / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_and_memory_are_added_up(powercap):
    meter = Meter(powercap)
    before = meter.read()
    for number, joules in (("0", 4), ("0:0", 3), ("1", 6), ("1:0", 8), ("2", 100)):
        count(powercap, number, 1_000_000 * joules)
    assert meter.joules(before, meter.read()) == 3 + 5 + 7


def test_a_counter_that_starts_again(powercap):
    count(powercap, "0", RANGE - 500_000)
    meter = Meter(powercap)
    before = meter.read()
    count(powercap, "0", 1_500_000)
    assert meter.joules(before, meter.read()) == 2


def test_without_zones(tmp_path):
    with pytest.raises(EnergyError, match=r"there is no intel-rapl zone; .* counts no energy"):
        Meter(tmp_path / "missing")


def test_without_a_package(powercap):
    for number in ("0", "1", "1:0"):
        (powercap / f"intel-rapl:{number}" / "name").write_text("uncore")
    with pytest.raises(EnergyError, match="none of its zones is a package"):
        Meter(powercap)


def test_what_only_root_may_read(powercap, monkeypatch):
    path = type(powercap)

    def refused(self, real=path.read_text):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(path, "read_text", refused)
    with pytest.raises(EnergyError, match="energy_uj is for root only; run as root, or: sudo chmod a\\+r"):
        Meter(powercap)


def test_damaged_zones_are_named(powercap):
    (powercap / "intel-rapl:0" / "energy_uj").write_text("a lot")
    with pytest.raises(EnergyError, match="energy_uj should be a number of microjoules, got 'a lot'"):
        Meter(powercap)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(EnergyError, match="cannot be read: No such file"):
        Meter(powercap)


def test_joules_seconds_and_price():
    machine = Machine(pj_per_byte=100, pj_per_flop=2, gb_per_s=10, gflops=1000, watts=5)
    cost = Decoding(batch=1, experts=2, weight_bytes=6e9, cache_bytes=4e9, flops=1e9)
    assert machine.seconds(cost) == pytest.approx(1)
    assert machine.joules(cost) == pytest.approx(1 + 0.002 + 5)
    assert price(3.6, 3600e-6, per_kwh=0.5, per_hour=2) == pytest.approx(0.5 + 2)


def test_a_byte_costs_many_flops_everywhere():
    assert all(50 < machine.pj_per_byte / machine.pj_per_flop < 300 for machine in MACHINES.values())


@pytest.mark.parametrize(
    ("name", "dense", "sparse"), [("deepseekmoe-16b", 6.9e9, 16.4e9), ("mixtral-8x7b", 69e9, 46.7e9)]
)
def test_pairs_have_the_published_sizes(name, dense, sparse):
    pair = pairs()[name]
    assert total_parameters(pair.dense[1]).with_embedding == pytest.approx(dense, rel=0.005)
    assert total_parameters(pair.sparse[1]).with_embedding == pytest.approx(sparse, rel=0.005)


def run(*arguments):
    return CliRunner().invoke(energy.app, [str(a) for a in arguments])


def test_the_advantage_shrinks_while_more_experts_are_met():
    result = run("mixtral-8x7b", "deepseekmoe-16b", "--context", 1, "--json")
    assert result.exit_code == 0, result.output
    mixtral, deepseek = json.loads(result.stdout)["pairs"]
    assert [row["batch"] for row in mixtral["rows"]] == [1, 2, 4, 8, 16, 32, 64]
    first, last = deepseek["rows"][0], deepseek["rows"][-1]
    assert first["advantage"] > 2 > 1 > last["advantage"]
    assert first["sparse"]["experts"] == pytest.approx(6)
    assert last["sparse"]["experts"] > 63
    assert mixtral["turns"] == [{"batch": 1, "better": "sparse"}]
    assert [turn["better"] for turn in deepseek["turns"]] == ["sparse", "dense", "sparse"]
    at = deepseek["turns"][1]["batch"]
    assert sum(row["advantage"] > 1 for row in deepseek["rows"]) == sum(b < at for b in (1, 2, 4, 8, 16, 32, 64))


def test_as_a_table_with_its_assumptions(tmp_path):
    result = run("demo", "--machine", "cpu", "--pj-per-flop", 7, "--figure", tmp_path / "energy.png")
    assert result.exit_code == 0, result.output
    assert "Modelled, not measured" in result.output
    assert "162.5 pJ per byte of memory, 7 pJ per FLOP" in result.output
    assert "less energy: from batch 1 on" in result.output
    assert (tmp_path / "energy.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt"], "a pair must be one of deepseekmoe-16b, mixtral-8x7b, demo, got 'gpt'"),
        (["--machine", "tpu"], "--machine must be one of cpu, gpu, got 'tpu'"),
        (["--dtype", "int3"], "--dtype must be one of fp64"),
    ],
)
def test_what_is_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_machine_that_counts_nothing_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "Meter", lambda: Meter(tmp_path))
    result = run("demo", "--measure", "anything", "--json")
    assert result.exit_code == 0
    assert "note: nothing is measured" in result.stderr
    assert json.loads(result.stdout)["measured"] is None


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_run_is_measured(trained, powercap, monkeypatch, json_option):
    """A tenth of a joule passes between two looks at each of the three counters."""

    class Steady(Meter):
        def read(self):
            found = super().read()
            for zone in self.zones:
                (zone / "energy_uj").write_text(str(found[zone] + 100_000))
            return found

    monkeypatch.setattr(energy, "Meter", lambda: Steady(powercap))
    monkeypatch.setattr(energy, "BATCHES", (1, 3))
    result = run("demo", "--measure", trained, "--seconds", 0, *json_option)
    assert result.exit_code == 0, result.output
    if json_option:
        rows = json.loads(result.stdout)["measured"]
        assert [row["batch"] for row in rows] == [1, 3]
        assert [row["joules"] for row in rows] == pytest.approx([0.3 / 8, 0.3 / 24])  # half of a context of 16
        assert all(row["joules_above_idle"] < row["joules"] for row in rows)
    else:
        assert "mJ per token" in result.output


def test_a_run_that_is_none_is_refused(tmp_path, powercap, monkeypatch):
    monkeypatch.setattr(energy, "Meter", lambda: Meter(powercap))
    result = run("demo", "--measure", tmp_path)
    assert result.exit_code == 2
    assert "is not a run" in result.output
