// Normalization of rows: layer normalization (Ba, Kiros, Hinton 2016) and, without a mean, RMSNorm (Zhang, Sennrich 2019). A row
// is in the first-level cache when it is read again.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// y = gamma*(x - mean)*rstd + beta, with the row's mean and rstd = 1/sqrt(var + eps); without `mean`, rstd = 1/sqrt(mean x^2 +
// eps).
template <class T>
void rownorm_forward(const RowNorm<T>& r, T eps, const T* beta, T* y, bool around) {
  for (Index i = 0; i < r.rows; ++i) {
    const T* x = r.x + i * r.cols;
    T mean = T(0);
    if (r.mean) {
      const double sum = sum_pieces<T>(r.cols, [&](Index j, auto lanes) FASTNN_LAMBDA { return load(x + j, lanes); });
      mean = r.mean[i] = static_cast<T>(sum / static_cast<double>(r.cols));
    }
    const Vec<T> centre = set1(mean);
    const double squares = sum_pieces<T>(r.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> d = load(x + j, lanes) - centre;
      return d * d;
    });
    const double var = squares / static_cast<double>(r.cols) + static_cast<double>(eps);
    r.rstd[i] = static_cast<T>(1 / sqrt(set1(var)).r[0][0]);
    const Vec<T> scale = set1(r.rstd[i]);
    T* to = y + i * r.cols;
    each_line<T>(to, r.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> xhat = (load(x + j, lanes) - centre) * scale, gamma = load(r.gamma + j, lanes);
      store(to + j, beta ? fma(gamma, xhat, load(beta + j, lanes)) : gamma * xhat, lanes, around);
    });
  }
  stream_end();
}

// With h = dy*gamma: dx = rstd*(h - mean(h) - xhat*mean(h*xhat)), without mean(h) where rows have no mean; dgamma = sum dy*xhat,
// dbeta = sum dy over these rows. dx may be dy, or null.
template <class T>
void rownorm_backward(const RowNorm<T>& r, const T* dy, T* dgamma, T* dbeta, T* dx, bool around) {
  const Vec<T> zero = set1(T(0));
  each_vector<T>(r.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
    store(dgamma + j, zero, lanes);
    if (dbeta) store(dbeta + j, zero, lanes);
  });
  const double per_col = 1 / static_cast<double>(r.cols);
  for (Index i = 0; i < r.rows; ++i) {
    const T *x = r.x + i * r.cols, *d = dy + i * r.cols;
    const Vec<T> centre = set1(r.mean ? r.mean[i] : T(0)), scale = set1(r.rstd[i]);
    constexpr Index kPiece = 64 * kLanes<T>;
    double sum = 0, dot = 0;
    for (Index begin = 0; begin < r.cols; begin += kPiece) {
      Vec<T> sums = zero, dots = zero;
      each_vector<T>(smaller(kPiece, r.cols - begin), [&](Index at, auto lanes) FASTNN_LAMBDA {
        const Index j = begin + at;
        const Vec<T> slope = load(d + j, lanes), xhat = (load(x + j, lanes) - centre) * scale;
        const Vec<T> h = slope * load(r.gamma + j, lanes);
        sums = sums + only(h, lanes, T(0));
        dots = dots + only(h * xhat, lanes, T(0));
        store(dgamma + j, fma(slope, xhat, load(dgamma + j, lanes)), lanes);
        if (dbeta) store(dbeta + j, load(dbeta + j, lanes) + slope, lanes);
      });
      sum += static_cast<double>(reduce_sum(sums));
      dot += static_cast<double>(reduce_sum(dots));
    }
    if (!dx) continue;
    const Vec<T> mean_h = set1(r.mean ? static_cast<T>(sum * per_col) : T(0)), mean_dot = set1(static_cast<T>(dot * per_col));
    T* to = dx + i * r.cols;
    each_line<T>(to, r.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> xhat = (load(x + j, lanes) - centre) * scale, h = load(d + j, lanes) * load(r.gamma + j, lanes);
      store(to + j, scale * ((h - mean_h) - xhat * mean_dot), lanes, around);
    });
  }
  stream_end();
}

}  // namespace

template <class T>
void fill_rownorm(Kernels<T>& table) {
  table.rownorm_forward = rownorm_forward<T>;
  table.rownorm_backward = rownorm_backward<T>;
}
template void fill_rownorm(Kernels<float>&);
template void fill_rownorm(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
