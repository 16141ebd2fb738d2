"""What Hypothesis draws for the public face: numbers of all kinds, lying in memory in all ways, and nonsense.

FASTNN_EXAMPLES says how many examples each property is tried on, 25 without, always the same.
"""

import os
import pickle
from fractions import Fraction

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import layouts
from tolerances import bound

EXAMPLES = int(os.environ.get("FASTNN_EXAMPLES", "0"))
attacked = settings(
    max_examples=EXAMPLES or 25,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 16, 17, 33])
SOME = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33])
SEEDS = st.integers(0, 2**32 - 1)
FLOATS = ["f4", "f8"]
REAL = ["f4", "f8", "f2", "g", ">f4", ">f8", "i1", "i8", ">i4", "u1", "u8", "?"]
INTEGERS = ["i1", "i2", "i4", "i8", ">i4", "u1", "u4", "u8", ">u2"]


def _specials(info):
    """Return sets of numbers to strew among others."""
    tiny, large = float(info.tiny), float(info.max) ** 0.5
    return {
        "none": [],
        "zeros": [0.0, -0.0],
        "subnormal": [tiny / 4, -tiny / 4, tiny, 0.0],
        "huge": [large / 4, -large / 8, 1.0],
        "no number": [np.nan, np.inf, -np.inf],
    }


def laid(a, way):
    """Return the numbers of `a` lying in memory in another way."""
    if a.ndim == 0:
        return a
    if way == "fortran":
        return np.asfortranarray(a)
    if way == "reversed":
        back = (slice(None, None, -1),) * a.ndim
        return np.ascontiguousarray(a[back])[back]
    if way == "every second":
        view = np.zeros([2 * n for n in a.shape], a.dtype)[(slice(None, None, 2),) * a.ndim]
    elif way == "broadcast":
        return np.broadcast_to(a[:1], a.shape)
    elif way == "unaligned":
        return layouts.unaligned(a)
    elif way == "read-only":
        view = a.copy()
        view.flags.writeable = False
        return view
    else:
        return a
    view[...] = a
    return view


WAYS = ["plain", "fortran", "reversed", "every second", "broadcast", "unaligned", "read-only"]


@st.composite
def arrays(draw, shape, dtypes=REAL, wild=("none", "zeros", "subnormal"), ways=WAYS):
    """Numbers of one of the dtypes, `wild` ones among them, lying in any way."""
    rng = np.random.default_rng(draw(SEEDS))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if dtype.kind in "iub":
        a = np.asarray(rng.integers(0 if dtype.kind != "i" else -9, 10, shape)).astype(dtype)
    else:
        spread = draw(st.sampled_from([1.0, 1e-3, 30.0]))
        a = np.asarray(spread * rng.normal(size=shape)).astype(dtype)
        single = np.float16 if dtype == np.float16 else np.float64 if dtype.itemsize > 4 else np.float32
        special = np.array(_specials(np.finfo(single))[draw(st.sampled_from(wild))], dtype)
        if special.size:
            there = rng.random(shape) < 0.2
            a[there] = rng.choice(special, np.count_nonzero(there))
    return laid(a, draw(st.sampled_from(ways)))


def junk():
    """Values that hardly any argument takes, made anew: a list of (text, function)."""
    return [
        *((repr(v), lambda v=v: v) for v in (None, True, False, 0, 1, -1, 2**70, -(2**70), 1.5, -0.5)),
        *((repr(v), lambda v=v: v) for v in (np.nan, np.inf, -np.inf, 1e308, 5e-324, 1j, Fraction(1, 2))),
        *((repr(v), lambda v=v: v) for v in ("", "relu", "0.W", b"x", ..., int, np.float32)),
        *(
            (repr(v), lambda v=v: v)
            for v in (np.float32(0.5), np.int64(3), np.bool_(True), np.float64("nan"))
        ),
        ("object", object),
        ("[]", list),
        ("()", tuple),
        ("{}", dict),
        ("set", lambda: {1, 2}),
        ("generator", lambda: (i for i in range(3))),
        ("function", lambda: lambda *_: None),
        ("[1, 2]", lambda: [1, 2]),
        ("[[1, 2], [3]]", lambda: [[1, 2], [3]]),
        ("[['a']]", lambda: [["a"]]),
        ("{'a': 1}", lambda: {"a": 1}),
        ("{0: 1.0}", lambda: {0: 1.0}),
        ("number", lambda: np.array(5)),
        ("float number", lambda: np.array(1.5)),
        ("nothing", lambda: np.zeros(0, np.float32)),
        ("no rows", lambda: np.zeros((0, 4), np.float32)),
        ("no columns", lambda: np.zeros((6, 0), np.float32)),
        ("vector", lambda: np.ones(6, np.float32)),
        ("matrix", lambda: np.ones((6, 4), np.float32)),
        ("other matrix", lambda: np.ones((3, 5))),
        ("cube", lambda: np.ones((6, 2, 2))),
        ("NaN", lambda: np.full((6, 4), np.nan, np.float32)),
        ("negative", lambda: -np.ones(6)),
        ("infinite", lambda: np.full(6, np.inf)),
        ("labels", lambda: np.array([0, 1, 2, 3, 0, 0])),
        ("negative labels", lambda: np.array([0, 1, 2, -1, 0, 0])),
        ("big labels", lambda: np.array([0, 1, 2, 2**63, 0, 0], np.uint64)),
        ("complex", lambda: np.ones((6, 4), complex)),
        ("objects", lambda: np.ones((6, 4), object)),
        ("strings", lambda: np.full(6, "1")),
        ("dates", lambda: np.zeros(6, "M8[s]")),
        ("record", lambda: np.zeros(6, [("a", "f4")])),
        ("masked", lambda: np.ma.masked_array(np.ones((6, 4), np.float32), mask=True)),
    ]


