#pragma once
// What one member of a team does with its part of a batch: a run of elements, some rows, some columns. No team is opened here,
// and nothing waits.
#include "kernels/table.h"
#include "ops/optimizers.h"

namespace fastnn::ops {

template <class T>
void activate(Activation kind, const T* x, T* y, Index n, T alpha) noexcept;
// `saved` is what activation_uses_output() says. dx may be dy.
template <class T>
void activation_gradient(Activation kind, const T* saved, const T* dy, T* dx, Index n, T alpha) noexcept;

// round(ratio*2^32), at most 2^32 - 1: what a random word must reach for its element to be kept.
uint32_t drop_threshold(double ratio) noexcept;
// Elements [first, first + n) of a batch, with which x and y begin; keep begins with the group of kMaskGroup that element
// `origin` is in, 8 bytes a group. Groups at the ends may be written by several at a time.
constexpr Index kMaskGroup = 64;
template <class T>
void drop(const RandomStream& stream, double ratio, T scale, Index first, Index n, const T* x, T* y, uint8_t* keep,
          Index origin) noexcept;
template <class T>
void drop_gradient(const uint8_t* keep, Index origin, T scale, Index first, Index n, const T* dy, T* dx) noexcept;
// y = share*x + rest*y
template <class T>
void blend_run(const T* x, T share, T rest, Index n, T* y) noexcept;
template <class T>
void scale_run(const T* x, T factor, Index n, T* y) noexcept;
template <class T>
void add_run(const T* x, const T* z, Index n, T* y) noexcept;  // y = x + z, of which y may be either

// Sums of columns of x, whose rows are x_row apart.
template <class T>
void sum_columns(const T* x, Index x_row, Index rows, Index cols, T* sums) noexcept;

// Of row i, where weights may be null.
inline double weight_of(const double* weight, Index i) { return weight ? weight[i] : 1.0; }

// Softmax cross-entropy of rows: y, their losses, and dx = factor*w_i*(y - label). Labels are numbers of classes,
// or rows of probabilities where `labels` is null.
template <class T>
struct LossRows {
  Index rows, cols;
  const T* x;  // contiguous
  const int64_t* labels;
  const T* dense;        // rows of `targets` numbers
  const double* weight;  // one a row, or null
  double factor;
  T *y, *dx;
  double* losses;
  T* factors;  // room for one a row
  Index targets;
  const T* numbers;  // that a loss is made with: softmax's smoothing, or what the kernels say
};
template <class T>
void softmax_rows(const LossRows<T>& r) noexcept;
template <class T>
void sigmoid_rows(const LossRows<T>& r) noexcept;  // y = logistic(x), the loss its mean over the row
template <class T>
void squared_rows(const LossRows<T>& r) noexcept;  // y = x
// The loss of a row is its mean over the targets, or over the quantiles of all.
template <class T>
void rows_by_kernel(Dense kind, const LossRows<T>& r) noexcept;

// Columns [begin, end) of batch normalization.
template <class T>
struct NormColumns {
  Index rows, begin, end;
  const T* x;
  Index x_row;
  T *mean, *rstd;  // (cols,); `var` is kept for the running statistics
  T* var;
  T eps;
};
template <class T>
void normalize_by_batch(const NormColumns<T>& c, const T* gamma, const T* beta, T* y) noexcept;
// The same by mean and var that are there, which rows of others may have gone into.
template <class T>
void normalize_by_moments(const NormColumns<T>& c, const T* gamma, const T* beta, T* y) noexcept;
// The mean, and in `var` the sum of squared deviations from it.
template <class T>
void moments(const NormColumns<T>& c) noexcept;
// Those of some rows and of some others become those of both (Chan, Golub & LeVeque 1979).
template <class T>
void merge_moments(Index rows, Index others, Index cols, T* mean, T* squares, const T* other_mean,
                   const T* other_squares) noexcept;
template <class T>
void update_running(const NormColumns<T>& c, double momentum, T* running_mean, T* running_var) noexcept;
// By running statistics, all columns of some rows. rstd is room for (cols,) numbers.
template <class T>
void normalize_by_running(Index rows, Index cols, const T* x, const T* gamma, const T* beta, const T* running_mean,
                          const T* running_var, T eps, T* rstd, T* y) noexcept;
// dgamma and dbeta, and dx (which may be dy) where it is not null.
template <class T>
void normalize_gradient(const NormColumns<T>& c, const T* gamma, const T* dy, T* dgamma, T* dbeta, T* dx) noexcept;

// dx, by the sums of dgamma and dbeta over `all` rows, which these are among.
template <class T>
void normalize_gradient_by_sums(const NormColumns<T>& c, Index all, const T* gamma, const T* dgamma, const T* dbeta, const T* dy,
                                T* dx) noexcept;

// Rows normalized by themselves; dx (which may be dy, or null) and these rows' sums for dgamma and, unless null, dbeta.
template <class T>
void normalize_rows(const RowNorm<T>& r, T eps, const T* beta, T* y) noexcept;
template <class T>
void normalize_rows_gradient(const RowNorm<T>& r, const T* dy, T* dgamma, T* dbeta, T* dx) noexcept;

template <class T>
void update_run(Optimizer kind, const OptimizerStep<T>& step, Index n, const T* g, T* p, T* s1, T* s2) noexcept;
template <class T>
double squares(const T* x, Index n) noexcept;
// How many numbers one sum of squares runs over at most: the norm is the sum of such pieces, in order.
constexpr Index kNormPiece = 1 << 14;

// Rows of another type, converted: to = from*scale. `rows` are their numbers, or null for first, first + 1, ...
enum class Number { f32, f64, u8, i32, i64 };
constexpr bool is_integer(Number n) { return n != Number::f32 && n != Number::f64; }
struct RowSource {
  const char* data;
  Number type;
  Index row_bytes;  // from one row to the next; a row is contiguous
  Index cols;
};
template <class T>
void gather(const RowSource& from, const int64_t* rows, Index first, Index count, T scale, T* to) noexcept;

// A label or an index of n, as a step may use it: it was in range when the call began, but somebody may have written to it since.
inline int64_t within(int64_t i, Index n) noexcept { return i < 0 || i >= n ? 0 : i; }
// Rows of integers, as indices of n.
void gather_indices(const RowSource& from, const int64_t* rows, Index first, Index count, Index n, int64_t* to) noexcept;
// Whether the first `count` rows of integers are all indices of n.
bool in_range(const RowSource& from, Index count, Index n) noexcept;

}  // namespace fastnn::ops
