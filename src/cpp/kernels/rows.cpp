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

}  // namespace

template <class T>
void fill_rows(Kernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.sum_rows = sum_rows<T>;
}
template void fill_rows(Kernels<float>&);
template void fill_rows(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
