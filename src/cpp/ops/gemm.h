#pragma once
// C = A B (+ bias), any strides of A and B.
#include "core/team.h"

namespace fastnn::ops {

template <class T>
struct Gemm {
  Matrix<const T> a, b;
  Matrix<T> c;              // col_stride 1; may not overlap A or B
  const T* bias = nullptr;  // (c.cols,), added to each row
};

// Numbers of scratch that gemm() needs for a team of at most `members`.
template <class T>
std::size_t gemm_scratch(const Gemm<T>& g, int members) noexcept;

// One member's part. The bits of C depend neither on the team's size nor on the other rows.
template <class T>
void gemm(const Team& team, const Gemm<T>& g, T* scratch) noexcept;

// Opens a team for one product. C may be row- or column-major. Throws std::bad_alloc before anything is written.
template <class T>
void matmul(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c);

}  // namespace fastnn::ops
