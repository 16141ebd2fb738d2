// Batch normalization (Ioffe & Szegedy 2015) by columns, and the sums of columns.
//
// Sums run down the rows while memory is read along them: a block of columns has its partial sums in the first-level cache, four
// rows are added to them at a time, and after kGroup rows the partial sums join the totals, which bounds rounding and fixes the
// order. (Strips of one vector down 32 rows read as little, but a line a page: the backward pass of 4096 x 1024 took 8.5 ms so.)
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

constexpr Index kGroup = 32;
constexpr Index kBlock = 512;  // columns

// Calls f(first column, number of columns) for blocks of columns.
template <class F>
FASTNN_INLINE void each_block(Index cols, F&& f) {
  for (Index j = 0; j < cols; j += kBlock) f(j, smaller(kBlock, cols - j));
}

// part[s][j] = the sum over `rows` rows of the s-th of the S terms that term(row, j, lanes, out) puts out.
template <int S, class T, class F>
FASTNN_INLINE void sum_group(Index rows, Index cols, T (&part)[S][kBlock], F&& term) {
  for (Index r = 0; r < rows; r += 4) {
    const bool whole = r + 4 <= rows;
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      Vec<T> sum[S], t[S];
      term(r, j, lanes, sum);
      if (whole) {
        Vec<T> pair[S];
        term(r + 1, j, lanes, t);
        FASTNN_EACH (s, S) sum[s] = sum[s] + t[s];
        term(r + 2, j, lanes, pair);
        term(r + 3, j, lanes, t);
        FASTNN_EACH (s, S) sum[s] = sum[s] + (pair[s] + t[s]);
      } else {
        for (Index i = r + 1; i < rows; ++i) {
          term(i, j, lanes, t);
          FASTNN_EACH (s, S) sum[s] = sum[s] + t[s];
        }
      }
      FASTNN_EACH (s, S) store(part[s] + j, r == 0 ? sum[s] : load(part[s] + j) + sum[s]);
    });
  }
}

// total[s] = the sum over all rows, by groups.
template <int S, class T, class F>
FASTNN_INLINE void sum_columns(Index rows, Index first, Index cols, T* const (&total)[S], F&& term) {
  alignas(64) T part[S][kBlock];
  FASTNN_EACH (s, S)
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { store(total[s] + first + j, set1(T(0)), lanes); });
  for (Index i = 0; i < rows; i += kGroup) {
    sum_group(smaller(kGroup, rows - i), cols, part,
              [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA { term(i + r, first + j, lanes, out); });
    FASTNN_EACH (s, S)
      each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
        T* at = total[s] + first + j;
        store(at, load(at, lanes) + load(part[s] + j), lanes);
      });
  }
}

template <class T>
void column_sums(const T* x, Index x_row, Index rows, Index cols, T* sums) {
  each_block(cols, [&](Index first, Index n) FASTNN_LAMBDA {
    sum_columns<1, T>(rows, first, n, {sums},
                      [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA { out[0] = load(x + i * x_row + j, lanes); });
  });
}

// Chan, Golub & LeVeque 1979: with d = mean_b - mean_a, mean = mean_a + d*n_b/n and M2 = M2_a + M2_b + d^2*n_a*n_b/n.
template <class T>
void statistics(const T* x, Index x_row, Index rows, Index cols, T* mean, T* var) {
  each_block(cols, [&](Index first, Index n) FASTNN_LAMBDA {
    alignas(64) T part_mean[1][kBlock], part_m2[1][kBlock];
    for (Index i = 0; i < rows; i += kGroup) {
      const Index group = smaller(kGroup, rows - i);
      const T* from = x + i * x_row + first;
      sum_group(group, n, part_mean,
                [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA { out[0] = load(from + r * x_row + j, lanes); });
      const Vec<T> inverse = set1(T(1) / T(group));
      each_vector<T>(n, [&](Index j, auto) FASTNN_LAMBDA { store(part_mean[0] + j, load(part_mean[0] + j) * inverse); });
      sum_group(group, n, part_m2, [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
        const Vec<T> d = load(from + r * x_row + j, lanes) - load(part_mean[0] + j);
        out[0] = d * d;
      });
      const Vec<T> share = set1(T(group) / T(i + group)), weight = set1(T(i) * (T(group) / T(i + group)));
      const Vec<T> final_scale = set1(i + group == rows ? T(1) / T(rows) : T(1));
      each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
        T *mean_at = mean + first + j, *var_at = var + first + j;
        Vec<T> m = load(part_mean[0] + j), m2 = load(part_m2[0] + j);
        if (i > 0) {
          const Vec<T> before = load(mean_at, lanes), d = m - before;
          m = fma(d, share, before);
          m2 = load(var_at, lanes) + fma(d * d, weight, m2);
        }
        store(mean_at, m, lanes);
        store(var_at, m2 * final_scale, lanes);
      });
    }
  });
}

template <class T>
void forward(const BatchNormColumns<T>& c, const T* gamma, const T* beta, T* y, Index y_row) {
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * load(c.rstd + j, lanes);
      store(y + i * y_row + j, fma(xhat, load(gamma + j, lanes), load(beta + j, lanes)), lanes);
    });
}

template <class T>
void parameter_gradients(const BatchNormColumns<T>& c, const T* dy, Index dy_row, T* dgamma, T* dbeta) {
  each_block(c.cols, [&](Index first, Index n) FASTNN_LAMBDA {
    sum_columns<2, T>(c.rows, first, n, {dgamma, dbeta}, [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
      const Vec<T> g = load(dy + i * dy_row + j, lanes);
      out[0] = g * (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes));
      out[1] = g;
    });
  });
  each_vector<T>(c.cols, [&](Index j, auto lanes)
                             FASTNN_LAMBDA { store(dgamma + j, load(dgamma + j, lanes) * load(c.rstd + j, lanes), lanes); });
}

template <class T>
void input_gradient(const BatchNormColumns<T>& c, const T* gamma, const T* dgamma, const T* dbeta, T per_row, const T* dy,
                    Index dy_row, T* dx, Index dx_row) {
  const Vec<T> share = set1(per_row);
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> rstd = load(c.rstd + j, lanes);
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * rstd;
      const Vec<T> common = fma(xhat, load(dgamma + j, lanes), load(dbeta + j, lanes)) * share;
      store(dx + i * dx_row + j, load(gamma + j, lanes) * rstd * (load(dy + i * dy_row + j, lanes) - common), lanes);
    });
}

}  // namespace

template <class T>
void fill_batchnorm(Kernels<T>& table) {
  table.column_sums = column_sums<T>;
  table.batchnorm_statistics = statistics<T>;
  table.batchnorm_forward = forward<T>;
  table.batchnorm_parameter_gradients = parameter_gradients<T>;
  table.batchnorm_input_gradient = input_gradient<T>;
}
template void fill_batchnorm(Kernels<float>&);
template void fill_batchnorm(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
