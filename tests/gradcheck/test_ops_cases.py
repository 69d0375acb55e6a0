"""Every op against finite differences, with the cases that the command line uses too."""

import pytest

from moe_numpy import ops
from moe_numpy.gradcheck.cases import all_cases, run_case

pytestmark = pytest.mark.no_cover

CASES = [c for c in all_cases() if c.build.__module__.startswith("moe_numpy.gradcheck.cases.ops_")]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_gradient(case):
    report = run_case(case)
    report.raise_if_failed()
    assert report.max_error < 1e-7
    assert report.skipped == 0


def test_every_op_has_a_case():
    covered = {function for case in CASES for function in case.functions}
    assert covered == {getattr(ops, name) for name in ops.__all__}
