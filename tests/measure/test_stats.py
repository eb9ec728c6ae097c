"""Statistics over images."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.measure.stats import (
    intraclass_correlations,
    robust_spread,
    robust_z,
    within_target_cv,
)

#: Table 2 of Shrout and Fleiss (1979): six targets, four judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_icc_of_the_published_example():
    # As published, to two digits: ICC(2,1) = .29, ICC(3,1) = .71.
    assert intraclass_correlations(SHROUT_FLEISS) == (
        pytest.approx(0.2898, abs=5e-5),
        pytest.approx(0.7148, abs=5e-5),
    )


def test_constant_differences_lower_agreement_not_consistency(rng):
    once = rng.normal(100, 10, 50)
    agreement, consistency = intraclass_correlations(np.stack([once, once + 10], axis=1))
    assert consistency == pytest.approx(1)
    # Variance between targets, by hand, over that plus half the squared difference.
    assert agreement == pytest.approx(once.var(ddof=1) / (once.var(ddof=1) + 50))
    assert intraclass_correlations(np.stack([once, once], axis=1)) == pytest.approx((1, 1))


def test_icc_needs_something_to_compare():
    for scores in (SHROUT_FLEISS[:4], SHROUT_FLEISS[:, :1], np.ones((6, 2))):
        assert np.isnan(intraclass_correlations(scores)).all()


def test_cv_by_hand():
    # Standard deviations 2 ** 0.5 and 2 * 2 ** 0.5, means 10 and 20.
    assert within_target_cv(np.array([[9.0, 11], [18, 22], [0, 0]])) == pytest.approx(
        14.1421, 1e-5
    )
    assert np.isnan(within_target_cv(np.zeros((3, 2))))
    assert np.isnan(within_target_cv(np.ones((3, 1))))


def test_robust_z_by_hand():
    values = np.array([1, 2, 3, 4, 100, np.nan])
    assert robust_z(values)[:5] == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 1.4826)
    assert np.isnan(robust_z(values)[5])
    assert np.isnan(robust_z(values[1:])).all()


def test_scale_of_normal_values(rng):
    centre, scale, n = robust_spread(rng.normal(5, 2, 20_000))
    assert (centre, scale, n) == (pytest.approx(5, abs=0.05), pytest.approx(2, rel=0.02), 20_000)


def test_one_that_differs_where_all_others_are_the_same():
    z = robust_z(np.array([1.0] * 19 + [3]))
    assert z[-1] == pytest.approx(2 / (1.2533 * 0.1))
    assert not z[:-1].any()
    assert not robust_z(np.ones(6)).any()
