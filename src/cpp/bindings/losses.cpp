// The losses: labels and weights are checked before anything is computed.
#include "ops/losses.h"

#include <cmath>

#include "bindings/arrays.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

double cost_of(py::handle x) { return cost::elements<float>(size_of(x), cost::kTranscendental); }

// None, or sample weights as float64 (n,) with their sum: finite, not negative, not all zero.
struct Weights {
  py::object array = py::none();
  const double* data = nullptr;
  double sum = 0;
};
Weights weights_of(py::handle weight, Index n) {
  Weights w;
  w.sum = static_cast<double>(n);
  if (weight.is_none()) return w;
  const py::array real = real_array("sample_weight", weight);
  if (rank(real) != 1 || extent(real, 0) != n)
    refuse("sample_weight must have shape (" + std::to_string(n) + ",), one weight a row, got shape " + shape_of(real));
  w.array = real.attr("astype")(py::dtype::of<double>(), py::arg("order") = "C");
  w.data = data_of<const double>(w.array);
  w.sum = 0;
  for (Index i = 0; i < n; ++i) {
    if (!(w.data[i] >= 0) || std::isinf(w.data[i]))
      refuse("sample_weight must hold finite numbers >= 0, got " + std::string(py::str(py::float_(w.data[i]))) + " at position " +
             std::to_string(i));
    w.sum += w.data[i];
  }
  if (!(w.sum > 0) || std::isinf(w.sum)) refuse("sample_weight must have a finite sum > 0, got " + std::to_string(w.sum));
  return w;
}

void check_batch(py::handle x) {
  if (rank(x) < 1 || size_of(x) == 0) refuse("x must be a batch of at least one row and one column, got shape " + shape_of(x));
}

// What forward saved may be in the user's hands too, and have been given another shape there.
void check_unchanged(py::handle y, py::handle labels, py::handle weight) {
  const Index rows = rank(y) > 0 ? extent(y, 0) : 0;
  const bool fits = rank(y) >= 1 && rows > 0 && is_contiguous(y) &&
                    ((rank(y) == 2 && rank(labels) == 1 && extent(labels, 0) == rows) || size_of(labels) == size_of(y)) &&
                    (weight.is_none() || extent(weight, 0) == rows);
  if (!fits) refuse("x, t or y was given another shape after forward: " + shape_of(y));
}

void refuse_labels(py::handle t, py::handle x) {
  refuse_type("t must hold integer class labels of shape (" + std::to_string(extent(x, 0)) +
              ",) or rows of probabilities of shape " + shape_of(x) + ", got " + describe(t));
}

template <class T>
py::tuple softmax_forward(py::handle x, py::handle t, py::handle sample_weight) {
  if (rank(x) != 2) refuse("x must have shape (N, C), got shape " + shape_of(x));
  check_batch(x);
  py::object keep;
  const Matrix<const T> logits = contiguous_rows<T>("x", x, keep);
  const py::array given = py::array::ensure(t);
  if (!given) {
    PyErr_Clear();
    refuse_labels(t, x);
  }
  const char kind = given.dtype().kind();
  const bool integers = kind == 'i' || kind == 'u';
  if (!integers && (given.ndim() == 1 || (kind != 'f' && kind != 'b'))) refuse_labels(given, x);
  if (given.ndim() < 1 || given.ndim() > 2 || extent(given, 0) != logits.rows ||
      (given.ndim() == 2 && extent(given, 1) != logits.cols))
    refuse("t must hold integer class labels of shape (" + std::to_string(logits.rows) + ",) or rows of probabilities of shape " +
           shape_of(x) + ", got shape " + shape_of(given));
  const Weights weights = weights_of(sample_weight, logits.rows);
  py::object labels;
  const bool hard = given.ndim() == 1;
  if (hard) {
    labels = given.attr("astype")(py::dtype::of<int64_t>(), py::arg("order") = "C");
    const int64_t* label = data_of<const int64_t>(labels);
    for (Index i = 0; i < logits.rows; ++i)
      if (label[i] < 0 || label[i] >= logits.cols)
        refuse("t must hold class labels in [0, " + std::to_string(logits.cols) + "), got " + std::to_string(label[i]) +
               " at position " + std::to_string(i));
  } else {
    labels = given.attr("astype")(py::dtype::of<T>(), py::arg("order") = "C");
    const T* label = data_of<const T>(labels);
    for (Index i = 0; i < logits.rows; ++i) {
      double sum = 0;
      bool negative = false;
      for (Index j = 0; j < logits.cols; ++j) {
        const T v = label[i * logits.cols + j];
        negative = negative || v < 0;
        sum += static_cast<double>(v);
      }
      if (negative || !(std::abs(sum - 1) <= 1e-3))
        refuse("t must hold rows of non-negative numbers that sum to 1, but row " + std::to_string(i) + " does not");
    }
  }
  py::object y = new_matrix<T>(logits.rows, logits.cols);
  T* to = data_of<T>(y);
  const double sum = unlocked(cost_of(x), [&] {
    return hard ? ops::softmax_cross_entropy(logits, data_of<const int64_t>(labels), weights.data, to)
                : ops::softmax_cross_entropy(logits, data_of<const T>(labels), weights.data, to);
  });
  return py::make_tuple(sum / weights.sum, std::move(y), std::move(labels), weights.array, 1 / weights.sum);
}

