// Rows of a table, gathered by index and summed by index.
//
// The rows lie in no order that hardware foresees, so the lines of a row to come are fetched while one is moved. 4096 of 10000
// rows of 1024 floats took 1.43 ms by memcpy, 1.00 with stores around the caches and 0.67 with both, as fast as a plain copy of
// as much; 1024 rows of 256, which stay in the third-level cache, 43 us by memcpy and 27 so.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// How many rows ahead: some pages of memory, and the next row at least. (Of 1024 floats, three here: one took
// 1.05 ms, two 0.88, four 0.84.)
template <class T>
FASTNN_INLINE Index rows_ahead(Index cols) {
  return 1 + 12288 / (cols * static_cast<Index>(sizeof(T)) + 1);
}

// y[i] = f(i, lanes), and the lines of `next` are fetched. NumPy's rows seldom begin at a line, so that their end is on one more:
// without that one, 4096 rows of 1024 took 0.85 ms instead of 0.65.
template <class T, class F>
FASTNN_INLINE void each_number(const T* next, Index n, T* y, bool around, F&& f) {
  __builtin_prefetch(next + n - 1);
  const auto move = [&](Index i, auto lanes) FASTNN_LAMBDA {
    __builtin_prefetch(next + i);
    store(y + i, f(i, lanes), lanes, around);
  };
  if (around)
    each_line<T>(y, n, move);
  else
    each_vector<T>(n, move);  // 4096 rows of 16 floats take 15 us so, 20 by lines
}

template <class T>
void gather_rows(const T* w, Index w_row, const int64_t* index, Index n, Index cols, T* y, bool around) {
  const Index ahead = rows_ahead<T>(cols);
  for (Index i = 0; i < n; ++i) {
    const T* row = w + index[i] * w_row;
    each_number(w + index[smaller(i + ahead, n - 1)] * w_row, cols, y + i * cols, around,
                [&](Index j, auto lanes) FASTNN_LAMBDA { return load(row + j, lanes); });
  }
  stream_end();
}

template <class T>
void sum_rows(const T* x, const Index* positions, const Index* starts, Index n, Index cols, T* y, bool around) {
  const Index ahead = rows_ahead<T>(cols), last = starts[n] - 1;
  const auto row = [&](Index p) { return x + positions[smaller(p, last)] * cols; };
  for (Index r = 0; r < n; ++r) {
    const Index begin = starts[r], count = starts[r + 1] - begin;
    T* sum = y + r * cols;
    const T *a = row(begin), *b = row(begin + 1);
    if (count == 1)
      each_number(row(begin + ahead), cols, sum, around, [&](Index j, auto lanes) FASTNN_LAMBDA { return load(a + j, lanes); });
    else
      each_number(row(begin + 1 + ahead), cols, sum, around && count == 2,
                  [&](Index j, auto lanes) FASTNN_LAMBDA { return load(a + j, lanes) + load(b + j, lanes); });
    for (Index p = begin + 2; p < begin + count; ++p) {
      const T* more = row(p);
      each_number(row(p + ahead), cols, sum, false,
                  [&](Index j, auto lanes) FASTNN_LAMBDA { return load(sum + j, lanes) + load(more + j, lanes); });
    }
  }
  stream_end();
}

// The widest part of a row that stays in registers while its terms are added up.
constexpr int widest_part() {
  const int most = (kRegisters - 4) / kRegs;
  return most >= 8 ? 8 : most >= 4 ? 4 : 2;
}

// The terms of one row of a sum, and how many there are from its first on to the last of all rows.
template <class T>
struct Terms {
  const T* values;
  const int64_t* index;
  Index count, left;
};

// N vectors of a row, the last of which has `lanes`. `ahead`: how many numbers of the rows to come are to be fetched meanwhile.
// (20000 terms of 128 floats from a table of 50000 rows took 0.61 ms without, and 0.33 so; 0.40 with six rows ahead.)
template <int N, class T, class Lanes>
FASTNN_INLINE void add_terms(const T* w, Index w_row, const Terms<T>& t, Index ahead, const T* bias, T* y, Lanes lanes) {
  constexpr int L = kLanes<T>;
  Vec<T> acc[N];
  FASTNN_EACH (v, N - 1) acc[v] = bias ? load(bias + v * L) : set1(T(0));
  acc[N - 1] = bias ? load(bias + (N - 1) * L, lanes) : set1(T(0));
  const Index rows = rows_ahead<T>(ahead);
  for (Index e = 0; e < t.count; ++e) {
    const T* next = w + t.index[smaller(e + rows, t.left - 1)] * w_row;
    for (Index j = 0; j < ahead; j += L) __builtin_prefetch(next + j);
    const T* row = w + t.index[e] * w_row;
    const Vec<T> x = set1(t.values[e]);
    FASTNN_EACH (v, N - 1) acc[v] = fma(x, load(row + v * L), acc[v]);
    acc[N - 1] = fma(x, load(row + (N - 1) * L, lanes), acc[N - 1]);
  }
  FASTNN_EACH (v, N - 1) store(y + v * L, acc[v]);
  store(y + (N - 1) * L, acc[N - 1], lanes);
}

// What is left of a row, of which there are more than N - 1 vectors or N is 1.
template <int N, class T>
void add_terms_to(const T* w, Index w_row, const Terms<T>& t, Index cols, Index ahead, const T* bias, T* y) {
  constexpr int L = kLanes<T>;
  if (cols >= N * L) return add_terms<N>(w, w_row, t, ahead, bias, y, All{});
  if constexpr (N > 1)
    if (cols <= (N - 1) * L) return add_terms_to<N - 1>(w, w_row, t, cols, ahead, bias, y);
  add_terms<N>(w, w_row, t, ahead, bias, y, First{static_cast<int>(cols - (N - 1) * L)});
}

template <class T>
void weighted_rows(const Matrix<const T>& w, const T* values, const int64_t* index, const Index* starts, Index n, const T* bias,
                   T* y) {
  constexpr Index kWidth = widest_part() * kLanes<T>;
  for (Index i = 0; i < n; ++i) {
    const Index first = starts[i];
    const Terms<T> terms{values + first, index + first, starts[i + 1] - first, starts[n] - first};
    for (Index j = 0; j < w.cols; j += kWidth)
      add_terms_to<widest_part()>(w.data + j, w.row_stride, terms, w.cols - j, j ? 0 : w.cols, bias ? bias + j : nullptr,
                                  y + i * w.cols + j);
  }
}

}  // namespace

template <class T>
void fill_rows(Kernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.sum_rows = sum_rows<T>;
  table.weighted_rows = weighted_rows<T>;
}
template void fill_rows(Kernels<float>&);
template void fill_rows(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
