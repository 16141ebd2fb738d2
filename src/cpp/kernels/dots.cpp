// C = X Y^T for a Y of few rows, as dot products: where C has too few columns to fill vectors, the lanes run along the inner
// dimension instead. An element is the sum of its lanes' chains, combined in reduce()'s order.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// A tile of R rows of X and C rows of Y has R*C accumulators, C vectors of Y and one of X in registers.
constexpr int kTileColumns = kRegs == 1 ? 4 : 2;
constexpr int tile_rows(int columns) {
  const int rows = (kRegisters / kRegs - columns - 1) / columns;
  return rows < 1 ? 1 : rows > 8 ? 8 : rows;
}

// out[e] = reduce_sum(acc[e]) for all E vectors at once: fold each to one block of S lanes, then transpose S of them and add.
template <int E, class T>
FASTNN_INLINE void reduce_all(const Vec<T> (&acc)[E], T* out) {
  constexpr int S = kTransposeBlock<T>, kRounded = (E + S - 1) / S * S;
  typedef T Block __attribute__((vector_size(16)));
  alignas(64) T lanes[kLanes<T>];
  alignas(64) T folded[kRounded * S] = {}, columns[S * S];
  FASTNN_EACH (e, E) {
    store(lanes, acc[e]);
    Block q[4];
    __builtin_memcpy(q, lanes, sizeof q);
    const Block sum = (q[0] + q[2]) + (q[1] + q[3]);
    __builtin_memcpy(folded + e * S, &sum, sizeof sum);
  }
  for (int e = 0; e < kRounded; e += S) {
    transpose_block(folded + e * S, S, columns, S);
    Block c[S];
    __builtin_memcpy(c, columns, sizeof c);
    Block sum;
    if constexpr (S == 4)
      sum = (c[0] + c[2]) + (c[1] + c[3]);
    else
      sum = c[0] + c[1];
    __builtin_memcpy(out + e, &sum, sizeof sum);
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
  T sums[R * C + 4];
  reduce_all(acc, sums);
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j)
      d.c[(row + i) * d.c_row + column + j] = d.bias ? d.bias[column + j] + sums[i * C + j] : sums[i * C + j];
}

// All rows for C columns: tiles of the most rows that fit, then of one.
template <int C, class T>
void dot_columns(const DotRows<T>& d, Index column) {
  constexpr int R = tile_rows(C);
  Index row = 0;
  for (; row + R <= d.rows; row += R) dot_tile<R, C>(d, row, column);
  for (; row < d.rows; ++row) dot_tile<1, C>(d, row, column);
}

// The same bits for a Y that lies across, y(j, p) = y[p*y_row + j], with at most a vector of columns: an accumulator for each
// lane of the dot product, over whose columns the vector's lanes run. For few rows this costs less than turning Y.
template <class T>
void dot_across(const DotRows<T>& d) {
  constexpr int L = kLanes<T>;
  const First some{static_cast<int>(d.columns)};
  for (Index i = 0; i < d.rows; ++i) {
    const T* x = d.x + i * d.x_row;
    Vec<T> acc[L];
    FASTNN_EACH (l, L) acc[l] = set1(T(0));
    Index p = 0;
    for (; p + L <= d.k; p += L)
      FASTNN_EACH (l, L) acc[l] = fma(set1(x[p + l]), load(d.y + (p + l) * d.y_row, some), acc[l]);
    FASTNN_EACH (l, L)
      if (p + l < d.k) acc[l] = fma(set1(x[p + l]), load(d.y + (p + l) * d.y_row, some), acc[l]);
    for (int n = L / 2; n > 0; n /= 2)
      for (int l = 0; l < n; ++l) acc[l] = acc[l] + acc[l + n];
    store(d.c + i * d.c_row, d.bias ? load(d.bias, some) + acc[0] : acc[0], some);
  }
}

template <class T>
void dot_rows(const DotRows<T>& d) {
  Index column = 0;
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
