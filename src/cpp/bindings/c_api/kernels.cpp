#include "bindings/c_api/kernels.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/c_api/status.h"
#include "ops/affine.h"
#include "ops/batchnorm.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/losses.h"
#include "ops/optimizers.h"

namespace fastnn::bindings::c_api {
namespace {

static_assert(static_cast<int>(Activation::mish) == FASTNN_MISH && static_cast<int>(Activation::gelu_tanh) == FASTNN_GELU_TANH);
static_assert(static_cast<int>(Optimizer::adamw) == FASTNN_ADAMW && static_cast<int>(Optimizer::adagrad) == FASTNN_ADAGRAD);
static_assert(sizeof(long long) == sizeof(int64_t) && sizeof(long long) == sizeof(Index));

const int64_t* numbers(const long long* p) noexcept { return reinterpret_cast<const int64_t*>(p); }

bool all_within(const long long* index, long long n, long long end) noexcept {
  return std::all_of(index, index + n, [&](long long i) { return i >= 0 && i < end; });
}

// Whether no two elements of a matrix with these strides lie in one place, and rows or columns are contiguous.
bool can_be_written(long long rows, long long cols, long long row, long long col) noexcept {
  const bool by_rows = (col == 1 || cols <= 1) && (row >= cols || rows <= 1);
  const bool by_columns = (row == 1 || rows <= 1) && (col >= rows || cols <= 1);
  return by_rows || by_columns;
}

template <class T>
struct Calls {
  static int matmul(int threads, long long m, long long n, long long k, const T* a, long long a_row, long long a_col, const T* b,
                    long long b_row, long long b_col, T* c, long long c_row, long long c_col) noexcept {
    return status_of(threads, [&] {
      const bool fits = sizes(m, n, k) && present(m > 0 && n > 0, c) && present(m > 0 && n > 0 && k > 0, a, b);
      if (!fits || !can_be_written(m, n, c_row, c_col)) return FASTNN_INVALID;
      ops::matmul<T>({a, m, k, a_row, a_col}, {b, k, n, b_row, b_col}, {c, m, n, c_row, c_col});
      return FASTNN_OK;
    });
  }
  static int affine_forward(int threads, long long rows, long long n_in, long long n_out, const T* x, long long x_row,
                            long long x_col, const T* w, const T* b, T* y) noexcept {
    return status_of(threads, [&] {
      if (!sizes(rows, n_in, n_out) || !present(rows > 0 && n_in > 0 && n_out > 0, x, w, b, y)) return FASTNN_INVALID;
      ops::affine_forward<T>({x, rows, n_in, x_row, x_col}, {w, n_in, n_out, n_out, 1}, b, {y, rows, n_out, n_out, 1});
      return FASTNN_OK;
    });
  }
  static int affine_backward(int threads, long long rows, long long n_in, long long n_out, const T* x, long long x_row,
                             long long x_col, const T* w, const T* dy, T* dx, T* dw, T* db) noexcept {
    return status_of(threads, [&] {
      if (!sizes(rows, n_in, n_out) || !present(rows > 0 && n_in > 0 && n_out > 0, x, w, dy, dw, db)) return FASTNN_INVALID;
      const Matrix<T> to = dx ? Matrix<T>{dx, rows, n_in, n_in, 1} : Matrix<T>{};
      ops::affine_backward<T>({x, rows, n_in, x_row, x_col}, {w, n_in, n_out, n_out, 1}, {dy, rows, n_out, n_out, 1}, to,
                              {dw, n_in, n_out, n_out, 1}, db);
      return FASTNN_OK;
    });
  }
  static int batchnorm_forward(int threads, int train, long long rows, long long cols, const T* x, const T* gamma, const T* beta,
                               T* running_mean, T* running_var, double momentum, double eps, T* mean, T* rstd, T* y) noexcept {
    return status_of(threads, [&] {
      const bool fits =
          sizes(rows, cols) && present(rows > 0 && cols > 0, x, gamma, beta, running_mean, running_var, mean, rstd, y);
      if (!fits || (train && rows < 2) || !(momentum >= 0 && momentum <= 1) || !(eps > 0)) return FASTNN_INVALID;
      const ops::BatchNormVectors<T> v{gamma, beta, running_mean, running_var};
      const Matrix<const T> from{x, rows, cols, cols, 1};
      const Matrix<T> to{y, rows, cols, cols, 1};
      if (train)
        ops::batchnorm_train(from, v, momentum, normal<T>(eps), mean, rstd, to);
      else
        ops::batchnorm_eval(from, v, normal<T>(eps), mean, rstd, to);
      return FASTNN_OK;
    });
  }
  static int batchnorm_backward(int threads, int train, long long rows, long long cols, const T* x, const T* gamma, const T* mean,
                                const T* rstd, const T* dy, T* dgamma, T* dbeta, T* dx) noexcept {
    return status_of(threads, [&] {
      const bool fits = sizes(rows, cols) && present(rows > 0 && cols > 0, x, gamma, mean, rstd, dy, dgamma, dbeta, dx);
      if (!fits || (train && rows < 2)) return FASTNN_INVALID;
      ops::batchnorm_backward<T>(train != 0, {x, rows, cols, cols, 1}, mean, rstd, gamma, {dy, rows, cols, cols, 1}, dgamma,
                                 dbeta, {dx, rows, cols, cols, 1});
      return FASTNN_OK;
    });
  }
  static int dropout_forward(int threads, long long n, const T* x, unsigned long long seed, unsigned long long step,
                             unsigned int stream, double ratio, double scale, T* y, unsigned char* keep) noexcept {
    return status_of(threads, [&] {
      if (!sizes(n) || !present(n > 0, x, y, keep) || !(ratio >= 0 && ratio < 1)) return FASTNN_INVALID;
      ops::dropout_forward<T>({seed, step, stream}, ratio, static_cast<T>(scale), x, y, keep, n);
      return FASTNN_OK;
    });
  }
  static int dropout_backward(int threads, long long n, const T* dy, const unsigned char* keep, double scale, T* dx) noexcept {
    return status_of(threads, [&] {
      if (!sizes(n) || !present(n > 0, dy, keep, dx)) return FASTNN_INVALID;
      ops::dropout_backward<T>(keep, static_cast<T>(scale), dy, dx, n);
      return FASTNN_OK;
    });
  }
  static int activation_forward(int threads, int kind, double alpha, long long n, const T* x, T* y) noexcept {
    return status_of(threads, [&] {
      if (kind < 0 || kind > FASTNN_MISH || !sizes(n) || !present(n > 0, x, y)) return FASTNN_INVALID;
      ops::activation_forward<T>(static_cast<Activation>(kind), x, y, n, static_cast<T>(alpha));
      return FASTNN_OK;
    });
  }
  static int activation_backward(int threads, int kind, double alpha, long long n, const T* x, const T* y, const T* dy,
                                 T* dx) noexcept {
    return status_of(threads, [&] {
      if (kind < 0 || kind > FASTNN_MISH || !sizes(n)) return FASTNN_INVALID;
      const T* saved = activation_uses_output(static_cast<Activation>(kind)) ? y : x;
      if (!present(n > 0, saved, dy, dx)) return FASTNN_INVALID;
      ops::activation_backward<T>(static_cast<Activation>(kind), x, y, dy, dx, n, static_cast<T>(alpha));
      return FASTNN_OK;
    });
  }
  // What losses are divided by; not positive where the weights are none.
  static double divisor(const double* weight, long long rows) noexcept {
    if (!weight) return static_cast<double>(rows);
    double sum = 0;
    for (long long i = 0; i < rows; ++i) sum = weight[i] >= 0 ? sum + weight[i] : -std::numeric_limits<double>::infinity();
    return sum <= std::numeric_limits<double>::max() ? sum : 0;
  }
  static int softmax_cross_entropy(int threads, long long rows, long long classes, const T* x, const long long* labels,
                                   const double* weight, T* y, double* loss) noexcept {
    return status_of(threads, [&] {
      const double by = rows > 0 && classes > 0 && present(true, x, labels, y, loss) ? divisor(weight, rows) : 0;
      if (!(by > 0)) return FASTNN_INVALID;
      if (!all_within(labels, rows, classes)) return FASTNN_RANGE;
      *loss = ops::softmax_cross_entropy<T>({x, rows, classes, classes, 1}, numbers(labels), weight, y) / by;
      return FASTNN_OK;
    });
  }
  static int softmax_cross_entropy_backward(int threads, long long rows, long long classes, const T* y, const long long* labels,
                                            const double* weight, double dout, T* dx) noexcept {
    return status_of(threads, [&] {
      const double by = rows > 0 && classes > 0 && present(true, y, labels, dx) ? divisor(weight, rows) : 0;
      if (!(by > 0)) return FASTNN_INVALID;
      if (!all_within(labels, rows, classes)) return FASTNN_RANGE;
      ops::softmax_cross_entropy_backward<T>(y, numbers(labels), weight, dout / by, {dx, rows, classes, classes, 1});
      return FASTNN_OK;
    });
  }
  static int optimizer_update(int threads, int kind, double lr, double weight_decay, double beta1, double beta2, double eps,
                              long long step, long long n, const T* g, T* p, T* s1, T* s2) noexcept {
    return status_of(threads, [&] {
      if (kind < 0 || kind > FASTNN_ADAMW || !sizes(n) || step < 1) return FASTNN_INVALID;
      const Optimizer optimizer = static_cast<Optimizer>(kind);
      const int states = states_of(optimizer);
      const auto share = [](double beta) { return beta >= 0 && beta < 1; };
      const bool numbers = lr >= 0 && weight_decay >= 0 && share(beta1) && share(beta2) && eps >= 0;
      if (!numbers || !present(n > 0, g, p) || !present(n > 0 && states > 0, s1) || !present(n > 0 && states > 1, s2))
        return FASTNN_INVALID;
      const ops::UpdateRule rule{optimizer, lr, weight_decay, beta1, beta2, eps, step};
      std::vector<ops::Update<float>> f32;
      std::vector<ops::Update<double>> f64;
      ops::Update<T> update{};
      update.p = p;
      update.g = g;
      update.s1 = s1;
      update.s2 = s2;
      update.size = n;
      if constexpr (sizeof(T) == sizeof(float))
        f32.push_back(update);
      else
        f64.push_back(update);
      ops::update(rule, f32, f64, ops::room_for(f32, f64));
      return FASTNN_OK;
    });
  }
  static int embedding_forward(int threads, long long n, long long vocab, long long dim, const long long* indices, const T* w,
                               T* y) noexcept {
    return status_of(threads, [&] {
      if (!sizes(n, vocab, dim) || !present(n > 0 && dim > 0, indices, w, y)) return FASTNN_INVALID;
      if (!all_within(indices, n, vocab)) return FASTNN_RANGE;
      ops::gather_rows<T>({w, vocab, dim, dim, 1}, numbers(indices), n, y);
      return FASTNN_OK;
    });
  }
  static int embedding_backward(int threads, long long n, long long vocab, long long dim, const long long* indices, const T* dy,
                                long long* rows, T* values, long long* count) noexcept {
    return status_of(threads, [&] {
      if (!sizes(n, vocab, dim) || !count || !present(n > 0 && dim > 0, indices, dy, rows, values)) return FASTNN_INVALID;
      if (!all_within(indices, n, vocab)) return FASTNN_RANGE;
      ops::Occurrences found;
      if (n > 0) ops::occurrences_of(numbers(indices), n, found);
      std::copy(found.rows.begin(), found.rows.end(), rows);
      *count = static_cast<long long>(found.rows.size());
      if (n > 0) ops::sum_rows(found, dy, static_cast<Index>(dim), values);
      return FASTNN_OK;
    });
  }
};

}  // namespace

void fill_kernels(fastnn_api& table) noexcept {
#define FASTNN_FILL(T, suffix)                                                              \
  table.matmul_##suffix = Calls<T>::matmul;                                                 \
  table.affine_forward_##suffix = Calls<T>::affine_forward;                                 \
  table.affine_backward_##suffix = Calls<T>::affine_backward;                               \
  table.batchnorm_forward_##suffix = Calls<T>::batchnorm_forward;                           \
  table.batchnorm_backward_##suffix = Calls<T>::batchnorm_backward;                         \
  table.dropout_forward_##suffix = Calls<T>::dropout_forward;                               \
  table.dropout_backward_##suffix = Calls<T>::dropout_backward;                             \
  table.activation_forward_##suffix = Calls<T>::activation_forward;                         \
  table.activation_backward_##suffix = Calls<T>::activation_backward;                       \
  table.softmax_cross_entropy_##suffix = Calls<T>::softmax_cross_entropy;                   \
  table.softmax_cross_entropy_backward_##suffix = Calls<T>::softmax_cross_entropy_backward; \
  table.optimizer_update_##suffix = Calls<T>::optimizer_update;                             \
  table.embedding_forward_##suffix = Calls<T>::embedding_forward;                           \
  table.embedding_backward_##suffix = Calls<T>::embedding_backward;
  FASTNN_FILL(float, f32)
  FASTNN_FILL(double, f64)
#undef FASTNN_FILL
}

}  // namespace fastnn::bindings::c_api
