#include "ops/embedding.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"

namespace fastnn::ops {

template <class T>
void gather_rows(const Matrix<const T>& w, const int64_t* index, Index n, T* y) {
  run_team(members_for(cost::elements<T>(n * w.cols, cost::kMove)), [&](Team& team) {
    team.share(n, 4, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        std::memcpy(y + i * w.cols, w.data + index[i] * w.row_stride, static_cast<std::size_t>(w.cols) * sizeof(T));
    });
  });
}

void Occurrences::reserve(Index n) {
  rows.reserve(static_cast<std::size_t>(n));
  starts.reserve(static_cast<std::size_t>(n) + 1);
  positions.reserve(static_cast<std::size_t>(n));
}

void occurrences_of(const int64_t* index, Index n, Occurrences& o) {
  o.reserve(n);
  o.rows.clear();
  o.starts.clear();
  o.positions.resize(static_cast<std::size_t>(n));
  std::iota(o.positions.begin(), o.positions.end(), Index{0});
  std::sort(o.positions.begin(), o.positions.end(),
            [index](Index a, Index b) { return index[a] != index[b] ? index[a] < index[b] : a < b; });
  for (Index i = 0; i < n; ++i) {
    const int64_t row = index[o.positions[static_cast<std::size_t>(i)]];
    if (!o.rows.empty() && o.rows.back() == row) continue;
    o.rows.push_back(row);
    o.starts.push_back(i);
  }
  o.starts.push_back(n);
}

template <class T>
void sum_rows(const Occurrences& o, Index begin, Index end, const T* dy, Index dim, T* values) noexcept {
  for (Index r = begin; r < end; ++r) {
    const auto* first = o.positions.data() + o.starts[static_cast<std::size_t>(r)];
    const auto* last = o.positions.data() + o.starts[static_cast<std::size_t>(r) + 1];
    T* sum = values + r * dim;
    std::memcpy(sum, dy + *first * dim, static_cast<std::size_t>(dim) * sizeof(T));
    while (++first != last) kernels<T>().add(dy + *first * dim, dim, sum);
  }
}
template <class T>
void sum_rows(const Occurrences& o, const T* dy, Index dim, T* values) {
  const Index rows = static_cast<Index>(o.rows.size()), n = static_cast<Index>(o.positions.size());
  run_team(members_for(cost::elements<T>(n * dim, cost::kMove)),
           [&](Team& team) { team.share(rows, 1, [&](Index begin, Index end) { sum_rows(o, begin, end, dy, dim, values); }); });
}

#define FASTNN_INSTANTIATE(T)                                                             \
  template void gather_rows(const Matrix<const T>&, const int64_t*, Index, T*);           \
  template void sum_rows(const Occurrences&, Index, Index, const T*, Index, T*) noexcept; \
  template void sum_rows(const Occurrences&, const T*, Index, T*);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
