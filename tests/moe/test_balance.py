import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.balance import Gating, RouterZLoss, SwitchBalance, SwitchBalanceLoss, ZLoss


def test_one_at_balance_and_e_at_collapse():
    uniform = np.full((6, 4), 0.25)
    assert SwitchBalanceLoss.apply(Tensor(uniform), np.full(4, 0.25)).item() == pytest.approx(1)
    collapsed = np.tile([1.0, 0, 0, 0], (6, 1))
    assert SwitchBalanceLoss.apply(Tensor(collapsed), np.array([1.0, 0, 0, 0])).item() == pytest.approx(4)


def test_one_is_not_a_lower_bound():
    p = np.tile([0.451, 0.549], (10, 1))
    assert SwitchBalanceLoss.apply(Tensor(p), np.array([0.9, 0.1])).item() == pytest.approx(0.9216)


def test_the_gradient_is_e_f_over_t_for_every_token():
    p = Tensor(np.random.default_rng(0).dirichlet(np.ones(3), size=5), requires_grad=True)
    f = np.array([0.5, 0.3, 0.2])
    SwitchBalanceLoss.apply(p, f).backward()
    np.testing.assert_allclose(p.grad, np.tile(3 * f / 5, (5, 1)))


def test_balance_is_one_for_every_k_and_counts_what_was_asked_for():
    for load in (np.array([4, 4]), np.array([8, 8])):
        assert SwitchBalance()(Gating(Tensor(np.zeros((8, 2))), load)).item() == pytest.approx(1)
    uneven = SwitchBalance()(Gating(Tensor(np.tile([0.0, np.log(3)], (8, 1))), np.array([2, 6]))).item()
    assert uneven == pytest.approx(2 * (0.25 * 0.25 + 0.75 * 0.75))


def test_balance_of_an_empty_load_is_zero_not_nan():
    assert SwitchBalance()(Gating(Tensor(np.zeros((1, 2))), np.zeros(2, int))).item() == 0


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_z_loss_of_equal_logits(shift):
    value = RouterZLoss.apply(Tensor(np.full((3, 4), shift))).item()
    assert value == pytest.approx((shift + np.log(4)) ** 2)


def test_losses_keep_float32():
    h = Tensor(np.zeros((3, 4), np.float32), requires_grad=True)
    loss = SwitchBalance()(Gating(h, np.array([1, 1, 1, 0]))) + ZLoss()(Gating(h, np.array([1, 1, 1, 0])))
    loss.backward()
    assert loss.dtype == h.grad.dtype == np.float32
