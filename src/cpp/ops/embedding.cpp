#include "ops/embedding.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"

namespace fastnn::ops {

template <class T>
void gather_rows(const Matrix<const T>& w, const int64_t* index, Index n, T* y) {
  const bool around = cost::leaves_caches<T>(2 * n * w.cols);
  run_team(members_for(cost::elements<T>(n * w.cols, cost::kMove)), [&](Team& team) {
    team.each(n, 4, [&](Index begin, Index end) { copy_rows(w, index + begin, end - begin, y + begin * w.cols, around); });
  });
}
template <class T>
void copy_rows(const Matrix<const T>& w, const int64_t* index, Index n, T* y, bool around) noexcept {
  kernels<T>().gather_rows(w.data, w.row_stride, index, n, w.cols, y, around);
}

namespace {

constexpr int kLeastBits = 4, kMostBits = 11;  // of a digit, whose counters stay in the first-level cache

// Positions sorted by bits [shift, shift + width) of their indices; equal ones stay in order.
void sort_by_digit(const int64_t* index, int shift, int width, const std::vector<Index>& from, std::vector<Index>& to) {
  Index place[1 << kMostBits];
  const Index digits = Index{1} << width;
  const auto digit = [&](Index position) { return (index[position] >> shift) & (digits - 1); };
  std::fill_n(place, digits, Index{0});
  for (const Index position : from) ++place[digit(position)];
  Index sum = 0;
  for (Index d = 0; d < digits; ++d) sum += std::exchange(place[d], sum);
  for (const Index position : from) to[static_cast<std::size_t>(place[digit(position)]++)] = position;
}

int bits_of(uint64_t n) { return n ? 64 - __builtin_clzll(n) : 0; }

}  // namespace

void Occurrences::reserve(Index n) {
  rows.reserve(static_cast<std::size_t>(n));
  starts.reserve(static_cast<std::size_t>(n) + 1);
  positions.reserve(static_cast<std::size_t>(n));
  sorted.reserve(static_cast<std::size_t>(n));
}

// By std::sort, the gradient of 4096 indices below 10000, a number each, took 290 us; so, 50.
void occurrences_of(const int64_t* index, Index n, Occurrences& o) {
  o.reserve(n);
  o.rows.clear();
  o.starts.clear();
  o.positions.resize(static_cast<std::size_t>(n));
  o.sorted.resize(static_cast<std::size_t>(n));
  std::iota(o.positions.begin(), o.positions.end(), Index{0});
  uint64_t differing = 0;
  for (Index i = 0; i < n; ++i) differing |= static_cast<uint64_t>(index[i] ^ index[0]);
  const int bits = bits_of(differing), most = std::clamp(bits_of(static_cast<uint64_t>(n)), kLeastBits, kMostBits);
  const int digits = (bits + most - 1) / most;
  for (int d = 0; d < digits; ++d) {
    const int shift = bits * d / digits, end = bits * (d + 1) / digits;
    sort_by_digit(index, shift, end - shift, o.positions, o.sorted);
    o.positions.swap(o.sorted);
  }
  for (Index i = 0; i < n; ++i) {
    const int64_t row = index[o.positions[static_cast<std::size_t>(i)]];
    if (!o.rows.empty() && o.rows.back() == row) continue;
    o.rows.push_back(row);
    o.starts.push_back(i);
  }
  o.starts.push_back(n);
}

template <class T>
void sum_rows(const Occurrences& o, Index begin, Index end, const T* dy, Index dim, T* values, bool around) noexcept {
  kernels<T>().sum_rows(dy, o.positions.data(), o.starts.data() + begin, end - begin, dim, values + begin * dim, around);
}
template <class T>
void sum_rows(const Occurrences& o, const T* dy, Index dim, T* values) {
  const Index rows = static_cast<Index>(o.rows.size()), n = static_cast<Index>(o.positions.size());
  const bool around = cost::leaves_caches<T>((n + rows) * dim);
  run_team(members_for(cost::elements<T>(n * dim, cost::kMove)), [&](Team& team) {
    team.each(rows, 1, [&](Index begin, Index end) { sum_rows(o, begin, end, dy, dim, values, around); });
  });
}

#define FASTNN_INSTANTIATE(T)                                                                   \
  template void gather_rows(const Matrix<const T>&, const int64_t*, Index, T*);                 \
  template void copy_rows(const Matrix<const T>&, const int64_t*, Index, T*, bool) noexcept;    \
  template void sum_rows(const Occurrences&, Index, Index, const T*, Index, T*, bool) noexcept; \
  template void sum_rows(const Occurrences&, const T*, Index, T*);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
