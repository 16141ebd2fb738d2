#include "ops/sparse.h"

#include <algorithm>

#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/embedding.h"

namespace fastnn::ops {

// Rows are shared by their entries: of a transpose the first may have most of them.
template <class T>
void sparse_product(const SparseRows<T>& x, const Matrix<const T>& w, const T* bias, T* y) {
  const Index n = x.entries() + x.rows;
  const auto row_at = [&](Index work) {  // the first before which there are as many rows and entries
    Index low = 0, high = x.rows;
    while (low < high) {
      const Index middle = (low + high) / 2;
      if (x.starts[middle] + middle < work)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  run_team(crew_for(cost::elements<T>(n * w.cols, cost::kMove)), [&](Team& team) {
    team.each(n, 1, [&](Index begin, Index end) {
      const Index first = row_at(begin), last = end == n ? x.rows : row_at(end);
      if (first < last)
        kernels<T>().weighted_rows(w, x.values, x.columns, x.starts + first, last - first, bias, y + first * w.cols);
    });
  });
}

template <class T>
void transpose(const SparseRows<T>& x, SparseColumns<T>& to) {
  const Index n = x.entries();
  Occurrences found;
  occurrences_of(x.columns, n, found);
  std::vector<int64_t> row_of(static_cast<std::size_t>(n));
  for (Index i = 0; i < x.rows; ++i) std::fill(row_of.begin() + x.starts[i], row_of.begin() + x.starts[i + 1], i);
  to.columns.resize(static_cast<std::size_t>(n));
  to.values.resize(static_cast<std::size_t>(n));
  for (std::size_t e = 0; e < found.positions.size(); ++e) {
    to.columns[e] = row_of[static_cast<std::size_t>(found.positions[e])];
    to.values[e] = x.values[found.positions[e]];
  }
  to.rows.swap(found.rows);
  to.starts.swap(found.starts);
}

template <class T>
void catch_up(const UpdateRule& rule, const Table<T>& table, const int64_t* rows, Index count) {
  const auto row_of = [&](Index i) { return rows ? rows[i] : i; };
  int64_t done = rule.step;
  Index missing = 0;
  for (Index i = 0; i < count; ++i) {
    const int64_t updates = table.updates[row_of(i)];
    done = std::min(done, updates);
    missing += std::max<Index>(rule.step - updates, 0);
  }
  if (missing == 0) return;
  std::vector<OptimizerStep<T>> steps;
  for (int64_t step = done + 1; step <= rule.step; ++step) {
    UpdateRule then = rule;
    then.step = step;
    steps.push_back(optimizer_step<T>(then));
  }
  const std::vector<T> zeros(static_cast<std::size_t>(table.dim));
  const auto kernel = kernels<T>().optimizers[static_cast<int>(rule.kind)];
  run_team(crew_for(cost::elements<T>(missing * table.dim, cost::kUpdate)), [&](Team& team) {
    team.each(count, 1, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index row = row_of(i), at = row * table.dim;
        for (int64_t& step = table.updates[row]; step < rule.step; ++step)
          kernel(steps[static_cast<std::size_t>(step - done)], table.dim, zeros.data(), table.p + at,
                 table.s1 ? table.s1 + at : nullptr, table.s2 ? table.s2 + at : nullptr);
      }
    });
  });
}

#define FASTNN_INSTANTIATE(T)                                                               \
  template void sparse_product(const SparseRows<T>&, const Matrix<const T>&, const T*, T*); \
  template void transpose(const SparseRows<T>&, SparseColumns<T>&);                         \
  template void catch_up(const UpdateRule&, const Table<T>&, const int64_t*, Index);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
