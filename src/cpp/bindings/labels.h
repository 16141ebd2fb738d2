#pragma once
// Targets and sample weights, checked as the losses promise.
#include "bindings/arrays.h"

namespace fastnn::bindings {

// None, or sample weights as float64 (n,) with their sum: finite, not negative, not all zero.
struct Weights {
  py::object array = py::none();
  const double* data = nullptr;
  double sum = 0;
  bool subnormal = false;  // whether one of them is
};
Weights weights_of(py::handle weight, Index n);

// The labels of softmax cross-entropy for (rows, cols) outputs: classes as int64 (rows,), or rows of probabilities as T
// (rows, cols). A copy if `copy`, which nobody can write to after they were checked. `first` is the number of the first row, for
// messages.
struct Labels {
  py::object array;
  bool classes;
};
template <class T>
Labels softmax_labels(py::handle t, Index rows, Index cols, bool copy, Index first = 0);

// Raises unless `target`, an array of T, has the shape of x (or (N,) for x (N, 1)) and holds numbers in a range.
enum class Range { all, unit, counts };  // any; in [0, 1]; finite and >= 0
template <class T>
void check_targets(py::handle target, py::handle x, Range range, Index first = 0);

}  // namespace fastnn::bindings
