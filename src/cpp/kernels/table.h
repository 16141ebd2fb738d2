#pragma once
// The kernels' only door: one table of functions per ISA and number type. Every function is serial, allocates nothing and never
// throws; arrays are contiguous unless a stride stands beside them, and may be unaligned.
#include "core/types.h"

namespace fastnn {

// C = A B + (C | bias | 0); C is m x n, A m x k, B k x n.
template <class T>
struct GemmBlock {
  Index m, n, k;
  const T* a;
  Index a_row, a_col;  // a(i, p) = a[i*a_row + p*a_col]
  const T* b;
  Index b_row, b_vector;  // vector v of row p of B is at b + p*b_row + v*b_vector
  bool b_packed;          // the last vector of each row may be read whole
  T* c;
  Index c_row;
  const T* bias;  // (n,), or null
  bool accumulate;
  T* row_scratch;  // packed_rows*k numbers to pack rows of A into, or null: A is read where it lies
  // Called, where not null, with `rows` rows of C from `row` on as soon as they are done, while they are in the first-level
  // cache.
  void (*finish)(const void* context, T* c, Index row, Index rows);
  const void* context;
  bool transient;  // C is tile_rows rows only, which every tile row writes anew: `finish` has seen them
};

// c(i, j) = bias[j] + the dot product of row i of X and row j of Y, k numbers each, contiguous.
template <class T>
struct DotRows {
  Index rows, columns, k;
  const T* x;
  Index x_row;
  const T* y;
  Index y_row;
  T* c;
  Index c_row;
  const T* bias;  // (columns,), or null
};

enum class Activation { relu, leaky_relu, sigmoid, tanh, selu, gelu, gelu_tanh, silu, softplus, mish };
constexpr const char* kActivationNames[] = {"relu", "leaky_relu", "sigmoid", "tanh",     "selu",
                                            "gelu", "gelu_tanh",  "silu",    "softplus", "mish"};
constexpr int kActivations = sizeof kActivationNames / sizeof *kActivationNames;

template <class T>
struct ActivationKernels {
  // y may alias x; `around` the caches go the stores of arrays that are too large for them, here as below.
  void (*forward)(const T* x, T* y, Index n, T alpha, bool around);
  void (*backward)(const T* x, const T* y, const T* dy, T* dx, Index n, T alpha, bool around);  // x or y: activation_uses_output
};
// What backward reads: the output (ReLU by its sign, sigmoid, tanh, SELU) or the input.
constexpr bool activation_uses_output(Activation a) { return a < Activation::gelu; }

// Losses of numbers x by targets t, in one pass with their slopes. What they are made with, `numbers`: Huber's delta; the
// quantile of each x.
enum class Dense { huber, absolute, quantile, poisson, gaussian };
constexpr int kDense = 5;

// Columns [0, cols) of a batch of rows; the rows of x are x_row apart.
template <class T>
struct BatchNormColumns {
  Index rows, cols;
  const T* x;
  Index x_row;
  const T* mean;
  const T* rstd;  // 1/sqrt(var + eps)
};

// Position i of a stream: word (i/16)%4 of Philox-4x32-10 at block (i/64)*16 + i%16, key = seed, counter = (block, stream, step).
struct RandomStream {
  uint64_t seed, step;
  uint32_t stream;
};

enum class Optimizer { sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, muon };
constexpr const char* kOptimizerNames[] = {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "muon"};
constexpr int kOptimizers = sizeof kOptimizerNames / sizeof *kOptimizerNames;
constexpr int states_of(Optimizer o) { return o == Optimizer::sgd ? 0 : o >= Optimizer::adam ? 2 : 1; }
constexpr bool squares_gradients(Optimizer o) { return o >= Optimizer::adagrad; }

// Rows of normalization by rows, contiguous; mean and rstd are one a row, and without `mean` rows are not centred.
template <class T>
struct RowNorm {
  Index rows, cols;
  const T* x;
  T *mean, *rstd;
  const T* gamma;
};

template <class T>
struct OptimizerStep {
  T lr, weight_decay;
  T beta1, beta2;  // momentum, decay rate, or Adam's two
  T rest1, rest2;  // 1 - beta, subtracted before rounding: 1 - float(0.999) is off by 1e-5
  T eps;
  T step1, rsqrt2;  // Adam: lr/(1 - beta1^t), 1/sqrt(1 - beta2^t)
  bool* lost;       // set where an element is left as it was, since its gradient's square is infinite; or null
};

template <class T>
struct Kernels {
  int tile_rows, packed_rows, lanes;
  void (*gemm_block)(const GemmBlock<T>&);
  // C = A B (+ bias) for at most `few` rows of A and a B that is not packed and whose rows or columns are contiguous; no other
  // field of the block counts. Up to `shallow` rows of B take one pass over C.
  void (*few_rows)(const GemmBlock<T>&);
  int few, shallow;
  // Panels one vector wide, `panel` numbers apart, zero beyond the last column.
  void (*pack_columns)(const Matrix<const T>& b, T* to, Index panel);

  void (*dot_rows)(const DotRows<T>&);
  void (*dot_across)(const DotRows<T>&);                                // the same for Y^T: y(j, p) = y[p*y_row + j]
  void (*transpose)(const Matrix<const T>& from, T* to, Index to_row);  // to[j*to_row + i] = from(i, j)

  void (*column_sums)(const T* x, Index x_row, Index rows, Index cols, T* sums);
  ActivationKernels<T> activations[kActivations];

