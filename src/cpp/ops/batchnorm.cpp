#include "ops/batchnorm.h"

#include <cmath>

#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"

namespace fastnn::ops {
namespace {

constexpr Index kGrain = 16;   // columns: one or two cache lines, so that no two members write one line
constexpr Index kLeast = 256;  // columns, of rows that lie far apart

template <class T>
BatchNormColumns<T> columns(const Matrix<const T>& x, const T* mean, const T* rstd, Index begin, Index end) {
  return {x.rows, end - begin, x.data + begin, x.row_stride, mean + begin, rstd + begin};
}

template <class T, class F>
void each_column(const Matrix<const T>& x, int passes, F&& f) {
  run_team(members_for(cost::elements<T>(x.rows * x.cols, passes * cost::kMove)),
           [&](Team& team) { team.each(x.cols, kGrain, kLeast, f); });
}

}  // namespace

template <class T>
void batchnorm_train(const Matrix<const T>& x, const BatchNormVectors<T>& v, double momentum, T eps, T* mean, T* rstd,
                     const Matrix<T>& y) {
  const T keep = static_cast<T>(momentum), rest = static_cast<T>(1 - momentum);
  each_column(x, 3, [&](Index begin, Index end) {
    const Kernels<T>& k = kernels<T>();
    T* var = rstd;
    k.batchnorm_statistics(x.data + begin, x.row_stride, x.rows, end - begin, mean + begin, var + begin);
    for (Index j = begin; j < end; ++j) {
      v.running_mean[j] = keep * v.running_mean[j] + rest * mean[j];
      v.running_var[j] = keep * v.running_var[j] + rest * var[j];
      rstd[j] = T(1) / std::sqrt(var[j] + eps);
    }
    k.batchnorm_forward(columns(x, mean, rstd, begin, end), v.gamma + begin, v.beta + begin, y.data + begin, y.row_stride,
                        cost::leaves_caches<T>(2 * x.rows * x.cols));
  });
}

template <class T>
void batchnorm_eval(const Matrix<const T>& x, const BatchNormVectors<T>& v, T eps, T* mean, T* rstd, const Matrix<T>& y) {
  each_column(x, 1, [&](Index begin, Index end) {
    for (Index j = begin; j < end; ++j) {
      mean[j] = v.running_mean[j];
      rstd[j] = T(1) / std::sqrt(v.running_var[j] + eps);
    }
    kernels<T>().batchnorm_forward(columns(x, mean, rstd, begin, end), v.gamma + begin, v.beta + begin, y.data + begin,
                                   y.row_stride, cost::leaves_caches<T>(2 * x.rows * x.cols));
  });
}

template <class T>
void batchnorm_backward(bool by_batch, const Matrix<const T>& x, const T* mean, const T* rstd, const T* gamma,
                        const Matrix<const T>& dy, T* dgamma, T* dbeta, const Matrix<T>& dx) {
  const T per_row = by_batch ? T(1) / static_cast<T>(x.rows) : T(0);
  each_column(x, 4, [&](Index begin, Index end) {
    const Kernels<T>& k = kernels<T>();
    const BatchNormColumns<T> c = columns(x, mean, rstd, begin, end);
    k.batchnorm_parameter_gradients(c, dy.data + begin, dy.row_stride, dgamma + begin, dbeta + begin);
    k.batchnorm_input_gradient(c, gamma + begin, dgamma + begin, dbeta + begin, per_row, dy.data + begin, dy.row_stride,
                               dx.data + begin, dx.row_stride, cost::leaves_caches<T>(3 * x.rows * x.cols));
  });
}

#define FASTNN_INSTANTIATE(T)                                                                                                  \
  template void batchnorm_train(const Matrix<const T>&, const BatchNormVectors<T>&, double, T, T*, T*, const Matrix<T>&);      \
  template void batchnorm_eval(const Matrix<const T>&, const BatchNormVectors<T>&, T, T*, T*, const Matrix<T>&);               \
  template void batchnorm_backward(bool, const Matrix<const T>&, const T*, const T*, const T*, const Matrix<const T>&, T*, T*, \
                                   const Matrix<T>&);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
