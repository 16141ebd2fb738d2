"""Matrix multiply: accuracy on every shape and layout, and the promises about bits."""

import numpy as np
import pytest

import fastnn
from layouts import (
    CONSTANT_VIEWS,
    VIEWS,
    columns_of_a_wider_array,
    every_other_row,
    in_a_wider_array,
    reversed_both,
)
from native import on_each_fusing_isa, run_python
from tolerances import assert_same_bits, assert_within

SHAPES = [  # m, k, n
    (0, 3, 5),
    (3, 0, 5),
    (3, 5, 0),
    (0, 0, 0),
    (1, 1, 1),
    (2, 3, 5),
    (13, 7, 11),
    (17, 33, 65),
    (31, 16, 16),
    (1, 700, 40),
    (200, 3, 1),
    (1, 2, 600),
    (5, 257, 31),
    (29, 520, 18),
    (15, 9, 1100),
    (29, 40, 100),  # a last half vector
    (10, 2100, 13),  # pieces of the inner dimension, where A is transposed
    (3, 4099, 70),
    (3, 483, 301),  # few rows, a large B
    (39, 2, 85),  # so shallow that whole rows of C are written
    (39, 5, 85),  # with AVX-512
    (33, 3, 1),  # and turned
]
BIG = [  # B is packed, the last one cut in depth and width
    (140, 300, 700),
    (18, 1100, 515),
    (131, 64, 530),
    (16, 513, 257),
    (45, 600, 2100),
]


def operands(shape, dtype, seed=0):
    m, k, n = shape
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)


