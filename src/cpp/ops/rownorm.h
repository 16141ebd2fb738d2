#pragma once
// Layer normalization and RMSNorm of the rows of a contiguous x (N, D): gamma, beta are (D,), mean, rstd (N,). Without `mean`
// rows are not centred, and without `beta` nothing is added.
#include "kernels/table.h"

namespace fastnn::ops {

template <class T>
void rownorm_forward(const RowNorm<T>& r, T eps, const T* beta, T* y);
// dx, dgamma and, unless null, dbeta. Sums over rows are cut into blocks that only the shape sets.
template <class T>
void rownorm_backward(const RowNorm<T>& r, const T* dy, T* dgamma, T* dbeta, T* dx);

}  // namespace fastnn::ops