template <class T>
py::object softmax_backward(py::handle y, py::handle labels, py::handle weight, double scale) {
  check_unchanged(y, labels, weight);
  py::object dx = new_like(y);
  const Matrix<T> out = matrix<T>("dx", dx);
  const double* weights = weight.is_none() ? nullptr : data_of<const double>(weight);
  const T* p = data_of<const T>(y);
  unlocked(cost_of(y), [&] {
    if (rank(labels) == 1)
      ops::softmax_cross_entropy_backward(p, data_of<const int64_t>(labels), weights, scale, out);
    else
      ops::weighted_difference(p, data_of<const T>(labels), weights, scale, out);
  });
  return dx;
}

// Without a branch, so that the compiler takes several at a time.
template <class T>
bool all_within_unit(const T* t, Index n) {
  unsigned outside = 0;
  for (Index i = 0; i < n; ++i) outside |= static_cast<unsigned>(!(t[i] >= 0)) | static_cast<unsigned>(!(t[i] <= 1));
  return outside == 0;
}

// x and t of one shape (N, ...); t (N,) fits x (N, 1).
template <class T>
py::tuple dense_forward(bool sigmoid, py::handle x, py::handle t, py::handle sample_weight) {
  check_batch(x);
  const py::object input = contiguous(x);
  py::object target = contiguous(as_real("t", t, x));
  const Index rows = extent(x, 0), cols = size_of(x) / rows;
  const bool column = rank(x) == 2 && cols == 1 && rank(target) == 1 && extent(target, 0) == rows;
  if (!same_shape(target, x) && !column) refuse("t must have the shape of x, " + shape_of(x) + ", got shape " + shape_of(target));
  const T *from = data_of<const T>(input), *labels = data_of<const T>(target);
  if (sigmoid && !all_within_unit(labels, rows * cols))
    for (Index i = 0; i < rows * cols; ++i)
      if (!(labels[i] >= 0 && labels[i] <= 1))
        refuse("t must hold numbers in [0, 1], got " + std::string(py::str(py::float_(static_cast<double>(labels[i])))) +
               " at flat position " + std::to_string(i));
  const Weights weights = weights_of(sample_weight, rows);
  py::object y = sigmoid ? new_like(input) : py::object(input.attr("view")());
  T* to = data_of<T>(y);
  const double sum = unlocked(cost_of(x), [&] {
    return sigmoid ? ops::sigmoid_cross_entropy(from, labels, weights.data, rows, cols, to)
                   : ops::squared_error(from, labels, weights.data, rows, cols);
  });
  return py::make_tuple(sum / weights.sum, std::move(y), std::move(target), weights.array,
                        1 / (weights.sum * static_cast<double>(cols)));
}

template <class T>
py::object dense_backward(py::handle y, py::handle t, py::handle weight, double scale) {
  check_unchanged(y, t, weight);
  py::object dx = new_like(y);
  const Index rows = extent(y, 0), cols = size_of(y) / rows;
  const Matrix<T> out{data_of<T>(dx), rows, cols, cols, 1};
  const double* weights = weight.is_none() ? nullptr : data_of<const double>(weight);
  const T *p = data_of<const T>(y), *labels = data_of<const T>(t);
  unlocked(cost_of(y), [&] { ops::weighted_difference(p, labels, weights, scale, out); });
  return dx;
}

}  // namespace

// Each forward returns (loss, y, labels, weights, scale), which its backward takes, scale times what flows in.
void bind_losses(py::module_& m) {
  m.def("softmax_cross_entropy_forward", [](py::handle x, py::handle t, py::handle weight) {
    return by_dtype("x", x, [&](auto type) { return softmax_forward<decltype(type)>(x, t, weight); });
  });
  m.def("softmax_cross_entropy_backward", [](py::handle y, py::handle labels, py::handle weight, double scale) {
    return by_dtype("y", y, [&](auto type) { return softmax_backward<decltype(type)>(y, labels, weight, scale); });
  });
  m.def("dense_loss_forward", [](bool sigmoid, py::handle x, py::handle t, py::handle weight) {
    return by_dtype("x", x, [&](auto type) { return dense_forward<decltype(type)>(sigmoid, x, t, weight); });
  });
  m.def("dense_loss_backward", [](py::handle y, py::handle t, py::handle weight, double scale) {
    return by_dtype("y", y, [&](auto type) { return dense_backward<decltype(type)>(y, t, weight, scale); });
  });
}

}  // namespace fastnn::bindings
