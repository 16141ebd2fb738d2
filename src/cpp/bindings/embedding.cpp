#include "ops/embedding.h"

#include <algorithm>
#include <vector>

#include "bindings/arrays.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

// Indices as a contiguous int64 array, each within [0, vocabulary): a copy, as the caller's array may change once it is checked.
py::object indices(py::handle x, Index vocabulary) {
  py::object numbers = row_numbers(x);
  const int64_t* p = data_of<const int64_t>(numbers);
  for (Index i = 0, n = size_of(numbers); i < n; ++i)
    if (p[i] < 0 || p[i] >= vocabulary)
      refuse("x must hold row numbers in [0, " + std::to_string(vocabulary) + "), got " + std::to_string(p[i]) +
             " at flat position " + std::to_string(i));
  return numbers;
}

template <class T>
py::tuple forward(py::handle x, py::handle w) {
  py::object keep;
  const Matrix<const T> table = contiguous_rows<T>("W", w, keep);
  py::object numbers = indices(x, table.rows);
  std::vector<Index> shape;
  for (int i = 0; i < rank(numbers); ++i) shape.push_back(extent(numbers, i));
  shape.push_back(table.cols);
  py::object y = new_array(py::dtype::of<T>(), static_cast<int>(shape.size()), shape.data());
  const Index n = size_of(numbers);
  const int64_t* index = data_of<const int64_t>(numbers);
  T* to = data_of<T>(y);
  unlocked(cost::elements<T>(n * table.cols, cost::kMove), [&] { ops::gather_rows(table, index, n, to); });
  return py::make_tuple(std::move(y), std::move(numbers));
}

// (rows, values): the distinct indices in order, and the sums of dout over the places of each.
template <class T>
py::tuple backward(py::handle index, py::handle dout, Index dim) {
  if (!is_array(index) || !is_i64(index) || !is_contiguous(index))
    refuse_type("the saved row numbers must be a contiguous int64 array, got " + describe(index));
  const Index n = size_of(index);
  bool fits = is_array(dout) && is_dtype<T>(dout) && rank(dout) == rank(index) + 1 && extent(dout, rank(index)) == dim;
  for (int i = 0; fits && i < rank(index); ++i) fits = extent(dout, i) == extent(index, i);
  if (!fits)
    refuse("dout must have the shape of the output, " + shape_of(index) + " + (" + std::to_string(dim) + ",), got " +
           describe(dout));
  const py::object dense = contiguous(dout);
  const int64_t* numbers = data_of<const int64_t>(index);
  const double nanoseconds = static_cast<double>(n) * 50 + cost::elements<T>(n * dim, cost::kMove);
  ops::Occurrences found;
  unlocked(nanoseconds, [&] { ops::occurrences_of(numbers, n, found); });
  const Index count = static_cast<Index>(found.rows.size());
  py::object rows = new_array(py::dtype::of<int64_t>(), 1, &count), values = new_matrix<T>(count, dim);
  std::copy(found.rows.begin(), found.rows.end(), data_of<int64_t>(rows));
  const T* dy = data_of<const T>(dense);
  T* to = data_of<T>(values);
  unlocked(nanoseconds, [&] { ops::sum_rows(found, dy, dim, to); });
  return py::make_tuple(std::move(rows), std::move(values));
}

}  // namespace

void bind_embedding(py::module_& m) {
  m.def("embedding_forward",
        [](py::handle x, py::handle w) { return by_dtype("W", w, [&](auto type) { return forward<decltype(type)>(x, w); }); });
  m.def("embedding_backward", [](py::handle index, py::handle dout, Index dim) {
    return by_dtype("dout", dout, [&](auto type) { return backward<decltype(type)>(index, dout, dim); });
  });
}

}  // namespace fastnn::bindings
