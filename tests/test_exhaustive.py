"""The proof over all float32 inputs: a slice of it, around the points of interest, and that it bites."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the expected values take SciPy's erfc")

import exhaustive
from fastnn import _core, reference
from native import on_each_fusing_isa

AROUND = [
    *(2.0**n for n in range(-26, 8)),
    exhaustive.TINY,
    2 * exhaustive.TINY,
    0.7517916,  # GELU' is zero at its negative
    1.2784645,  # SiLU' likewise
    12.98,  # the normal distribution gets subnormal, then its density and exp(-x^2 / 2)
    13.1,
    13.2,
    16.64,  # 1 + exp(-x) rounds to 1, and so does the sigmoid a little later
    17.33,
    87.3365,  # exp(-x) gets subnormal
    88.7228,  # exp(x) overflows
    1e30,
]


def bits_around():
    """Return the bits of 2^13 numbers around each point, from zero on, and before infinity."""
    width = 1 << 12
    middles = np.array(AROUND, np.float32).view(np.uint32).astype(np.int64)
    middles = np.concatenate([[width], middles, [exhaustive.INFINITY - width]])
    return np.unique(middles[:, np.newaxis] + np.arange(-width, width)).astype(np.uint32)


def damage(monkeypatch, name, at, change):
    """Let the kernel of that name return change(y) where x is `at`."""
    right = exhaustive.outputs

    def wrong(x):
        got = right(x)
        got[name][x == np.float32(at)] = change(got[name][x == np.float32(at)])
        return got

    monkeypatch.setattr(exhaustive, "outputs", wrong)


def test_errors_are_within_bounds(isa):
    found = exhaustive.examine(bits_around())
    assert found.worst.keys() == exhaustive.BOUNDS[isa].keys()
    assert found.beyond(exhaustive.BOUNDS[isa]) == [], found.worst


def test_instruction_sets_that_fuse_have_the_same_checksums():
    first, *others = on_each_fusing_isa(lambda: exhaustive.examine(bits_around()[::16]).checksum)
    assert len(first) == 12
    assert all(other == first for other in others)


def test_targets_are_the_reference_in_float64():
    a = np.concatenate([[0.0], np.geomspace(1e-6, 700, 500)])
    for negative in (False, True):
        for name, target in exhaustive.targets(exhaustive.Magnitudes(a), negative).items():
            options = {"alpha": exhaustive.ALPHA} if "Leaky" in name else {}
            layer = getattr(reference, name.rstrip("'"))(**options)
            expected = layer.forward(-a if negative else a)
            if name.endswith("'"):
                expected = layer.backward(np.ones_like(a))
            np.testing.assert_allclose(target.exact, expected, rtol=1e-14, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", exhaustive.AT_INFINITY)
@pytest.mark.parametrize("change", [lambda y: y + 2e-6, lambda y: y * np.nan, lambda y: y * 0 - 1e30])
def test_one_wrong_result_is_found(monkeypatch, name, change):
    damage(monkeypatch, name, 0.5, change)
    found = exhaustive.examine(exhaustive.sample(0x3F000000, 1, 100))  # from 0.5 on
    assert name in found.beyond(exhaustive.BOUNDS[_core.isa()])
    assert found.worst[name].x == 0.5


@pytest.mark.parametrize(
    ("name", "x"), [("GELU", -12.5), ("SiLU", -87), ("GELU'", -12.5), ("Tanh", 2.0**-26)]
)
def test_zero_for_a_result_that_need_not_be_flushed_is_found(monkeypatch, name, x):
    damage(monkeypatch, name, x, lambda y: y * 0)
    found = exhaustive.examine(np.full(1, abs(x), np.float32).view(np.uint32))
    assert found.beyond(exhaustive.BOUNDS[_core.isa()]) == [name]


def test_a_result_that_is_not_flushed_is_found(monkeypatch):
    damage(monkeypatch, "GELU", -1e30, lambda y: y - np.float32(1e-40))
    with pytest.raises(AssertionError, match="GELU returns subnormal"):
        exhaustive.examine(np.array([1e30], np.float32).view(np.uint32))


@pytest.mark.usefixtures("isa")
def test_infinities_and_nans():
    exhaustive.check_not_finite(exhaustive.INFINITY + np.arange(1, 1 << 23, 997, dtype=np.uint32))


@pytest.mark.parametrize("name", exhaustive.AT_INFINITY)
@pytest.mark.parametrize("at", [math.inf, -math.inf])
def test_a_wrong_value_at_infinity_is_found(monkeypatch, name, at):
    damage(monkeypatch, name, at, lambda y: np.full_like(y, 7))
    with pytest.raises(AssertionError, match=name):
        exhaustive.check_not_finite(np.array([exhaustive.INFINITY + 1], np.uint32))


def test_falls_are_counted():
    y = np.array([0.5, 0.75, 0.75, np.nextafter(np.float32(0.75), np.float32(0)), 1], np.float32)
    assert exhaustive.falls_of(y, rising=True) == (1, 1)
    assert exhaustive.falls_of(y[::-1], rising=False) == (1, 1)
    assert exhaustive.falls_of(-y, rising=True) == (1, 1)
    assert exhaustive.falls_of(y[:3], rising=True) == (0, 0)
    assert exhaustive.falls_of(y[:1], rising=True) == (0, 0)


@pytest.mark.parametrize("stride", [1, 3, 1000])
def test_samples_take_one_of_each_stride(stride):
    bits = exhaustive.sample(5 * stride, stride, 100)
    np.testing.assert_array_equal(bits // stride, np.arange(5, 105))
    np.testing.assert_array_equal(bits, exhaustive.sample(5 * stride, stride, 100))
    last = exhaustive.sample(exhaustive.INFINITY - 2, stride, 100)
    assert last.max(initial=0) < exhaustive.INFINITY


def test_the_order_of_outputs_is_in_the_checksum():
    parts = [exhaustive.examine(exhaustive.sample(first, 1, 10)) for first in (0x3F000000, 0x3F800000)]
    sums = []
    for order in (parts, parts[::-1]):
        whole = exhaustive.Findings()
        for part in order:
            whole.add(part)
        sums.append(whole.checksum)
    assert sums[0]["Tanh"] != sums[1]["Tanh"]
    assert whole.worst["Tanh"].ulp == max(part.worst["Tanh"].ulp for part in parts)


def test_the_command(monkeypatch, capsys):
    command = ["--stride", "300007", "--processes", "2"]
    before = _core.isa()
    assert exhaustive.main([*command, "--every-isa"]) == 0
    said = capsys.readouterr().out
    assert _core.isa() == before
    for name in (*exhaustive.BOUNDS[before], *_core.isas_supported(), "Tanh falls"):
        assert name in said
    monkeypatch.setitem(exhaustive.BOUNDS[before], "SiLU", 0.5)
    assert exhaustive.main(command) == 1
    assert f"SiLU on {before} is beyond its bound" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--stride", "0"], ["--processes", "0"], ["--stride", "x"]])
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        exhaustive.main(arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err
