// C = A B (+ bias) for a few rows of A, or of B, at the speed at which B can be read, or C written: once, row by row. An element
// is the same chain of fma as in gemm.cpp.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

constexpr int kRows = 4;  // of A, at most
// Rows of B added to C at a time: their factors stay in registers. (512x784 from one row: 4 rows 1.05 times as long as 8, 16 the
// same.)
constexpr int depth_of(int rows) {
  const int all = (kRegisters - 2 - kRegs * (rows + 1)) / rows;
  return all > 8 ? 8 : all < 2 ? 2 : all;
}
// Bytes ahead in each of those rows, of which the hardware follows too few: 2048x2048 from the third-level cache rose from 52 to
// 62 GB/s (the next rows instead: 47).
constexpr Index kAhead = 512;

// The product of columns [p, p + R) of A and those rows of B, which are contiguous, joins C.
template <int M, int R, class T>
void add_rows(const GemmBlock<T>& g, Index p) {
  Vec<T> x[M][R];
  FASTNN_EACH (i, M)
    FASTNN_EACH (r, R) x[i][r] = set1(g.a[i * g.a_row + (p + r) * g.a_col]);
  const T* b = g.b + p * g.b_row;
  each_vector<T>(g.n, [&](Index j, auto lanes) FASTNN_LAMBDA {
    Vec<T> acc[M];
    if (p == 0) {
      const Vec<T> bias = g.bias ? load(g.bias + j, lanes) : set1(T(0));
      FASTNN_EACH (i, M) acc[i] = bias;
    } else {
      FASTNN_EACH (i, M) acc[i] = load(g.c + i * g.c_row + j, lanes);
    }
    FASTNN_EACH (r, R) {
      const T* from = b + r * g.b_row + j;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead);
      const Vec<T> row = load(from, lanes);
      FASTNN_EACH (i, M) acc[i] = fma(x[i][r], row, acc[i]);
    }
    FASTNN_EACH (i, M) store(g.c + i * g.c_row + j, acc[i], lanes);
  });
}
template <int M, int R, class T>
void along_rows(const GemmBlock<T>& g, Index p) {
  for (; p + R <= g.k; p += R) add_rows<M, R>(g, p);
  if constexpr (R > 1)
    if (p < g.k) along_rows<M, R - 1>(g, p);
}

// acc += x times a square of B, `width` columns of `depth` numbers: all there are, or fewer.
template <int M, class T>
FASTNN_INLINE void add_square(const T* b, Index column, const T* x, Index x_row, Index x_col, Reg<T> (&acc)[M]) {
  constexpr int S = kRegLanes<T>;
  Reg<T> square[S];
  FASTNN_EACH (s, S) __builtin_memcpy(&square[s], b + s * column, sizeof square[s]);
  turn(square);
  FASTNN_EACH (s, S)
    FASTNN_EACH (i, M) acc[i] = fma(x[i * x_row + s * x_col] - Reg<T>{}, square[s], acc[i]);
}
template <int M, class T>
void add_part_of_square(const T* b, Index column, int width, int depth, const T* x, Index x_row, Index x_col, Reg<T> (&acc)[M]) {
  constexpr int S = kRegLanes<T>;
  Reg<T> square[S] = {};
  FASTNN_EACH (s, S)
    if (s < width) load_first(b + s * column, depth, square[s]);
  turn(square);
  FASTNN_EACH (s, S)
    if (s < depth)
      FASTNN_EACH (i, M) acc[i] = fma(x[i * x_row + s * x_col] - Reg<T>{}, square[s], acc[i]);
}

// Squares of a B whose columns are contiguous, `column` apart, are turned in registers: a column gives up a whole line at a time.
// What limits is the chain of fma, 64 cycles a square, which the shuffles of the next square hardly overlap: 55 GB/s. (Quarters
// of lines, gathered as they are loaded, need half the shuffles and cost as much; where columns are pages apart they evict each
// other's lines: 2048x2048 took 1.7 times as long. Two or four chains at a time: 0 to 3 % faster in the first-level cache, slower
// beyond.)
template <int M, class T>
void down_columns(const GemmBlock<T>& g) {
  constexpr int L = kLanes<T>, S = kRegLanes<T>;
  const Index column = g.b_vector / L;
  for (Index next = 0; next < g.n; next += L) {
    const Index j = next + L > g.n && g.n > L ? g.n - L : next;  // the last columns overlap those before
    const int width = static_cast<int>(smaller(L, g.n));
    const First lanes{width};
    const bool whole = width == L;
    const T* b = g.b + j * column;
    Vec<T> row = g.bias ? whole ? load(g.bias + j) : load(g.bias + j, lanes) : set1(T(0));
    Reg<T> acc[kRegs][M];
    FASTNN_EACH_REG (v)
      FASTNN_EACH (i, M) acc[v][i] = row.r[v];
    Index p = 0;
    if (whole)
      for (; p + S <= g.k; p += S)
        FASTNN_EACH_REG (v) add_square(b + v * S * column + p, column, g.a + p * g.a_col, g.a_row, g.a_col, acc[v]);
    for (; p < g.k; p += S)
      for (int v = 0; v < kRegs && v * S < width; ++v)
        add_part_of_square(b + v * S * column + p, column, width - v * S, static_cast<int>(smaller(S, g.k - p)),
                           g.a + p * g.a_col, g.a_row, g.a_col, acc[v]);
    FASTNN_EACH (i, M) {
      FASTNN_EACH_REG (v) row.r[v] = acc[v][i];
      whole ? store(g.c + i * g.c_row + j, row) : store(g.c + i * g.c_row + j, row, lanes);
    }
  }
}

template <int M, class T>
void rows(const GemmBlock<T>& g) {
  g.b_vector == kLanes<T> ? along_rows<M, depth_of(M)>(g, 0) : down_columns<M>(g);
}

template <class T>
void few_rows(const GemmBlock<T>& g) {
  switch (g.m) {
    case 1:
      return rows<1>(g);
    case 2:
      return rows<2>(g);
    case 3:
      return rows<3>(g);
    case kRows:
      return rows<kRows>(g);
  }
}

}  // namespace

template <class T>
void fill_few_rows(Kernels<T>& table) {
  table.few_rows = few_rows<T>;
  table.few = kRows;
  table.shallow = depth_of(kRows);
}
template void fill_few_rows(Kernels<float>&);
template void fill_few_rows(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
