"""This processor's instruction sets give the bits that stand in `bits`, which other processors gave."""

import pytest

import bits
from fastnn import _core


@pytest.mark.parametrize("isa", _core.isas_supported())
@pytest.mark.parametrize("name", bits.WORKS)
def test_trained_networks_have_the_bits_of_other_processors(name, isa):
    assert bits.digests(name, isa) == {bits.expected(name, isa)}


def test_the_digest_sees_one_bit(monkeypatch):
    before = bits.digest(bits.plain)
    monkeypatch.setattr(bits, "STEPS", bits.STEPS + 1)
    assert bits.digest(bits.plain) != before


def test_other_bits_are_found():
    """Of a work that depends on the threads, and of one that comes to other bits on all."""
    done = bits.run((1, 2), ["plain"], compute=lambda _: str(_core.thread_limit()))
    assert len(done["failed"]) == len(_core.isas_supported())
    assert f"1, 2 for {bits.expected('plain', _core.isa())}" in done["failed"][0]
    assert bits.run((1,), ["plain"], compute=lambda _: "other")["failed"]
    assert not bits.run((1, 3), ["plain"])["failed"]
