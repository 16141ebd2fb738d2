#pragma once
// Rows of a table W (V, D), gathered by index and summed back by index.
#include <vector>

#include "core/types.h"

namespace fastnn::ops {

// y[i] = W[index[i]]; the rows of W are contiguous. `around` the caches go the stores of what is too large for them, here as
// below.
template <class T>
void copy_rows(const Matrix<const T>& w, const int64_t* index, Index n, T* y, bool around) noexcept;
// The same, by a team.
template <class T>
void gather_rows(const Matrix<const T>& w, const int64_t* index, Index n, T* y);

// The distinct indices in ascending order, and for each the positions where it occurs, in order of occurrence:
// positions[starts[r] .. starts[r + 1]) belong to rows[r].
struct Occurrences {
  std::vector<int64_t> rows;
  std::vector<Index> positions, starts;
  std::vector<Index> sorted;  // scratch

  void reserve(Index n);  // for n positions
};
void occurrences_of(const int64_t* index, Index n, Occurrences& o);  // allocates nothing that is reserved

// values[r] = the sum of dy over the positions of row r, in order of occurrence, for r in [begin, end).
template <class T>
void sum_rows(const Occurrences& o, Index begin, Index end, const T* dy, Index dim, T* values, bool around) noexcept;
// All rows, by a team.
template <class T>
void sum_rows(const Occurrences& o, const T* dy, Index dim, T* values);

}  // namespace fastnn::ops
