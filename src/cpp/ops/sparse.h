#pragma once
// Products with a matrix of few entries, row after row of which these are kept, and the update of a table the gradient of which
// is zero in most rows.
#include <vector>

#include "ops/optimizers.h"

namespace fastnn::ops {

// Entries [starts[i], starts[i + 1]) are those of row i: values, and the columns in which they are, ascending.
template <class T>
struct SparseRows {
  Index rows;
  const Index* starts;
  const int64_t* columns;
  const T* values;
  Index entries() const noexcept { return starts[rows]; }
};

// y = x w (+ bias): the bits of a dense product whose elements are chains of fma. The rows of w are contiguous.
template <class T>
void sparse_product(const SparseRows<T>& x, const Matrix<const T>& w, const T* bias, T* y);

// The rows of the transpose that are not empty, with their entries in order of the columns.
template <class T>
struct SparseColumns {
  std::vector<int64_t> rows, columns;
  std::vector<Index> starts;
  std::vector<T> values;
};
template <class T>
void transpose(const SparseRows<T>& x, SparseColumns<T>& to);

// A table of rows of `dim` numbers with the optimizer's state, and the number of the last update that each row has had.
template <class T>
struct Table {
  T *p, *s1, *s2;  // null where the optimizer has no such state
  Index rows, dim;
  int64_t* updates;
};

// Does, row by row, what is missing of updates up to rule.step for a gradient of zero: for the rows that are named (distinct), or
// all. A row that was left out while others were updated is read and written once for any number of them.
template <class T>
void catch_up(const UpdateRule& rule, const Table<T>& table, const int64_t* rows, Index count);

}  // namespace fastnn::ops
