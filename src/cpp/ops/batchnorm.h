#pragma once
// Batch normalization of the columns of x (N, D). mean, var, rstd, gamma, beta are (D,); rstd = 1/sqrt(var + eps).
#include "core/types.h"

namespace fastnn::ops {

template <class T>
struct BatchNormVectors {
  const T *gamma, *beta;
  T *running_mean, *running_var;
};

// By the batch's own statistics, which go to mean and rstd; running = momentum*running + (1 - momentum)*batch. N >= 1.
template <class T>
void batchnorm_train(const Matrix<const T>& x, const BatchNormVectors<T>& v, double momentum, T eps, T* mean, T* rstd,
                     const Matrix<T>& y);

// By the running statistics, which are copied to mean and (as rstd) to rstd.
template <class T>
void batchnorm_eval(const Matrix<const T>& x, const BatchNormVectors<T>& v, T eps, T* mean, T* rstd, const Matrix<T>& y);

// by_batch: mean and rstd came from batchnorm_train, so the gradient flows through them.
template <class T>
void batchnorm_backward(bool by_batch, const Matrix<const T>& x, const T* mean, const T* rstd, const T* gamma,
                        const Matrix<const T>& dy, T* dgamma, T* dbeta, const Matrix<T>& dx);

}  // namespace fastnn::ops
