from __future__ import annotations

import numpy as np

from mach.kernels.exp_log import exp_of_negative, log1p_of_fraction, softplus


def test_polynomials_are_as_good_as_single_precision() -> None:
    x = np.concatenate([np.linspace(0, 87, 20_001), np.geomspace(1e-30, 87, 20_001)]).astype(np.float32)
    exponentials = np.array([exp_of_negative(-v) for v in x])
    np.testing.assert_allclose(exponentials, np.exp(-x.astype(np.float64)), rtol=1e-5)  # the argument's own rounding
    near = x < 1
    np.testing.assert_allclose(exponentials[near], np.exp(-x[near].astype(np.float64)), rtol=4e-7)
    y = np.concatenate([np.linspace(0, 1, 20_001), np.geomspace(1e-30, 1, 20_001)]).astype(np.float32)
    found = np.array([log1p_of_fraction(v) for v in y])
    np.testing.assert_allclose(found, np.log1p(y.astype(np.float64)), rtol=4e-7)
    assert exp_of_negative(np.float32(-np.inf)) < 2e-38
    assert np.isnan(exp_of_negative(np.float32(np.nan)))


def test_softplus() -> None:
    z = np.linspace(-20, 20, 4001).astype(np.float32)
    found = np.array([softplus(v, exp_of_negative(-abs(v))) for v in z])
    np.testing.assert_allclose(found, np.logaddexp(0.0, z.astype(np.float64)), rtol=4e-6)