JUNK = dict(junk())


def assert_close(actual, expected, *, terms, scale, plus=0.0):
    """Fail unless `actual` is `expected`, float64, but for the rounding of `terms` terms of a sum.

    `scale` is that of their magnitudes. Where it overflows the dtype of `actual`, the order of the terms
    decides what comes out, and anything may; but what is no number because its terms are none has to stay so.
    """
    assert actual.dtype in (np.float32, np.float64)
    assert expected.dtype == np.float64
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    scale = np.broadcast_to(scale, actual.shape)
    single = actual.dtype == np.float32
    with np.errstate(all="ignore"):
        if single:
            assert np.isnan(actual[np.isnan(expected)]).all(), "NaN"
            assert not np.isfinite(actual[~np.isfinite(expected)]).any(), "infinity"
        safe = scale < float(np.finfo(actual.dtype).max) / 8
        limit = bound(actual.dtype, terms, np.where(safe, scale, 0)) + plus
        error = np.abs(actual.astype(np.float64) - expected)
        bad = safe & ~(error <= limit) & np.isfinite(expected)
    assert not bad.any(), f"{actual[bad][0]!r}, expected {expected[bad][0]!r}"


def assert_near(actual, run, *given, dtype, slack=64, plus=0.0):
    """Fail unless `actual` is near what run(*given) returns, {name: array}, for dicts of float64 arrays.

    How far the results are from those where all is computed in `dtype`, from `given` that are off by a
    rounding of it, says how far off `actual` may be; and a few roundings of the largest number of all, for
    what cancels, and `plus`.
    """
    expected = run(*given)
    eps = float(np.finfo(dtype).eps)
    floor = 4 * eps * max(np.abs(a).max(initial=1e-30) for d in (expected, *given) for a in d.values())
    limits = {name: 4 * eps * np.abs(a).max(initial=0) for name, a in expected.items()}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        moved = run(*({n: rounded(a, eps, rng).astype(dtype) for n, a in d.items()} for d in given))
        for name, a in expected.items():
            limits[name] = max(limits[name], np.abs(moved[name] - a).max(initial=0))
    assert actual.keys() == expected.keys()
    for name, a in expected.items():
        assert np.shape(actual[name]) == np.shape(a), name
        error = np.abs(np.asarray(actual[name], np.float64) - a).max(initial=0)
        assert error <= slack * limits[name] + floor + plus, (
            f"{name}: {error:.3g} off, limit {limits[name]:.3g}"
        )


def alike(native, oracle, limit=1e-7):
    """Fail unless two results are the same but for rounding."""
    assert type(native) is type(oracle) or not isinstance(oracle, dict)
    if isinstance(oracle, dict):
        assert native.keys() == oracle.keys()
        for name in oracle:
            alike(native[name], oracle[name], limit)
    elif oracle is None:
        assert native is None
    else:
        actual, expected = np.asarray(native), np.asarray(oracle)
        assert actual.shape == expected.shape
        size = 1 + np.abs(expected).max(initial=0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit * size)


def rounded(a, eps, rng):
    return np.asarray(a * (1 + eps * rng.choice([-1.0, 0.0, 1.0], np.shape(a))))


REFUSALS = (TypeError, ValueError, RuntimeError, FloatingPointError, OSError, MemoryError)


def outcome(call):
    """Return (result, None), or (None, error) where the call is refused; other errors are faults."""
    with np.errstate(all="ignore"):
        try:
            return call(), None
        except REFUSALS as error:
            return None, error


def snapshot(*objects):
    """Return the state of objects as bytes."""
    return pickle.dumps(objects)