def check(product, a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    assert_within(product, a @ b, terms=a.shape[1] + 1, scale=abs(a) @ abs(b))


def name(shape):
    return "x".join(map(str, shape))


@pytest.mark.parametrize("transposes", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_product(isa, team, dtype, shape, transposes):
    a, b = operands(shape, dtype)
    a = np.asfortranarray(a) if transposes[0] == "t" else a
    b = np.asfortranarray(b) if transposes[1] == "t" else b
    check(fastnn.matmul(a, b), a, b)


@pytest.mark.parametrize("transposes", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", BIG, ids=name)
def test_product_in_blocks(isa, dtype, shape, transposes):
    a, b = operands(shape, dtype)
    a = np.asfortranarray(a) if transposes[0] == "t" else a
    b = np.asfortranarray(b) if transposes[1] == "t" else b
    check(fastnn.matmul(a, b), a, b)


@pytest.mark.parametrize("shape", [(17, 33, 65), (3, 300, 20), (70, 18, 600)], ids=name)
@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_any_strides(isa, dtype, shape, view):
    a, b = operands(shape, dtype)
    for x, y in ((view(a), b), (a, view(b)), (view(a), view(b))):
        check(fastnn.matmul(x, y), x, y)


@pytest.mark.parametrize("shape", [(17, 33, 65), (2, 40, 3)], ids=name)
@pytest.mark.parametrize("view", [np.ascontiguousarray, *VIEWS])
def test_out(isa, team, dtype, shape, view):
    a, b = operands(shape, dtype)
    out = view(np.full((shape[0], shape[2]), np.nan, dtype))
    assert fastnn.matmul(a, b, out) is out
    check(np.array(out), a, b)


def test_out_leaves_its_neighbours_alone(isa, team, dtype):
    a, b = operands((9, 20, 21), dtype)
    for view in (in_a_wider_array, columns_of_a_wider_array, every_other_row, reversed_both):
        out = view(np.zeros((9, 21), dtype))
        whole = out
        while whole.base is not None:
            whole = whole.base
        before = np.isnan(whole).sum()
        fastnn.matmul(a, b, out=out)
        assert np.isnan(whole).sum() == before


@pytest.mark.parametrize("guard", ["ends_at_a_guard", "begins_at_a_guard"])
def test_nothing_beyond_the_operands_is_touched(guard):
    """Not even by lanes whose numbers nobody uses."""
    run_python(f"""
        from itertools import product
        import numpy as np
        import fastnn
        from fastnn import _core
        from layouts import {guard} as guarded
        from test_matmul import operands

        SHAPES = [(2, 19, 37), (4, 45, 9), (1, 33, 600), (3, 2, 70), (2, 450, 301), (39, 5, 85),
                  (60, 37, 530), (530, 35, 59), (29, 40, 100), (5, 700, 13), (10, 2100, 13)]
        fastnn.set_num_threads(1)
        for isa in _core.isas_supported():
            _core.use_isa(isa)
            for (m, k, n), dtype, transposes in product(SHAPES, ("f4", "f8"), product("CF", repeat=3)):
                a, b = (x.copy(order) for x, order in zip(operands((m, k, n), dtype), transposes))
                out = guarded(np.empty((m, n), dtype, transposes[2]))
                fastnn.matmul(guarded(a), guarded(b), out)
    """)


@pytest.mark.parametrize("overlap", ["a", "b", "both", "a transposed", "b shifted", "b reversed"])
def test_out_may_overlap_the_operands(isa, team, dtype, overlap):
    a, b = operands((24, 24, 24), dtype)
    if overlap == "both":
        b = a
    x, y = a.copy(), b.copy()
    if overlap == "b shifted":
        whole = np.zeros((25, 24), dtype)
        whole[1:] = b
        b, out = whole[1:], whole[:-1]
    else:
        out = {"a": a, "b": b, "both": a, "a transposed": a.T, "b reversed": b[::-1]}[overlap]
    fastnn.matmul(a, b, out=out)
    check(np.array(out), x, y)


@pytest.mark.parametrize("shape", [*SHAPES, *BIG], ids=name)
def test_same_bits_on_every_team(team, dtype, shape):
    a, b = operands(shape, dtype)
    with fastnn.threads(1):
        alone = fastnn.matmul(a, b), fastnn.matmul(a.copy("F"), b.copy("F"))
    assert_same_bits(fastnn.matmul(a, b), alone[0])
    assert_same_bits(fastnn.matmul(a.copy("F"), b.copy("F")), alone[1])


@pytest.mark.parametrize("shape", [*SHAPES, *BIG], ids=name)
def test_same_bits_on_every_isa_that_fuses(dtype, shape):
    a, b = operands(shape, dtype)
    products = on_each_fusing_isa(lambda: fastnn.matmul(a, b))
    for product in products[1:]:
        assert_same_bits(product, products[0])


@pytest.mark.parametrize("transposes", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(
    "shape", [(17, 33, 65), (29, 600, 18), (140, 300, 700), (20, 2, 90), (20, 5, 90), (20, 3, 1)], ids=name
)
def test_a_row_does_not_depend_on_the_others(isa, dtype, shape, transposes):
    a, b = operands(shape, dtype)
    a = np.asfortranarray(a) if transposes[0] == "t" else a
    b = np.asfortranarray(b) if transposes[1] == "t" else b
    # Where the columns of b are contiguous, up to eight rows have an order of sums of their own.
    few = 8 if transposes == "nt" else 0
    whole = fastnn.matmul(a, b)
    for rows in (
        slice(0, 1),
        slice(5, 7),
        slice(4, 7),
        slice(8, 12),
        slice(3, 10),
        slice(1, 10),
        slice(11, None),
    ):
        if len(a[rows]) > few:
            assert_same_bits(fastnn.matmul(a[rows], b), whole[rows])
    for rows in (slice(0, 1), slice(5, 7), slice(4, 7), slice(1, 5)):
        assert_same_bits(fastnn.matmul(a[rows], b), fastnn.matmul(a[:8], b)[rows])


@pytest.mark.parametrize("view", VIEWS)
def test_bits_do_not_depend_on_the_layout(isa, dtype, view):
    a, b = operands((20, 530, 70), dtype)
    assert_same_bits(fastnn.matmul(view(a), view(b)), fastnn.matmul(a, b))


def test_nan_and_infinity_stay_in_their_row(isa, team, dtype):
    a, b = operands((40, 19, 21), dtype)
    a[3, 5], a[11, 18] = np.nan, np.inf
    product = fastnn.matmul(a, b)
    assert np.isnan(product[3]).all()
    np.testing.assert_array_equal(product[11], np.inf * b[18])
    clean = np.delete(np.arange(40), [3, 11])
    check(product[clean], a[clean], b)


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("f4", "f8", "f8"),
        ("f4", "u1", "f4"),
        ("u1", "i1", "f4"),
        ("i2", "u2", "f8"),
        ("i2", "f4", "f4"),
        ("?", "f8", "f8"),
        ("i8", "i8", "f8"),
        ("i4", "f4", "f8"),
        ("f2", "f4", "f4"),
        (">f4", "f4", "f4"),
        (">f8", ">f8", "f8"),
    ],
)
def test_other_dtypes_are_converted(left, right, result):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (5, 7)).astype(left), rng.integers(0, 2, (7, 3)).astype(right)
    product = fastnn.matmul(a, b)
    assert product.dtype == np.dtype(result)
    np.testing.assert_array_equal(product, a.astype(int) @ b.astype(int))


def test_lists_are_converted():
    np.testing.assert_array_equal(fastnn.matmul([[1, 2], [3, 4]], [[1.5], [2]]), [[5.5], [12.5]])


def test_operands_are_not_modified(isa, team, dtype):
    a, b = operands((20, 300, 33), dtype)
    x, y = a.copy(), b.copy()
    fastnn.matmul(a, b)
    fastnn.matmul(a, b, out=np.empty((20, 33), dtype))
    assert_same_bits(a, x)
    assert_same_bits(b, y)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("transposes", ["nn", "nt", "tn", "tt"])
def test_rows_that_lie_pages_apart_are_packed(isa, team, dtype, transposes, order):
    """Both operands wide enough that rows, or columns of a transposed A, are packed tile by tile."""
    a, b = operands((530, 40, 530), dtype)
    a = np.asfortranarray(a) if transposes[0] == "t" else a
    b = np.asfortranarray(b) if transposes[1] == "t" else b
    out = np.empty((530, 530), dtype, order)
    check(fastnn.matmul(a, b, out), a, b)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 24, 25])
