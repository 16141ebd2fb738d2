#pragma once
// The losses over a batch. Every forward returns the weighted sum over rows; the caller divides by the sum of the weights.
// `weight` is (N,) or null for ones. Sums run over rows in order, in double.
#include "core/types.h"
#include "ops/parts.h"

namespace fastnn::ops {

// y = softmax(x); sum_i w_i*(-log y[i, label_i]). Labels are within [0, x.cols).
template <class T>
double softmax_cross_entropy(const Matrix<const T>& x, const int64_t* labels, const double* weight, T* y);
// The same for rows of soft labels t (N, C).
template <class T>
double softmax_cross_entropy(const Matrix<const T>& x, const T* t, const double* weight, T* y);
// dx = scale*w_i*(y - onehot(label_i))
template <class T>
void softmax_cross_entropy_backward(const T* y, const int64_t* labels, const double* weight, double scale, const Matrix<T>& dx);

// y = logistic(x); sum_i w_i * mean over the row of max(x, 0) - x t + log1p(exp(-|x|)).
template <class T>
double sigmoid_cross_entropy(const T* x, const T* t, const double* weight, Index rows, Index cols, T* y);
// sum_i w_i * mean over the row of (x - t)^2.
template <class T>
double squared_error(const T* x, const T* t, const double* weight, Index rows, Index cols);
// dx = scale*w_i*(y - t): the backward of the three losses with dense labels.
template <class T>
void weighted_difference(const T* y, const T* t, const double* weight, double scale, const Matrix<T>& dx);

// The losses that have kernels of their own: rows as LossRows says, shared by a team.
template <class T>
void kernel_loss(Dense kind, const LossRows<T>& r);
// dx = scale*w_i*slope
template <class T>
void scale_rows(const T* slope, const double* weight, double scale, const Matrix<T>& dx);

}  // namespace fastnn::ops
