// The losses: labels and weights are checked before anything is computed.
#include "ops/losses.h"

#include <vector>

#include "bindings/labels.h"
#include "network/spec.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

double cost_of(py::handle x) { return cost::elements<float>(size_of(x), cost::kTranscendental); }

void check_batch(py::handle x) {
  if (rank(x) < 1 || size_of(x) == 0) refuse("x must be a batch of at least one row and one column, got shape " + shape_of(x));
}

// What forward saved is in the user's hands too, and may have been replaced, written to, or given another shape there.
template <class T>
void check_saved(py::handle y, py::handle labels, py::handle weight, bool classes) {
  const Index rows = rank(y) > 0 ? extent(y, 0) : 0;
  bool fits = rows > 0 && is_contiguous(y) && is_array(labels) && is_contiguous(labels);
  if (fits && classes) {
    fits = is_i64(labels) && rank(y) == 2 && extent(labels, 0) == rows;
    const int64_t* label = fits ? data_of<const int64_t>(labels) : nullptr;
    for (Index i = 0; fits && i < rows; ++i) fits = label[i] >= 0 && label[i] < extent(y, 1);
  } else if (fits) {
    fits = is_dtype<T>(labels) && size_of(labels) == size_of(y);
  }
  if (fits && !weight.is_none())
    fits = is_array(weight) && is_f64(weight) && is_contiguous(weight) && rank(weight) == 1 && extent(weight, 0) == rows;
  if (!fits) refuse("x, t or y was given another shape or contents after forward: " + shape_of(y));
}

template <class T>
py::tuple softmax_forward(py::handle x, py::handle t, py::handle sample_weight) {
  if (rank(x) != 2) refuse("x must have shape (N, C), got shape " + shape_of(x));
  check_batch(x);
  py::object keep;
  const Matrix<const T> logits = contiguous_rows<T>("x", x, keep);
  const Labels labels = softmax_labels<T>(t, logits.rows, logits.cols, true);
  const Weights weights = weights_of(sample_weight, logits.rows);
  py::object y = new_matrix<T>(logits.rows, logits.cols);
  T* to = data_of<T>(y);
  const double sum = unlocked(cost_of(x), [&] {
    return labels.classes ? ops::softmax_cross_entropy(logits, data_of<const int64_t>(labels.array), weights.data, to)
                          : ops::softmax_cross_entropy(logits, data_of<const T>(labels.array), weights.data, to);
  });
  return py::make_tuple(sum / weights.sum, std::move(y), labels.array, weights.array, 1 / weights.sum);
}

template <class T>
py::object softmax_backward(py::handle y, py::handle labels, py::handle weight, double scale) {
  const bool classes = is_array(labels) && rank(labels) == 1;
  check_saved<T>(y, labels, weight, classes);
  py::object dx = new_like(y);
  const Matrix<T> out = matrix<T>("dx", dx);
  const double* weights = weight.is_none() ? nullptr : data_of<const double>(weight);
  const T* p = data_of<const T>(y);
  unlocked(cost_of(y), [&] {
    if (classes)
      ops::softmax_cross_entropy_backward(p, data_of<const int64_t>(labels), weights, scale, out);
    else
      ops::weighted_difference(p, data_of<const T>(labels), weights, scale, out);
  });
  return dx;
}

// x and t of one shape (N, ...); t (N,) fits x (N, 1).
template <class T>
py::tuple dense_forward(bool sigmoid, py::handle x, py::handle t, py::handle sample_weight) {
  check_batch(x);
  const py::object input = contiguous(x);
  py::object target = contiguous(as_real("t", t, x));
  const Index rows = extent(x, 0), cols = size_of(x) / rows;
  check_targets<T>(target, x, sigmoid ? Range::unit : Range::all);
  const T *from = data_of<const T>(input), *labels = data_of<const T>(target);
  const Weights weights = weights_of(sample_weight, rows);
  py::object y = sigmoid ? new_like(input) : plain_view(input);
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
  check_saved<T>(y, t, weight, false);
  py::object dx = new_like(y);
  const Index rows = extent(y, 0), cols = size_of(y) / rows;
  const Matrix<T> out{data_of<T>(dx), rows, cols, cols, 1};
  const double* weights = weight.is_none() ? nullptr : data_of<const double>(weight);
  const T *p = data_of<const T>(y), *labels = data_of<const T>(t);
  unlocked(cost_of(y), [&] { ops::weighted_difference(p, labels, weights, scale, out); });
  return dx;
}

