#pragma once
// The words that every room shares: indices and views of matrices. Nothing here allocates or owns.
#include <cstddef>
#include <cstdint>

namespace fastnn {

using Index = std::ptrdiff_t;

// A view of rows x cols numbers; element (i, j) is at data[i*row_stride + j*col_stride]. Strides count elements and may be zero
// or negative.
template <class T>
struct Matrix {
  T* data;
  Index rows, cols;
  Index row_stride, col_stride;

  Matrix transposed() const noexcept { return {data, cols, rows, col_stride, row_stride}; }
};

}  // namespace fastnn
