"""How far a result may lie from the exact one: bounds derived from the roundings it went through.

A sum of `terms` terms, or a chain of `terms` fused multiply-adds, rounds at most twice a term (once where the
processor has a fused multiply-add), each time by at most half an eps of what has been summed so far, which is
at most `scale`, the sum of the magnitudes: |error| <= terms * eps * scale. Kernels flush subnormals, which
costs at most the smallest normal number a term. Where the result is float64 the expected value, of float64
too, may be as far off as the result itself, and the bound doubles.
"""

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def bound(dtype, terms, scale):
    """Return the largest error of a result of `dtype`, compared with one computed in float64."""
    info = np.finfo(dtype)
    doubled = 2 if info.dtype == np.float64 else 1
    return (
        doubled
        * np.asarray(terms, np.float64)
        * (float(info.eps) * np.asarray(scale, np.float64) + float(info.tiny))
    )


def assert_within(actual, expected, *, terms, scale=None, plus=0.0, dtype=None):
    """Fail unless `actual` is `expected` (float64) but for the rounding of `terms` terms.

    `scale` is the sum of their magnitudes, |expected| if not given; `plus` an absolute error that the
    operands brought along; `dtype` that of the arithmetic, where `actual` is a Python float. NaN must stand
    where NaN is expected, and infinities likewise.
    """
    if dtype is None:
        assert isinstance(actual, np.ndarray), f"expected an array, got {type(actual)}"
        dtype = actual.dtype
    else:
        assert isinstance(actual, float), f"expected a float, got {type(actual)}"
    assert dtype in FLOATS, f"expected a result of float32 or float64, got {dtype}"
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert expected.dtype == np.float64, f"expected values must be float64, got {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), "NaN")
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(
        np.where(np.isinf(actual), actual, 0), np.where(infinite, expected, 0), "infinity"
    )
    limit = bound(dtype, terms, np.abs(expected) if scale is None else scale) + plus
    finite = np.isfinite(expected)
    limit = np.broadcast_to(limit, expected.shape)[finite]
    assert ((limit >= 0) & (limit < np.inf)).all(), "the bound must be finite"
    error = np.abs(actual[finite] - expected[finite])
    if (error > limit).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.nanargmax(np.where(error > limit, error / limit, 0))
        raise AssertionError(
            f"{np.count_nonzero(error > limit)} of {error.size} off: got {actual[finite][worst]!r}, "
            f"expected {expected[finite][worst]!r} within {limit[worst]:.3g}"
        )


def assert_same_bits(actual, expected):
    """Fail unless two arrays, floats, or dicts of them are the same, bit for bit."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_same_bits(actual[name], expected[name])
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    if actual.tobytes() != expected.tobytes():
        differ = np.count_nonzero(actual != expected)
        raise AssertionError(f"{differ} of {actual.size} differ, or signs of zeros or NaNs do")


def exact(a):
    """Return `a` in float64 as a kernel reads it, its subnormals zero."""
    a = np.asarray(a)
    wide = a.astype(np.float64)
    return np.where(np.abs(wide) < float(np.finfo(a.dtype).tiny), 0.0, wide)
