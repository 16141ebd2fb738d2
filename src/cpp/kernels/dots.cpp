// C = X Y^T for a Y of few rows, as dot products: where C has too few columns to fill vectors, the lanes run along the inner
// dimension instead. An element is the sum of its lanes' chains, combined in reduce()'s order.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// A tile of R rows of X and C rows of Y has R*C accumulators, C vectors of Y and one of X in registers. Ten classes are common:
// they are cut into 5 + 5 rather than 4 + 4 + 2.
constexpr int kTileColumns = kRegs == 1 ? 4 : 2;
constexpr int tile_rows(int columns) {
  // Sums are made 16 at a time: 8 rows of 3 columns took 1.2 times as long as 5. (But 3 rows of 5 columns, twice as long as 5.)
  if (kRegs == 1 && columns < 5) return 16 / columns;
  const int rows = (kRegisters / kRegs - columns - 1) / columns;
  return rows < 1 ? 1 : rows > 8 ? 8 : rows;
}

// out[e] = reduce_sum(acc[e]) for all E vectors at once, and room for 15 more numbers.
template <int E, class T>
FASTNN_INLINE void reduce_all(const Vec<T> (&acc)[E], T* out) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _Pragma("GCC unroll 4") for (int e = 0; e < E; e += 16) {
      Reg<T> row[16] = {};
      FASTNN_EACH (s, 16)
        if (e + s < E) row[s] = acc[e + s].r[0];
      sum_lanes(row, out + e);
    }
    return;
  }
#endif
  constexpr int S = kTransposeBlock<T>;
  _Pragma("GCC unroll 8") for (int e = 0; e < E; e += S) {
    Quarter<T> folded[S];
    FASTNN_EACH (s, S) folded[s] = e + s < E ? fold(acc[e + s < E ? e + s : 0].r) : Quarter<T>{};
    const Quarter<T> sums = sum_rows(folded);
    __builtin_memcpy(out + e, &sums, sizeof sums);
  }
}

template <int R, int C, class T>
void dot_tile(const DotRows<T>& d, Index row, Index column) {
  static_assert(R * C + C + 1 <= kRegisters / kRegs || R == 1, "the tile must fit the registers");
  Vec<T> acc[R * C];
  FASTNN_EACH (e, R * C) acc[e] = set1(T(0));
  const T *x = d.x + row * d.x_row, *y = d.y + column * d.y_row;
  each_vector<T>(d.k, [&](Index p, auto lanes) FASTNN_LAMBDA {
    Vec<T> b[C];
    FASTNN_EACH (j, C) b[j] = load(y + j * d.y_row + p, lanes);
    FASTNN_EACH (i, R) {
      const Vec<T> a = load(x + i * d.x_row + p, lanes);
      FASTNN_EACH (j, C) acc[i * C + j] = fma(a, b[j], acc[i * C + j]);
    }
  });
  T sums[R * C + 16];
  reduce_all(acc, sums);
  if (d.bias)
    FASTNN_EACH (i, R)
      FASTNN_EACH (j, C) sums[i * C + j] = d.bias[column + j] + sums[i * C + j];
  // By bytes: a vector read from an odd place of those just written waits until they have left the store buffer.
  FASTNN_EACH (i, R) __builtin_memcpy(d.c + (row + i) * d.c_row + column, sums + i * C, C * sizeof(T));
}

// All rows for C columns: tiles of the most rows that fit, then of one.
template <int C, class T>
void dot_columns(const DotRows<T>& d, Index column) {
  constexpr int R = tile_rows(C);
  Index row = 0;
  for (; row + R <= d.rows; row += R) dot_tile<R, C>(d, row, column);
  for (; row < d.rows; ++row) dot_tile<1, C>(d, row, column);
}

// The same bits for a Y that lies across, y(j, p) = y[p*y_row + j]: an accumulator for each lane of the dot product, while the
// vector's own lanes run along the columns. For few rows this costs less than turning Y.
template <class T>
void dot_across(const DotRows<T>& d) {
  constexpr int L = kLanes<T>;
  for (Index i = 0; i < d.rows; ++i) {
    const T* x = d.x + i * d.x_row;
    each_vector<T>(d.columns, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const T* y = d.y + j;
      Vec<T> acc[L];
      FASTNN_EACH (l, L) acc[l] = set1(T(0));
      Index p = 0;
      for (; p + L <= d.k; p += L)
        FASTNN_EACH (l, L) acc[l] = fma(set1(x[p + l]), load(y + (p + l) * d.y_row, lanes), acc[l]);
      FASTNN_EACH (l, L)
        if (p + l < d.k) acc[l] = fma(set1(x[p + l]), load(y + (p + l) * d.y_row, lanes), acc[l]);
      for (int n = L / 2; n > 0; n /= 2)
        for (int l = 0; l < n; ++l) acc[l] = acc[l] + acc[l + n];
      store(d.c + i * d.c_row + j, d.bias ? load(d.bias + j, lanes) + acc[0] : acc[0], lanes);
    });
  }
}

template <class T>
void dot_rows(const DotRows<T>& d) {
  Index column = 0;
  if constexpr (kRegs == 1)
    if (d.columns % 5 == 0)
      for (; column < d.columns; column += 5) dot_columns<5>(d, column);
  for (; column + kTileColumns <= d.columns; column += kTileColumns) dot_columns<kTileColumns>(d, column);
  switch (d.columns - column) {
    case 3:
      if constexpr (kTileColumns > 3) dot_columns<3>(d, column);
      break;
    case 2:
      if constexpr (kTileColumns > 2) dot_columns<2>(d, column);
      break;
    case 1:
      dot_columns<1>(d, column);
      break;
  }
}

}  // namespace

template <class T>
void fill_dots(Kernels<T>& table) {
  table.dot_rows = dot_rows<T>;
  table.dot_across = dot_across<T>;
}
template void fill_dots(Kernels<float>&);
template void fill_dots(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
