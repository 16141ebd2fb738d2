"""The choice of the instruction set: what was asked for is what runs."""

import numpy as np
import pytest

import fastnn
from fastnn import _core
from native import run_python, using_isa

COMPILED_FOR = {
    "avx512": "AVX-512 F BW DQ VL",
    "avx2": "AVX2 FMA",
    "baseline": "SSE2",
    "neon": "NEON",
}
REPORT = (
    "import fastnn; from fastnn import _core; print(fastnn.show_config()['isa'], _core.isa_compiled_for())"
)


@pytest.mark.parametrize("name", _core.isas_supported())
def test_the_environment_chooses(name):
    assert run_python(REPORT, FASTNN_ISA=name).strip() == f"{name} {COMPILED_FOR[name]}"


def test_the_best_is_the_default():
    best = _core.isas_supported()[0]
    assert run_python(REPORT, FASTNN_ISA="").strip() == f"{best} {COMPILED_FOR[best]}"
    order = [name for name in _core.isas_built() if name in _core.isas_supported()]
    assert list(_core.isas_supported()) == order
    assert fastnn.show_config()["isas"] == _core.isas_built()
    assert fastnn.show_config()["supported"] == _core.isas_supported()


@pytest.mark.parametrize("name", ["AVX2", "sse9", " ", "avx2,avx512", "best"])
def test_an_unknown_name_is_an_import_error_that_names_the_choices(name):
    run_python(
        f"""
        try:
            import fastnn
        except ImportError as error:
            assert "FASTNN_ISA" in str(error), error
            for name in {_core.isas_built()}:
                assert name in str(error), error
        else:
            raise SystemExit("imported")
        """,
        FASTNN_ISA=name,
    )


def test_what_the_processor_lacks_is_refused():
    lacking = [name for name in _core.isas_built() if name not in _core.isas_supported()]
    before = _core.isa()
    for name in [*lacking, "none"]:
        with pytest.raises(ValueError, match="FASTNN_ISA"):
            _core.use_isa(name)
        assert _core.isa() == before


def test_the_tables_say_what_they_were_compiled_for(isa):
    assert _core.isa() == isa == fastnn.show_config()["isa"]
    assert _core.isa_compiled_for() == COMPILED_FOR[isa]


@pytest.mark.skipif("avx2" not in _core.isas_supported(), reason="takes two instruction sets")
def test_another_kernel_runs():
    """The baseline rounds a multiply-add twice: other bits show that it was not the same code."""
    a, b = (np.random.default_rng(i).normal(size=(50, 50)).astype(np.float32) for i in range(2))
    products = {}
    for name in ("avx2", "baseline"):
        with using_isa(name):
            products[name] = fastnn.matmul(a, b)
    assert (products["avx2"] != products["baseline"]).any()
    np.testing.assert_allclose(products["avx2"], products["baseline"], rtol=1e-3, atol=1e-5)


def test_the_baseline_rounds_twice_and_the_others_once(isa):
    """x * x - x^2 rounded: zero where the product is rounded, its error where it is not."""
    x = np.float32(1 + 2**-12)
    a, b = np.array([[x * x, x]], np.float32), np.array([[-1], [x]], np.float32)
    error = 0.0 if isa == "baseline" else float(x) ** 2 - float(x * x)
    assert fastnn.matmul(a, b).item() == error
    assert error != 0 or isa == "baseline"
