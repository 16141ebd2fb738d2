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
template <class T>
constexpr Index kBlock = 4096 / static_cast<Index>(sizeof(T));  // columns; with 2 KiB, 4096 x 1024 took 1.4 times as long

// Calls f(first row, first column, rows, columns) for groups of rows, each from the first block of columns to the last, so that
// memory is read in one go. (A block of columns down all rows before the next one, so that a second pass finds it in the cache of
// 32 MiB: 4096 x 1024 took 1.3 times as long with blocks of 256 or 512 columns.)
template <class T, class F>
FASTNN_INLINE void blocks_of_group(Index i, Index rows, Index cols, F&& f) {
  for (Index j = 0; j < cols; j += kBlock<T>) f(i, j, smaller(kGroup, rows - i), smaller(kBlock<T>, cols - j));
}
template <class T, class F>
FASTNN_INLINE void each_block(Index rows, Index cols, F&& f) {
  for (Index i = 0; i < rows; i += kGroup) blocks_of_group<T>(i, rows, cols, f);
}
// The same from the last group to the first: a second pass begins with what the first one left in the caches. 4096 x 1024 takes
// 0.9 times as long so.
template <class T, class F>
FASTNN_INLINE void each_block_back(Index rows, Index cols, F&& f) {
  for (Index i = (rows - 1) / kGroup * kGroup; i >= 0; i -= kGroup) blocks_of_group<T>(i, rows, cols, f);
}

// Four rows at a time are more streams than the processor reads ahead of by itself where their ends are a page apart. So of
// matrices beyond the caches the line eight rows further down is asked for (past the last row too: that reads nothing): of
// 4096 x 1024 the statistics take 0.6 times as long, the sums of the gradients 0.75 times. In the third-level cache it costs 5 %.
// (One row at a time, as fast as that where it is in memory, takes 1.5 times as long where it is not.)
struct Near {
  template <class T, class Lanes>
  FASTNN_INLINE Vec<T> at(const T* p, Index, Lanes lanes) {
    return load(p, lanes);
  }
};
struct Far {
  template <class T, class Lanes>
  FASTNN_INLINE Vec<T> at(const T* p, Index row, Lanes lanes) {
    __builtin_prefetch(p + 8 * row, 0, 1);
    return load(p, lanes);
  }
};
// Calls f(Far{}) or f(Near{}), by whose at(where, row stride, lanes) a member's rows and columns are to be read.
constexpr Index kFarBytes = Index{8} << 20;
template <class T, class F>
FASTNN_INLINE void reading(Index rows, Index cols, F&& f) {
  if (rows * cols * static_cast<Index>(sizeof(T)) > kFarBytes)
    f(Far{});
  else
    f(Near{});
}

// part[s][j] = the sum over `rows` rows of the s-th of the S terms that term(row, j, lanes, out) puts out.
template <int S, class T, class F>
FASTNN_INLINE void sum_group(Index rows, Index cols, T (&part)[S][kBlock<T>], F&& term) {
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
  alignas(kVectorBytes) T part[S][kBlock<T>];
  FASTNN_EACH (s, S) each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { store(total[s] + j, set1(T(0)), lanes); });
  each_block<T>(rows, cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
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
  reading<T>(rows, cols, [&](auto read) FASTNN_LAMBDA {
    sum_columns<1, T>(rows, cols, {sums}, [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
      out[0] = read.at(x + i * x_row + j, x_row, lanes);
    });
  });
}