@pytest.mark.parametrize("transposes", ["nn", "nt", "tn", "tt"])
def test_few_columns(isa, team, dtype, transposes, n):
    """Dot products along the inner dimension, or tiles of the transpose, instead of nearly empty vectors."""
    for m, k in ((1, 260), (9, 129), (70, 700)):
        a, b = operands((m, k, n), dtype)
        a = np.asfortranarray(a) if transposes[0] == "t" else a
        b = np.asfortranarray(b) if transposes[1] == "t" else b
        check(fastnn.matmul(a, b), a, b)
        out = np.full((m, n + 3), np.nan, dtype)
        fastnn.matmul(a, b, out[:, 1:-2])
        assert np.isnan(out[:, [0, -2, -1]]).all()


@pytest.mark.parametrize("n", [1, 3, 10, 20])
@pytest.mark.parametrize("k", [64, 300])
def test_a_row_of_few_columns_does_not_depend_on_the_others(isa, team, dtype, n, k):
    a, b = operands((40, k, n), dtype)
    whole = fastnn.matmul(a, b)
    for rows in (slice(0, 1), slice(3, 5), slice(11, 19), slice(5, 30)):
        assert_same_bits(fastnn.matmul(a[rows], b), whole[rows])


@pytest.mark.parametrize("matmul", [fastnn.matmul, fastnn.reference.matmul], ids=["native", "reference"])
def test_memoryviews_are_taken_as_arrays(matmul):
    a, out = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 2), np.float32)
    y = matmul(memoryview(a), memoryview(a.T), out=memoryview(out))
    assert_same_bits(out, a @ a.T)
    assert np.shares_memory(y, out)
    with pytest.raises(ValueError, match=r"out (is read-only|must be writeable)"):
        matmul(a, a.T, out=memoryview(out).toreadonly())
    with pytest.raises((TypeError, ValueError), match="out must"):
        matmul(a, a.T, out=memoryview(b"abcd"))