  // mean and biased variance of each column, sound for a large mean: Chan's combination of the statistics of groups of rows
  void (*batchnorm_statistics)(const T* x, Index x_row, Index rows, Index cols, T* mean, T* var);
  // y = (x - mean)*rstd*gamma + beta
  void (*batchnorm_forward)(const BatchNormColumns<T>&, const T* gamma, const T* beta, T* y, Index y_row, bool around);
  // dbeta = sum dy, dgamma = sum dy*xhat
  void (*batchnorm_parameter_gradients)(const BatchNormColumns<T>&, const T* dy, Index dy_row, T* dgamma, T* dbeta);
  // dx = gamma*rstd*(dy - dbeta*per_row - xhat*dgamma*per_row); per_row is 1/N, or 0 where the statistics are constants
  void (*batchnorm_input_gradient)(const BatchNormColumns<T>&, const T* gamma, const T* dgamma, const T* dbeta, T per_row,
                                   const T* dy, Index dy_row, T* dx, Index dx_row, bool around);

  // y = gamma*(x - mean)*rstd + beta, where beta may be null
  void (*rownorm_forward)(const RowNorm<T>&, T eps, const T* beta, T* y, bool around);
  // dx (which may be dy, or null), and the sums of dy*xhat and, unless null, of dy over these rows
  void (*rownorm_backward)(const RowNorm<T>&, const T* dy, T* dgamma, T* dbeta, T* dx, bool around);

  // Elements [first, first + n) of the stream, first a multiple of 64: y = keep ? x*scale : 0; bit i of keep is element first +
  // i.
  void (*dropout_forward)(const RandomStream&, uint32_t threshold, T scale, Index first, Index n, const T* x, T* y, uint8_t* keep,
                          bool around);
  void (*dropout_backward)(const uint8_t* keep, T scale, Index n, const T* dy, T* dx, bool around);

  void (*random_words)(const RandomStream&, Index first, Index n, uint32_t* to);  // first and n are multiples of 64

  // Rows of y = softmax(x); row_max and log(sum exp(x - row_max)) of each row.
  void (*softmax)(const T* x, Index x_row, Index rows, Index cols, T* y, T* row_max, T* log_sum, bool around);
  // The same, with losses = row_max - x[label] + log_sum and dx = (y - onehot(label))*factor, a factor a row; dx may alias x.
  void (*softmax_gradient)(const T* x, Index x_row, Index rows, Index cols, const int64_t* labels, const T* factor, T* y, T* dx,
                           Index dx_row, double* losses);
  // sum t*(log_sum + row_max - x) over a row of soft labels
  double (*soft_label_loss)(const T* x, const T* t, Index n, T row_max, T log_sum);
  // y = logistic(x); sum max(x, 0) - x t + log1p(exp(-|x|))
  double (*sigmoid_loss)(const T* x, const T* t, Index n, T* y);
  double (*squared_error)(const T* x, const T* t, Index n);
  // Sums over n targets, of one number each, or two (means, then log-variances); y = predictions, and may be x; dx =
  // slope*factor, and may be t.
  double (*dense[kDense])(const T* x, const T* t, const T* numbers, T factor, Index n, T* y, T* dx);
  // A row of softmax cross-entropy as if its label were smoothed by s: corrects dx, whose factor is that, and returns what the
  // loss has more.
  double (*smooth_label)(const T* x, T s, Index label, T factor, Index n, T* dx);
  void (*scaled_difference)(const T* a, const T* b, T scale, Index n, T* y, bool around);  // y = (a - b)*scale

  // y[i] = w[index[i]] for n rows of `cols` numbers, those of w w_row apart
  void (*gather_rows)(const T* w, Index w_row, const int64_t* index, Index n, Index cols, T* y, bool around);
  // y[r] = the sum of the rows x[positions[p]], starts[r] <= p < starts[r + 1], in this order, for n rows, n > 0; none is empty
  void (*sum_rows)(const T* x, const Index* positions, const Index* starts, Index n, Index cols, T* y, bool around);

  // y[i] = bias (or 0) + the sum of values[e]*w[index[e]], starts[i] <= e < starts[i + 1], for n rows of `cols` numbers: a chain
  // of fma in this order, as an element of a matrix product is
  void (*weighted_rows)(const Matrix<const T>& w, const T* values, const int64_t* index, const Index* starts, Index n,
                        const T* bias, T* y);

  void (*scale)(const T* x, T scale, Index n, T* y);                // y may alias x
  void (*add)(const T* x, const T* z, Index n, T* y);               // y = x + z, of which y may be either
  void (*blend)(const T* x, T share, T rest, Index n, T* y);        // y = share*x + rest*y
  void (*convert_f32)(const float* from, T scale, Index n, T* to);  // to = from*scale; neither overlaps the other
  void (*convert_f64)(const double* from, T scale, Index n, T* to);
  void (*convert_u8)(const uint8_t* from, T scale, Index n, T* to);
  void (*convert_i32)(const int32_t* from, T scale, Index n, T* to);
  void (*convert_i64)(const int64_t* from, T scale, Index n, T* to);
  double (*sum_of_squares)(const T* x, Index n);
  double (*fma_chains)(Index rounds, T* sink);  // the flops done in `rounds` of the fastest code there can be; writes one vector
  void (*optimizers[kOptimizers])(const OptimizerStep<T>&, Index n, const T* g, T* p, T* s1, T* s2);
};

struct KernelTable {
  const char* isa;           // as FASTNN_ISA names it
  const char* compiled_for;  // what the compiler said of the flags of the kernels themselves
  Kernels<float> f32;
  Kernels<double> f64;
};

}  // namespace fastnn
