#include "bindings/labels.h"

#include <algorithm>
#include <cmath>

namespace fastnn::bindings {

Weights weights_of(py::handle weight, Index n) {
  Weights w;
  w.sum = static_cast<double>(n);
  if (weight.is_none()) return w;
  const py::array real = real_array("sample_weight", weight);
  if (rank(real) != 1 || extent(real, 0) != n)
    refuse("sample_weight must have shape (" + std::to_string(n) + ",), one weight a row, got shape " + shape_of(real));
  w.array = real.attr("astype")(py::dtype::of<double>(), py::arg("order") = "C");
  double* data = data_of<double>(w.array);
  w.data = data;
  w.sum = 0;
  for (Index i = 0; i < n; ++i) {
    if (!(w.data[i] >= 0) || std::isinf(w.data[i]))
      refuse("sample_weight must hold finite numbers >= 0, got " + std::string(py::str(py::float_(w.data[i]))) + " at position " +
             std::to_string(i));
    w.subnormal = w.subnormal || std::fpclassify(w.data[i]) == FP_SUBNORMAL;
    w.sum += w.data[i];
  }
  if (!(w.sum > 0) || std::isinf(w.sum)) refuse("sample_weight must have a finite sum > 0, got " + std::to_string(w.sum));
  // Only ratios count, and kernels flush subnormals, such as the reciprocal of a large sum.
  constexpr double kLarge = 0x1p900;
  const double factor = w.sum < 1 / kLarge ? kLarge : w.sum > kLarge ? 1 / kLarge : 1;
  if (factor != 1) {
    w.subnormal = false;
    w.sum *= factor;
    for (Index i = 0; i < n; ++i) {
      data[i] *= factor;
      w.subnormal = w.subnormal || std::fpclassify(data[i]) == FP_SUBNORMAL;
    }
  }
  return w;
}

namespace {

void check_classes(py::handle labels, Index cols) {
  const int64_t* label = data_of<const int64_t>(labels);
  const Index rows = extent(labels, 0);
  uint64_t highest = 0;  // a negative number is a large one
  for (Index i = 0; i < rows; ++i) highest = std::max(highest, static_cast<uint64_t>(label[i]));
  if (highest < static_cast<uint64_t>(cols)) return;
  for (Index i = 0; i < rows; ++i)
    if (label[i] < 0 || label[i] >= cols)
      refuse("t must hold class labels in [0, " + std::to_string(cols) + "), got " + std::to_string(label[i]) + " at position " +
             std::to_string(i));
}

}  // namespace

template <class T>
Labels softmax_labels(py::handle t, Index rows, Index cols, bool copy, Index first) {
  const auto wanted = [&] {
    const std::string n = std::to_string(rows);
    return "t must hold integer class labels of shape (" + n + ",) or rows of probabilities of shape (" + n + ", " +
           std::to_string(cols) + ")";
  };
  if (is_array(t) && is_i64(t) && rank(t) == 1 && extent(t, 0) == rows && is_contiguous(t)) {
    py::object labels = copy ? copied_as_i64(t) : py::reinterpret_borrow<py::object>(t);
    check_classes(labels, cols);
    return {std::move(labels), true};
  }
  const py::array given = any_array("t", t);
  const char kind = given.dtype().kind();
  const bool integers = kind == 'i' || kind == 'u';
  if (!integers && (given.ndim() == 1 || (kind != 'f' && kind != 'b')))
    refuse_type(wanted() + ", got " + describe(given) + nan_named("t", given));
  if (given.ndim() < 1 || given.ndim() > 2 || extent(given, 0) != rows || (given.ndim() == 2 && extent(given, 1) != cols))
    refuse(wanted() + ", got shape " + shape_of(given));
  if (given.ndim() == 1) {
    py::object labels = copied_as_i64(given);
    check_classes(labels, cols);
    return {std::move(labels), true};
  }
  py::object labels = given.attr("astype")(py::dtype::of<T>(), py::arg("order") = "C");
  const T* label = data_of<const T>(labels);
  for (Index i = 0; i < rows; ++i) {
    double sum = 0;
    bool negative = false;
    for (Index j = 0; j < cols; ++j) {
      const T v = label[i * cols + j];
      negative = negative || v < 0;
      sum += static_cast<double>(v);
    }
    if (negative || !(std::abs(sum - 1) <= 1e-3))
      refuse("t must hold rows of non-negative numbers that sum to 1, but row " + std::to_string(first + i) + " does not");
  }
  return {std::move(labels), false};
}
template Labels softmax_labels<float>(py::handle, Index, Index, bool, Index);
template Labels softmax_labels<double>(py::handle, Index, Index, bool, Index);

namespace {

// Without a branch, so that the compiler takes several at a time.
template <class T>
bool all_within(const T* t, Index n, T highest) {
  unsigned outside = 0;
  for (Index i = 0; i < n; ++i) outside |= static_cast<unsigned>(!(t[i] >= 0)) | static_cast<unsigned>(!(t[i] <= highest));
  return outside == 0;
}

}  // namespace

template <class T>
void check_targets(py::handle target, py::handle x, Range range, Index first) {
  const bool column = rank(x) == 2 && extent(x, 1) == 1 && rank(target) == 1 && extent(target, 0) == extent(x, 0);
  if (!same_shape(target, x) && !column) refuse("t must have the shape of x, " + shape_of(x) + ", got shape " + shape_of(target));
  const T *labels = data_of<const T>(target), highest = range == Range::unit ? T(1) : std::numeric_limits<T>::max();
  if (range == Range::all || all_within(labels, size_of(target), highest)) return;
  for (Index i = 0; i < size_of(target); ++i)
    if (!(labels[i] >= 0 && labels[i] <= highest))
      refuse(std::string("t must hold ") + (range == Range::unit ? "numbers in [0, 1]" : "finite numbers >= 0") + ", got " +
             std::string(py::str(py::float_(static_cast<double>(labels[i])))) + " at flat position " +
             std::to_string(first * (size_of(x) / extent(x, 0)) + i));
}
template void check_targets<float>(py::handle, py::handle, Range, Index);
template void check_targets<double>(py::handle, py::handle, Range, Index);

}  // namespace fastnn::bindings
