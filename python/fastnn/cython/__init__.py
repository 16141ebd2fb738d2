"""For compiled code in Cython: `from fastnn.cython.api cimport matmul_f32`. See docs/c.md."""
