#pragma once
// y = x W + b over rows: x (N, n_in), W (n_in, n_out), b (n_out,), y (N, n_out).
#include "core/types.h"

namespace fastnn::ops {

template <class T>
void affine_forward(const Matrix<const T>& x, const Matrix<const T>& w, const T* b, const Matrix<T>& y);

// dx = dy W^T (left out where dx.data is null), dW = x^T dy, db = the sum of dy's rows.
template <class T>
void affine_backward(const Matrix<const T>& x, const Matrix<const T>& w, const Matrix<const T>& dy, const Matrix<T>& dx,
                     const Matrix<T>& dw, T* db);

}  // namespace fastnn::ops