// Chan, Golub & LeVeque 1979: with d = mean_b - mean_a, mean = mean_a + d*n_b/n and M2 = M2_a + M2_b + d^2*n_a*n_b/n.
//
// The first group's M2 is the sum of (x - mean_b)^2. The others are read once: the sums are those of x - mean_a and its square,
// so that d is the first one's mean and M2_b = sum (x - mean_a)^2 - n_b*d^2. What cancels there is n_b*d^2, which M2 has at least
// half of anyway (n_a >= n_b), so that no accuracy is lost.
template <class T, class R>
FASTNN_INLINE void statistics(R read, const T* x, Index x_row, Index rows, Index cols, T* mean, T* var) {
  each_block<T>(rows, cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
    alignas(kVectorBytes) T part[2][kBlock<T>], part_m2[1][kBlock<T>];
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
      out[0] = read.at(from + r * x_row + j, x_row, lanes) - load(mean_at + j, lanes);
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

template <class T>
void statistics(const T* x, Index x_row, Index rows, Index cols, T* mean, T* var) {
  reading<T>(rows, cols, [&](auto read) FASTNN_LAMBDA { statistics(read, x, x_row, rows, cols, mean, var); });
}

// Whether all whole vectors of a matrix lie at the beginning of a line.
template <class T>
FASTNN_INLINE bool rows_at_lines(const T* y, Index y_row) {
  return at_line(y) && y_row % kLanes<T> == 0;
}

// The passes that write go row by row, and what belongs to the columns, with what is the same for all rows multiplied out, is
// copied to vectors at lines' beginnings, once a block: 1.5 times as fast in the second-level cache. (Two rows at a time, or
// four, which want the same places of the first-level cache where rows are 4 KiB: 4096 x 1024 took 1.6 times as long. Asking for
// lines ahead: up to 1.3 times as long.)
template <class T>
void forward(const BatchNormColumns<T>& c, const T* gamma, const T* beta, T* y, Index y_row, bool around) {
  around = around && rows_at_lines(y, y_row);
  each_block_back<T>(c.rows, c.cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
    alignas(kVectorBytes) T mean[kBlock<T>], scale[kBlock<T>], shift[kBlock<T>];
    each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Index at = first + j;
      store(mean + j, load(c.mean + at, lanes));
      store(scale + j, load(c.rstd + at, lanes) * load(gamma + at, lanes));
      store(shift + j, load(beta + at, lanes));
    });
    for (Index r = i; r < i + group; ++r) {
      const T* x = c.x + r * c.x_row + first;
      T* to = y + r * y_row + first;
      each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
        store(to + j, fma(load(x + j, lanes) - load(mean + j), load(scale + j), load(shift + j)), lanes, around);
      });
    }
  });
  stream_end();
}

template <class T>
void parameter_gradients(const BatchNormColumns<T>& c, const T* dy, Index dy_row, T* dgamma, T* dbeta) {
  reading<T>(c.rows, c.cols, [&](auto read) FASTNN_LAMBDA {
    sum_columns<2, T>(c.rows, c.cols, {dgamma, dbeta}, [&](Index i, Index j, auto lanes, Vec<T>* out) FASTNN_LAMBDA {
      const Vec<T> g = read.at(dy + i * dy_row + j, dy_row, lanes);
      out[0] = g * (read.at(c.x + i * c.x_row + j, c.x_row, lanes) - load(c.mean + j, lanes));
      out[1] = g;
    });
  });
  each_vector<T>(c.cols, [&](Index j, auto lanes)
                             FASTNN_LAMBDA { store(dgamma + j, load(dgamma + j, lanes) * load(c.rstd + j, lanes), lanes); });
}

template <class T>
void input_gradient(const BatchNormColumns<T>& c, const T* gamma, const T* dgamma, const T* dbeta, T per_row, const T* dy,
                    Index dy_row, T* dx, Index dx_row, bool around) {
  around = around && rows_at_lines(dx, dx_row);
  const Vec<T> share = set1(per_row);
  each_block_back<T>(c.rows, c.cols, [&](Index i, Index first, Index group, Index n) FASTNN_LAMBDA {
    alignas(kVectorBytes) T mean[kBlock<T>], scale[kBlock<T>], slope[kBlock<T>], shift[kBlock<T>];
    each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Index at = first + j;
      const Vec<T> rstd = load(c.rstd + at, lanes);
      store(mean + j, load(c.mean + at, lanes));
      store(scale + j, rstd * load(gamma + at, lanes));
      // Without a share dgamma and dbeta, which may be infinite, do not count.
      store(slope + j, per_row == T(0) ? share : rstd * load(dgamma + at, lanes) * share);
      store(shift + j, per_row == T(0) ? share : load(dbeta + at, lanes) * share);
    });
    for (Index r = i; r < i + group; ++r) {
      const T *x = c.x + r * c.x_row + first, *g = dy + r * dy_row + first;
      T* to = dx + r * dx_row + first;
      each_vector<T>(n, [&](Index j, auto lanes) FASTNN_LAMBDA {
        const Vec<T> common = fma(load(x + j, lanes) - load(mean + j), load(slope + j), load(shift + j));
        store(to + j, load(scale + j) * (load(g + j, lanes) - common), lanes, around);
      });
    }
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