// The losses that have kernels of their own, with their slopes: x (N, cols), t (N, targets), checked by whoever calls; `numbers`
// one a column, or one.
template <class T>
py::tuple kernel_loss(Dense kind, py::handle x, py::handle t, py::handle given, py::handle sample_weight) {
  check_batch(x);
  const py::object input = contiguous(x), target = contiguous(as_real("t", t, x)),
                   numbers = contiguous(as_real("numbers", given, x));
  const Index rows = extent(x, 0), cols = size_of(x) / rows, targets = size_of(target) / rows;
  const bool fits = rank(target) > 0 && extent(target, 0) == rows && targets > 0 && cols % targets == 0 &&
                    (kind != Dense::gaussian || cols == 2 * targets) && (kind != Dense::huber || size_of(numbers) > 0) &&
                    (kind != Dense::quantile || size_of(numbers) == cols) &&
                    (kind == Dense::quantile || kind == Dense::gaussian || cols == targets);
  if (!fits) refuse("t must have as many targets as the loss takes, got " + describe(t) + " for " + describe(x));
  const Weights weights = weights_of(sample_weight, rows);
  py::object y = new_like(input), slope = new_like(input);
  std::vector<double> losses(static_cast<std::size_t>(rows));
  const ops::LossRows<T> r{rows,
                           cols,
                           data_of<const T>(input),
                           nullptr,
                           data_of<const T>(target),
                           nullptr,
                           1 / static_cast<double>(kind == Dense::gaussian ? targets : cols),
                           data_of<T>(y),
                           data_of<T>(slope),
                           losses.data(),
                           nullptr,
                           targets,
                           data_of<const T>(numbers)};
  unlocked(cost_of(x), [&] { ops::kernel_loss(kind, r); });
  double sum = 0;
  for (Index i = 0; i < rows; ++i) sum += ops::weight_of(weights.data, i) * losses[static_cast<std::size_t>(i)];
  return py::make_tuple(sum / weights.sum, std::move(y), std::move(slope), weights.array, 1 / weights.sum);
}

// Rows of slopes times scale and their weights.
template <class T>
py::object scaled_rows(py::handle slope, py::handle weight, double scale) {
  const bool weighted = !weight.is_none();
  const Index rows = rank(slope) > 0 ? extent(slope, 0) : 0, cols = rows ? size_of(slope) / rows : 0;
  if (!is_contiguous(slope) || (weighted && !(is_array(weight) && is_f64(weight) && is_contiguous(weight) && rank(weight) == 1 &&
                                              extent(weight, 0) == rows)))
    refuse("the loss was given other contents after forward: " + describe(slope));
  py::object dx = new_like(slope);
  const Matrix<T> out{data_of<T>(dx), rows, cols, cols, 1};
  const T* from = data_of<const T>(slope);
  const double* weights = weighted ? data_of<const double>(weight) : nullptr;
  unlocked(cost_of(slope), [&] { ops::scale_rows(from, weights, scale, out); });
  return dx;
}

}  // namespace

// Each forward returns (loss, y, labels, weights, scale), which its backward takes, scale times what flows in.
void bind_losses(py::module_& m) {
  m.attr("LOSSES") = numbered(network::kLossNames);
  m.def("kernel_loss", [](int loss, py::handle x, py::handle t, py::handle numbers, py::handle weight) {
    const int kind = loss - static_cast<int>(network::Loss::huber);
    if (kind < 0 || kind >= kDense) refuse("no loss with a kernel of its own: " + std::to_string(loss));
    return by_dtype("x", x,
                    [&](auto type) { return kernel_loss<decltype(type)>(static_cast<Dense>(kind), x, t, numbers, weight); });
  });
  m.def("scaled_rows", [](py::handle slope, py::handle weight, double scale) {
    return by_dtype("slope", slope, [&](auto type) { return scaled_rows<decltype(type)>(slope, weight, scale); });
  });
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
