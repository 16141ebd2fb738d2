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

// Calls f(first row, first column, rows, columns) for groups of rows, each from the first block of columns to the last, so that
// memory is read in one go. (A block of columns down all rows before the next one, so that a second pass finds it in the cache of
// 32 MiB: 4096 x 1024 took 1.2 times as long with blocks of 512 columns, 1.6 times with 256.)
template <class F>
FASTNN_INLINE void each_block(Index rows, Index cols, F&& f) {
  for (Index i = 0; i < rows; i += kGroup)
    for (Index j = 0; j < cols; j += kBlock) f(i, j, smaller(kGroup, rows - i), smaller(kBlock, cols - j));
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
FASTNN_INLINE void sum_columns(Index rows, Index cols, T* const (&total)[S], F&& term) {
  alignas(kVectorBytes) T part[S][kBlock];
  FASTNN_EACH (s, S) each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { store(total[s] + j, set1(T(0)), lanes); });
  each_block(rows, cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
    sum_group(group, n, part,
              [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA { term(i + r, first + j, lanes, out); });
    FASTNN_EACH (s, S)
      each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
        T* at = total[s] + first + j;
        store(at, load(at, lanes) + load(part[s] + j), lanes);
      });
  });
}

template <class T>
void column_sums(const T* x, Index x_row, Index rows, Index cols, T* sums) {
  sum_columns<1, T>(rows, cols, {sums},
                    [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA { out[0] = load(x + i * x_row + j, lanes); });
}

// Chan, Golub & LeVeque 1979: with d = mean_b - mean_a, mean = mean_a + d*n_b/n and M2 = M2_a + M2_b + d^2*n_a*n_b/n.
//
// The first group's M2 is the sum of (x - mean_b)^2. The others are read once: the sums are those of x - mean_a and its square,
// so that d is the first one's mean and M2_b = sum (x - mean_a)^2 - n_b*d^2. What cancels there is n_b*d^2, which M2 has at least
// half of anyway (n_a >= n_b), so that no accuracy is lost.
template <class T>
void statistics(const T* x, Index x_row, Index rows, Index cols, T* mean, T* var) {
  each_block(rows, cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
    alignas(kVectorBytes) T part[2][kBlock], part_m2[1][kBlock];
    const T* from = x + i * x_row + first;
    T *mean_at = mean + first, *var_at = var + first;
    const Vec<T> inverse = set1(T(1) / T(group)), final_scale = set1(i + group == rows ? T(1) / T(rows) : T(1));
    if (i == 0) {
      sum_columns<1, T>(group, n, {mean_at}, [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
        out[0] = load(from + r * x_row + j, lanes);
      });
      each_vector<T>(n,
                     [&](Index j, auto lanes) FASTNN_LAMBDA { store(mean_at + j, load(mean_at + j, lanes) * inverse, lanes); });
      sum_group(group, n, part_m2, [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
        const Vec<T> d = load(from + r * x_row + j, lanes) - load(mean_at + j, lanes);
        out[0] = d * d;
      });
      each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA { store(var_at + j, load(part_m2[0] + j) * final_scale, lanes); });
      return;
    }
    sum_group(group, n, part, [&](Index r, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
      out[0] = load(from + r * x_row + j, lanes) - load(mean_at + j, lanes);
      out[1] = out[0] * out[0];
    });
    const Vec<T> share = set1(T(group) / T(i + group)), weight = set1(T(i) * (T(group) / T(i + group)));
    each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> sum = load(part[0] + j), d = sum * inverse, m2 = fma(set1(T(0)) - sum, d, load(part[1] + j));
      store(mean_at + j, fma(d, share, load(mean_at + j, lanes)), lanes);
      store(var_at + j, (load(var_at + j, lanes) + fma(d * d, weight, m2)) * final_scale, lanes);
    });
  });
}

// Whether all whole vectors of a matrix lie at the beginning of a line.
template <class T>
FASTNN_INLINE bool rows_at_lines(const T* y, Index y_row) {
  return at_line(y) && y_row % kLanes<T> == 0;
}

// Row by row. (Four rows at a time, what belongs to their columns loaded once: 10 % faster for 1024 x 256, but for 4096 x 1024,
// where four rows of x and of y want the same places of the first-level cache, 1.6 times as long.)
template <class T>
void forward(const BatchNormColumns<T>& c, const T* gamma, const T* beta, T* y, Index y_row, bool around) {
  around = around && rows_at_lines(y, y_row);
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * load(c.rstd + j, lanes);
      store(y + i * y_row + j, fma(xhat, load(gamma + j, lanes), load(beta + j, lanes)), lanes, around);
    });
  stream_end();
}

template <class T>
void parameter_gradients(const BatchNormColumns<T>& c, const T* dy, Index dy_row, T* dgamma, T* dbeta) {
  sum_columns<2, T>(c.rows, c.cols, {dgamma, dbeta}, [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
    const Vec<T> g = load(dy + i * dy_row + j, lanes);
    out[0] = g * (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes));
    out[1] = g;
  });
  each_vector<T>(c.cols, [&](Index j, auto lanes)
                             FASTNN_LAMBDA { store(dgamma + j, load(dgamma + j, lanes) * load(c.rstd + j, lanes), lanes); });
}

template <class T>
void input_gradient(const BatchNormColumns<T>& c, const T* gamma, const T* dgamma, const T* dbeta, T per_row, const T* dy,
                    Index dy_row, T* dx, Index dx_row, bool around) {
  around = around && rows_at_lines(dx, dx_row);
  const Vec<T> share = set1(per_row);
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> rstd = load(c.rstd + j, lanes);
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * rstd;
      const Vec<T> common = fma(xhat, load(dgamma + j, lanes), load(dbeta + j, lanes)) * share;
      const Vec<T> scale = load(gamma + j, lanes) * rstd;
      store(dx + i * dx_row + j, scale * (load(dy + i * dy_row + j, lanes) - common), lanes, around);
    });
  stream_end();
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
