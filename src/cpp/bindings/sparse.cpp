#include "ops/sparse.h"

#include <algorithm>
#include <string>

#include "bindings/arrays.h"
#include "bindings/in_use.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

// A contiguous int64 vector of n numbers (of any, if n < 0), copied: the caller's may change once it is checked.
py::object integers(const char* name, py::handle array, Index n) {
  if (!is_array(array) || !is_i64(array) || rank(array) != 1 || (n >= 0 && extent(array, 0) != n))
    refuse_type(std::string(name) + " must be an int64 array of shape (" + (n < 0 ? "n" : std::to_string(n)) + ",), got " +
                describe(array));
  return copied(array);
}

// Rows of entries, checked, and what they are viewed in.
template <class T>
struct Rows {
  Rows(py::handle given_values, py::handle given_columns, py::handle given_starts, Index width)
      : columns(integers("columns", given_columns, -1)), starts(integers("starts", given_starts, -1)) {
    const Index n = extent(columns, 0), ends = extent(starts, 0);
    values = is_array(given_values) ? contiguous(given_values) : py::reinterpret_borrow<py::object>(given_values);
    rows.values = vector<const T>("values", values, n);
    rows.columns = data_of<const int64_t>(columns);
    static_assert(sizeof(Index) == sizeof(int64_t));
    rows.starts = data_of<const Index>(starts);
    rows.rows = ends - 1;
    bool ascends = ends > 0 && rows.starts[0] == 0 && rows.starts[ends - 1] == n;
    for (Index i = 1; ascends && i < ends; ++i) ascends = rows.starts[i - 1] <= rows.starts[i];
    if (!ascends) refuse("starts must ascend from 0 to the number of entries, " + std::to_string(n));
    for (Index e = 0; e < n; ++e)
      if (rows.columns[e] < 0 || rows.columns[e] >= width)
        refuse("columns must be in [0, " + std::to_string(width) + "), got " + std::to_string(rows.columns[e]));
  }
  py::object values, columns, starts;
  ops::SparseRows<T> rows;
};

template <class T>
py::object product(py::handle values, py::handle columns, py::handle starts, py::handle w, py::handle b, py::handle out) {
  py::object keep;
  const Matrix<const T> weight = contiguous_rows<T>("w", w, keep);
  const Rows<T> x(values, columns, starts, weight.rows);
  const py::object bias = is_array(b) ? contiguous(b) : py::reinterpret_borrow<py::object>(b);
  const T* first = bias.is_none() ? nullptr : vector<const T>("b", bias, weight.cols);
  py::object y = out.is_none() ? new_matrix<T>(x.rows.rows, weight.cols) : py::reinterpret_borrow<py::object>(out);
  const Matrix<T> to = matrix<T>("out", y);
  if (to.rows != x.rows.rows || to.cols != weight.cols || !is_contiguous(y) || extent_of(y).meets(extent_of(keep)))
    refuse("out must be a contiguous array of its own of shape (" + std::to_string(x.rows.rows) + ", " +
           std::to_string(weight.cols) + "), got " + describe(y));
  unlocked(cost::elements<T>(x.rows.entries() * weight.cols, cost::kMove),
           [&] { ops::sparse_product(x.rows, weight, first, to.data); });
  return y;
}

template <class V>
py::object array_of(const std::vector<V>& numbers) {
  using T = std::conditional_t<std::is_integral_v<V>, int64_t, V>;
  py::object array = new_vector<T>(static_cast<Index>(numbers.size()));
  std::copy(numbers.begin(), numbers.end(), data_of<T>(array));
  return array;
}

template <class T>
py::tuple transposed(py::handle values, py::handle columns, py::handle starts, Index width) {
  const Rows<T> x(values, columns, starts, width);
  ops::SparseColumns<T> found;
  unlocked(static_cast<double>(x.rows.entries()) * 10, [&] { ops::transpose(x.rows, found); });
  return py::make_tuple(array_of(found.rows), array_of(found.values), array_of(found.columns), array_of(found.starts));
}

template <class T>
void catch_up(InUse& lock, const ops::UpdateRule& rule, py::handle p, const py::tuple& state, py::handle updates,
              py::handle rows) {
  const Hold hold(lock);
  const Matrix<T> table = matrix<T>("p", p);
  if (state.size() != static_cast<std::size_t>(states_of(rule.kind))) refuse("state must be what the optimizer has of it");
  T* memory[2] = {};
  for (std::size_t i = 0; i < state.size(); ++i) {
    const Matrix<T> of = matrix<T>("state", state[i]);
    if (!is_contiguous(state[i]) || !same_shape(state[i], p)) refuse("state must be contiguous and have the shape of p");
    memory[i] = of.data;
  }
  if (!is_contiguous(p)) refuse("p must be contiguous, got " + describe(p));
  if (!is_array(updates) || !is_i64(updates) || rank(updates) != 1 || extent(updates, 0) != table.rows ||
      !is_contiguous(updates) || !is_writeable(updates))
    refuse_type("updates must be a contiguous int64 array of as many numbers as p has rows, got " + describe(updates));
  const py::object named = rows.is_none() ? py::object(py::none()) : integers("rows", rows, -1);
  const int64_t* chosen = rows.is_none() ? nullptr : data_of<const int64_t>(named);
  const Index count = chosen ? extent(named, 0) : table.rows;
  for (Index i = 0; chosen && i < count; ++i)
    if (chosen[i] < 0 || chosen[i] >= table.rows || (i > 0 && chosen[i] <= chosen[i - 1]))
      refuse("rows must ascend within [0, " + std::to_string(table.rows) + "), got " + std::to_string(chosen[i]));
  const ops::Table<T> all{table.data, memory[0], memory[1], table.rows, table.cols, data_of<int64_t>(updates)};
  for (Index i = 0; i < count; ++i)
    if (all.updates[chosen ? chosen[i] : i] < 0) refuse("updates must be >= 0");
  unlocked(cost::elements<T>(count * table.cols, cost::kUpdate), [&] { ops::catch_up(rule, all, chosen, count); });
}

}  // namespace

void bind_sparse(py::module_& m) {
  m.def("sparse_product",
        [](py::handle values, py::handle columns, py::handle starts, py::handle w, py::handle b, py::handle out) {
          return by_dtype("w", w, [&](auto type) { return product<decltype(type)>(values, columns, starts, w, b, out); });
        });
  m.def("sparse_transposed", [](py::handle values, py::handle columns, py::handle starts, Index width) {
    return by_dtype("values", values, [&](auto type) { return transposed<decltype(type)>(values, columns, starts, width); });
  });
  m.def("catch_up", [](InUse& lock, int kind, py::handle p, const py::tuple& state, py::handle updates, py::handle rows,
                       double lr, double weight_decay, double beta1, double beta2, double eps, int64_t step) {
    if (kind < 0 || kind >= kOptimizers) refuse("unknown optimizer " + std::to_string(kind));
    const ops::UpdateRule rule{static_cast<Optimizer>(kind), lr, weight_decay, beta1, beta2, eps, step};
    by_dtype("p", p, [&](auto type) { catch_up<decltype(type)>(lock, rule, p, state, updates, rows); });
  });
}

}  // namespace fastnn::bindings
