"""This processor's instruction sets give the bits that stand in `bits`, which other processors gave."""

import pytest

import bits
from fastnn import _core


@pytest.mark.parametrize("isa", _core.isas_supported())
@pytest.mark.parametrize("name", bits.NETS)
def test_trained_networks_have_the_bits_of_other_processors(name, isa):
    assert bits.digests(name, isa) == {bits.expected(name, isa)}


def test_the_digest_sees_one_bit(monkeypatch):
    before = bits.digest(bits.plain)
    monkeypatch.setattr(bits, "STEPS", bits.STEPS + 1)
    assert bits.digest(bits.plain) != before
