"""The checks of arguments: what passes, in what form, and what the errors say."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from fastnn import _checks


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(0.5), np.float64(1), np.int8(1), np.uint64(1), np.float16(0.5)]
)
def test_real_number_takes_any_number(value):
    number = _checks.real_number("a", value, 0, 1)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j, np.ones(1), Fraction(1, 2), [1]])
def test_real_number_refuses_other_types(value):
    with pytest.raises(TypeError, match=r"^a must be a number in \[0, 1\], got "):
        _checks.real_number("a", value, 0, 1)


@pytest.mark.parametrize(
    ("low", "high", "ends", "inside", "outside"),
    [
        (0, 1, "[]", [0, 1], [-1e-9, 1.1, math.nan, math.inf]),
        (0, 1, "[)", [0, 0.99], [1]),
        (0, 1, "(]", [1e-300, 1], [0, -1]),
        (0, None, "[]", [0, 1e308], [-1, math.inf, math.nan, 10**400]),
        (0, None, "(]", [5e-324], [0]),
        (None, 1, "[]", [-1e308, 1], [1.5, -math.inf]),
        (None, 1, "[)", [0.5], [1]),
        (None, None, "[]", [0], [math.inf, -math.inf, math.nan, -(10**400)]),
        (0, math.inf, "[]", [math.inf], [math.nan, -math.inf]),
    ],
)
def test_real_number_bounds(low, high, ends, inside, outside):
    for value in inside:
        assert _checks.real_number("a", value, low, high, ends) == value
    for value in outside:
        with pytest.raises(ValueError, match=r"^a must be a number"):
            _checks.real_number("a", value, low, high, ends)


@pytest.mark.parametrize(
    ("low", "high", "ends", "words"),
    [
        (0, 1, "[)", "a number in [0, 1), got nan"),
        (0, None, "[]", "a number >= 0, got nan"),
        (0, None, "(]", "a number > 0, got nan"),
        (None, 2, "[]", "a number <= 2, got nan"),
        (None, 2, "[)", "a number < 2, got nan"),
        (None, None, "[]", "a number, got nan"),
    ],
)
def test_real_number_says_the_interval(low, high, ends, words):
    with pytest.raises(ValueError, match=f"^a must be {re.escape(words)}$"):
        _checks.real_number("a", math.nan, low, high, ends)


def test_integer():
    for value in (3, np.int64(3), np.uint8(3)):
        number = _checks.integer("n", value, 1, 3)
        assert type(number) is int
        assert number == 3
    for bad in (True, 3.0, np.float32(3), "3", None):
        with pytest.raises(TypeError, match=r"^n must be an integer in \[1, 3\], got "):
            _checks.integer("n", bad, 1, 3)
    for bad in (0, 4, 10**30):
        with pytest.raises(ValueError, match=rf"^n must be an integer in \[1, 3\], got {bad}$"):
            _checks.integer("n", bad, 1, 3)
    assert _checks.integer("n", -(10**30)) == -(10**30)


def test_seed64():
    assert _checks.seed64("s", np.uint64(2**64 - 1)) == 2**64 - 1
    for bad, error in (
        (-1, ValueError),
        (2**64, ValueError),
        (1.0, TypeError),
        (False, TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match=r"^s must be an integer in \[0, 2\*\*64\), got "):
            _checks.seed64("s", bad)


def test_flag_choice_function():
    assert _checks.flag("f", np.True_) is True
    assert _checks.flag("f", False) is False
    with pytest.raises(TypeError, match=r"^f must be True or False, got 1$"):
        _checks.flag("f", 1)
    assert _checks.choice("c", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match=r"^c must be one of a, b, got 'x'$"):
        _checks.choice("c", "x", ("a", "b"))
    with pytest.raises(TypeError, match=r"^c must be one of a, b, got 3$"):
        _checks.choice("c", 3, ("a", "b"))
    assert _checks.function("g", len) is len
    with pytest.raises(TypeError, match=r"^g must be callable, got 3$"):
        _checks.function("g", 3)


def test_float_dtype():
    for good in ("float32", np.float32, "f4", np.dtype("float32")):
        assert _checks.float_dtype("d", good) == np.float32
    assert _checks.float_dtype("d", float) == np.float64
    for bad in (None, "float16", int, "nonsense", ",float32", "(", 3, ">f8" if np.little_endian else "<f8"):
        with pytest.raises(TypeError, match=r"^d must be float32 or float64, got "):
            _checks.float_dtype("d", bad)


def test_generator():
    rng = np.random.default_rng(0)
    assert _checks.generator("rng", rng) is rng
    assert _checks.generator("rng", 5).random() == np.random.default_rng(5).random()
    assert _checks.generator("rng", None).random() != _checks.generator("rng", None).random()
    for bad in ("x", 1.5, True, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"^rng must be None, an integer >= 0 or"):
            _checks.generator("rng", bad)
    with pytest.raises(ValueError, match=r"^rng must be an integer >= 0, got -1"):
        _checks.generator("rng", -1)


def test_float_array():
    a = np.ones((2, 3), np.float32)
    assert _checks.float_array("x", a) is a
    assert _checks.float_array("x", a, np.dtype(np.float64)).dtype == np.float64
    assert _checks.float_array("x", [1, 2]).dtype == np.float32
    assert _checks.float_array("x", [1.0, 2]).dtype == np.float64
    with pytest.raises(TypeError, match=r"^x must be an array"):
        _checks.float_array("x", [[1], [1, 2]])
    with pytest.raises(TypeError, match=r"^x must hold real numbers, got dtype complex128"):
        _checks.float_array("x", [1j])


def test_parameter_is_not_copied():
    a = np.ones((2, 3))
    assert _checks.parameter("W", a, 2) is a
    assert _checks.parameter("W", a, 2, like=a, shape=(2, 3)) is a


def test_indices():
    a = np.array([0, 4])
    assert _checks.indices("x", a, 5) is a
    assert _checks.indices("x", np.array([], int), 0).size == 0
    with pytest.raises(ValueError, match=r"^x must hold integers in \[0, 4\), got 4"):
        _checks.indices("x", a, 4)
    with pytest.raises(ValueError, match="got 18446744073709551615"):
        _checks.indices("x", np.array([2**64 - 1], np.uint64), 4)


def test_sample_weights():
    weights, total = _checks.sample_weights("w", [1, 2, 0], 3)
    assert weights.dtype == np.float64
    assert total == 3.0
    with pytest.raises(ValueError, match=r"^w must have shape \(2,\), got \(3,\)"):
        _checks.sample_weights("w", [1, 2, 0], 2)


def test_shown_is_short():
    assert _checks.shown(np.ones((2, 3))) == "an array of shape (2, 3) and dtype float64"
    assert len(_checks.shown("x" * 1000)) == 80
