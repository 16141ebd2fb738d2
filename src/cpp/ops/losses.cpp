#include "ops/losses.h"

#include "core/scratch.h"
#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/parts.h"

namespace fastnn::ops {
namespace {

// Calls rows(begin, end, losses of these) for pieces of n rows on a team and returns the weighted sum, in the order of the rows.
template <class F>
double sum_rows(Index n, double nanoseconds, const double* weight, F&& rows) {
  double* losses = scratch<double>(static_cast<std::size_t>(n));
  run_team(crew_for(nanoseconds),
           [&](Team& team) { team.each(n, 8, [&](Index begin, Index end) { rows(begin, end, losses + begin); }); });
  double sum = 0;
  for (Index i = 0; i < n; ++i) sum += weight_of(weight, i) * losses[i];
  return sum;
}

template <class T>
double row_cost(Index rows, Index cols) {
  return cost::elements<T>(rows * cols, cost::kTranscendental) + cost::rows(rows);
}

// Softmax of every row, then loss(i, max, log_sum).
template <class T, class F>
double softmax_loss(const Matrix<const T>& x, const double* weight, T* y, F&& loss) {
  const bool around = cost::leaves_caches<T>(2 * x.rows * x.cols);
  return sum_rows(x.rows, row_cost<T>(x.rows, x.cols), weight, [&](Index begin, Index end, double* losses) {
    constexpr Index kTogether = 128;
    T row_max[kTogether], log_sum[kTogether];
    for (Index i = begin; i < end; i += kTogether) {
      const Index n = end - i < kTogether ? end - i : kTogether;
      kernels<T>().softmax(x.data + i * x.row_stride, x.row_stride, n, x.cols, y + i * x.cols, row_max, log_sum, around);
      for (Index r = 0; r < n; ++r) *losses++ = loss(i + r, row_max[r], log_sum[r]);
    }
  });
}

// Rows of `cols` numbers whose mean counts, unless there are no weights: then all numbers count alike, and runs of kPiece replace
// the rows.
template <class F>
double mean_loss(Index rows, Index cols, double nanoseconds, const double* weight, F&& run) {
  constexpr Index kPiece = 4096;
  const Index n = rows * cols, length = weight ? cols : kPiece, runs = (n + length - 1) / length;
  return sum_rows(runs, nanoseconds, weight, [&](Index first, Index end, double* losses) {
    for (Index i = first; i < end; ++i) {
      const Index begin = i * length;
      *losses++ = run(begin, n - begin < length ? n - begin : length) / static_cast<double>(cols);
    }
  });
}

template <class T, class F>
void each_row(const Matrix<T>& dx, F&& row) {
  run_team(crew_for(cost::elements<T>(dx.rows * dx.cols, cost::kMove)), [&](Team& team) {
    team.each(dx.rows, 8, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) row(i);
    });
  });
}

}  // namespace

template <class T>
double softmax_cross_entropy(const Matrix<const T>& x, const int64_t* labels, const double* weight, T* y) {
  return softmax_loss(x, weight, y, [&](Index i, T row_max, T log_sum) {
    return static_cast<double>(row_max) - static_cast<double>(x.data[i * x.row_stride + labels[i]]) +
           static_cast<double>(log_sum);
  });
}

template <class T>
double softmax_cross_entropy(const Matrix<const T>& x, const T* t, const double* weight, T* y) {
  return softmax_loss(x, weight, y, [&](Index i, T row_max, T log_sum) {
    return kernels<T>().soft_label_loss(x.data + i * x.row_stride, t + i * x.cols, x.cols, row_max, log_sum);
  });
}

template <class T>
void softmax_cross_entropy_backward(const T* y, const int64_t* labels, const double* weight, double scale, const Matrix<T>& dx) {
  each_row(dx, [&](Index i) {
    const T factor = static_cast<T>(scale * weight_of(weight, i));
    T* row = dx.data + i * dx.row_stride;
    kernels<T>().scale(y + i * dx.cols, factor, dx.cols, row);
    row[labels[i]] = (y[i * dx.cols + labels[i]] - T(1)) * factor;
  });
}

template <class T>
double sigmoid_cross_entropy(const T* x, const T* t, const double* weight, Index rows, Index cols, T* y) {
  return mean_loss(rows, cols, row_cost<T>(rows, cols), weight,
                   [&](Index begin, Index n) { return kernels<T>().sigmoid_loss(x + begin, t + begin, n, y + begin); });
}

template <class T>
double squared_error(const T* x, const T* t, const double* weight, Index rows, Index cols) {
  return mean_loss(rows, cols, cost::elements<T>(rows * cols, cost::kMove), weight,
                   [&](Index begin, Index n) { return kernels<T>().squared_error(x + begin, t + begin, n); });
}

template <class T>
void weighted_difference(const T* y, const T* t, const double* weight, double scale, const Matrix<T>& dx) {
  const bool around = cost::leaves_caches<T>(3 * dx.rows * dx.cols);
  each_row(dx, [&](Index i) {
    kernels<T>().scaled_difference(y + i * dx.cols, t + i * dx.cols, static_cast<T>(scale * weight_of(weight, i)), dx.cols,
                                   dx.data + i * dx.row_stride, around);
  });
}

template <class T>
void kernel_loss(Dense kind, const LossRows<T>& r) {
  run_team(crew_for(row_cost<T>(r.rows, r.cols)), [&](Team& team) {
    team.each(r.rows, 8, [&](Index begin, Index end) {
      LossRows<T> part = r;
      part.rows = end - begin;
      part.x += begin * r.cols;
      part.dense += begin * r.targets;
      part.y += begin * r.cols;
      part.dx += begin * r.cols;
      part.losses += begin;
      rows_by_kernel(kind, part);
    });
  });
}

template <class T>
void scale_rows(const T* slope, const double* weight, double scale, const Matrix<T>& dx) {
  each_row(dx, [&](Index i) {
    kernels<T>().scale(slope + i * dx.cols, static_cast<T>(scale * weight_of(weight, i)), dx.cols, dx.data + i * dx.row_stride);
  });
}

#define FASTNN_INSTANTIATE(T)                                                                                      \
  template double softmax_cross_entropy(const Matrix<const T>&, const int64_t*, const double*, T*);                \
  template double softmax_cross_entropy(const Matrix<const T>&, const T*, const double*, T*);                      \
  template void softmax_cross_entropy_backward(const T*, const int64_t*, const double*, double, const Matrix<T>&); \
  template double sigmoid_cross_entropy(const T*, const T*, const double*, Index, Index, T*);                      \
  template double squared_error(const T*, const T*, const double*, Index, Index);                                  \
  template void kernel_loss(Dense, const LossRows<T>&);                                                            \
  template void scale_rows(const T*, const double*, double, const Matrix<T>&);                                     \
  template void weighted_difference(const T*, const T*, const double*, double, const Matrix<T>&);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
