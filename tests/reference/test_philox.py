"""The random words, against the published vectors and a second writing of the order of `words`."""

import numpy as np
import pytest

from fastnn.reference.philox import philox4x32, words

# Random123, kat_vectors, philox4x32 with 10 rounds: counter, key, result
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text):
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    result = philox4x32(numbers(counter), numbers(key))
    assert result.dtype == np.uint32
    np.testing.assert_array_equal(result, numbers(expected))


def test_many_counters_at_once():
    counters = np.stack([numbers(counter) for counter, _, _ in KNOWN])
    keys = np.stack([numbers(key) for _, key, _ in KNOWN])
    np.testing.assert_array_equal(philox4x32(counters, keys), np.stack([numbers(e) for _, _, e in KNOWN]))
    one_key = philox4x32(counters.reshape(3, 1, 4), keys[0])
    assert one_key.shape == (3, 1, 4)
    np.testing.assert_array_equal(one_key[0, 0], numbers(KNOWN[0][2]))


def test_words_of_seed_zero_begin_with_the_known_answer():
    assert words(0, 0, 0, 64)[[0, 16, 32, 48]].tolist() == numbers(KNOWN[0][2]).tolist()


@pytest.mark.parametrize("n", [0, 1, 15, 16, 63, 64, 65, 1000])
def test_order_of_words(n):
    seed, step, stream = 0x123456789ABCDEF0, 0xFEDCBA9876543210, 5
    key = np.array([0x9ABCDEF0, 0x12345678], dtype=np.uint32)
    result = words(seed, step, stream, n)
    assert result.shape == (n,)
    assert result.dtype == np.uint32
    for i in range(n):
        counter = np.array([(i // 64) * 16 + i % 16, stream, 0x76543210, 0xFEDCBA98], dtype=np.uint32)
        assert result[i] == philox4x32(counter, key)[(i // 16) % 4]


def test_words_in_pieces_are_the_words():
    n = 64 * 5000
    long = words(1, 2, 3, n)
    np.testing.assert_array_equal(words(1, 2, 3, 1000), long[:1000])
    tail = philox4x32(np.array([79999, 3, 2, 0], dtype=np.uint32), np.array([1, 0], dtype=np.uint32))
    np.testing.assert_array_equal(long[-1:-64:-16], tail[::-1])


def test_each_argument_matters():
    base = words(1, 2, 3, 64)
    for other in [(2, 2, 3), (1 << 32, 2, 3), (1, 3, 3), (1, 2 << 32, 3), (1, 2, 4)]:
        assert (words(*other, 64) != base).mean() > 0.9


def test_words_are_uniform():
    w = words(42, 0, 0, 1 << 16)
    for bit in range(32):
        share = ((w >> np.uint32(bit)) & 1).mean()
        assert abs(share - 0.5) < 4 * 0.5 / 2**8  # four standard deviations of the mean of 2^16 coins


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 0, 0, 1), "seed"),
        ((2**64, 0, 0, 1), "seed"),
        ((0, 2**64, 0, 1), "step"),
        ((0, 0, 2**32, 1), "stream"),
        ((0, 0, 0, -1), "n"),
        ((0, 0, 0, 2**34 + 1), "n"),
    ],
)
def test_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        words(*arguments)


def test_a_float_is_no_seed():
    with pytest.raises(TypeError, match=r"^seed must"):
        words(1.0, 0, 0, 1)
