"""The instruction sets, and what one computes on each."""

from contextlib import contextmanager

from fastnn import _core

FUSING = [name for name in _core.isas_supported() if name != "baseline"]  # one rounding a multiply-add


@contextmanager
def using_isa(name):
    before = _core.isa()
    _core.use_isa(name)
    try:
        yield
    finally:
        _core.use_isa(before)


def on_each_fusing_isa(compute):
    """Return [compute() on AVX-512, on AVX2, ...], which promise the same bits."""
    results = []
    for name in FUSING:
        with using_isa(name):
            results.append(compute())
    return results
