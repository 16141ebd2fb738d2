// matmul and the affine layer.
#include "ops/affine.h"

#include "bindings/arrays.h"
#include "bindings/in_use.h"
#include "ops/cost.h"
#include "ops/gemm.h"

namespace fastnn::bindings {
namespace {

// Both operands as float32, if that holds what NumPy's promotion of the two does, or else as float64.
std::pair<py::object, py::object> promoted(py::handle a, py::handle b) {
  const py::module_ numpy = py::module_::import("numpy");
  const py::object x = real_array("a", a), y = real_array("b", b);
  const py::object single = py::dtype::of<float>(), both = numpy.attr("result_type")(x, y);
  const bool fits = py::cast<bool>(numpy.attr("can_cast")(both, single));
  const py::object type = fits ? single : py::dtype::of<double>();
  const auto convert = [&](const py::object& array) { return array.attr("astype")(type, py::arg("copy") = false); };
  return {convert(x), convert(y)};
}

template <class T>
py::object multiply(py::handle given_a, py::handle given_b, py::handle out) {
  const py::object a = aligned(given_a), b = aligned(given_b);
  const Matrix<const T> x = matrix<const T>("a", a), y = matrix<const T>("b", b);
  if (x.cols != y.rows)
    refuse("a.shape[1] must equal b.shape[0], got a of shape " + shape_of(a) + " and b of shape " + shape_of(b));
  py::object result = py::reinterpret_borrow<py::object>(out);
  bool direct = false;
  if (!out.is_none()) {
    const bool of_type = is_array(out) && is_dtype<T>(out);
    if (!of_type || rank(out) != 2 || extent(out, 0) != x.rows || extent(out, 1) != y.cols)
      (of_type ? refuse : refuse_type)("out must be a " + std::string(sizeof(T) == 4 ? "float32" : "float64") +
                                       " array of shape (" + std::to_string(x.rows) + ", " + std::to_string(y.cols) + "), got " +
                                       describe(out));
    if (!is_writeable(out)) refuse("out is read-only");
    if (is_aligned(out)) {
      const Matrix<T> z = matrix<T>("out", out);
      const bool rows = (z.col_stride == 1 || z.cols <= 1) && (z.rows <= 1 || z.row_stride >= z.cols);
      const bool columns = (z.row_stride == 1 || z.rows <= 1) && (z.cols <= 1 || z.col_stride >= z.rows);
      direct = (rows || columns) && !extent_of(out).meets(extent_of(a)) && !extent_of(out).meets(extent_of(b));
    }
  }
  py::object target = direct ? result : new_matrix<T>(x.rows, y.cols);
  const Matrix<T> z = matrix<T>("out", target);
  unlocked(cost::gemm<T>(x.rows, y.cols, x.cols), [&] { ops::matmul(x, y, z); });
  if (out.is_none()) return target;
  if (!direct) copy_into(result, target);
  return result;
}

template <class T>
py::object forward(py::handle x, py::handle given_w, py::handle b) {
  const py::object w = aligned(given_w);
  const Matrix<const T> input = matrix<const T>("x", x), weight = matrix<const T>("W", w);
  if (input.cols != weight.rows)
    refuse("x must have " + std::to_string(weight.rows) + " numbers a row (W has shape " + shape_of(w) + "), got shape " +
           shape_of(x));
  const py::object dense_b = is_array(b) ? contiguous(b) : py::reinterpret_borrow<py::object>(b);
  const T* bias = vector<const T>("b", dense_b, weight.cols);
  py::object y = new_matrix<T>(input.rows, weight.cols);
  const Matrix<T> out = matrix<T>("y", y);
  unlocked(cost::gemm<T>(input.rows, weight.cols, weight.rows), [&] { ops::affine_forward(input, weight, bias, out); });
  return y;
}

template <class T>
py::object backward(InUse& lock, py::handle x, py::handle given_w, py::handle dout, py::handle dw, py::handle db, bool want_dx) {
  const Hold hold(lock);
  const py::object w = aligned(given_w);
  py::object keep;
  const Matrix<const T> input = matrix<const T>("x", x), weight = matrix<const T>("W", w);
  const Matrix<const T> dy = contiguous_rows<T>("dout", dout, keep);
  if (input.cols != weight.rows)
    refuse("W must have the shape it had in forward, (" + std::to_string(input.cols) + ", ...), got " + shape_of(w));
  if (dy.rows != input.rows || dy.cols != weight.cols)
    refuse("dout must have the shape of the output, (" + std::to_string(input.rows) + ", " + std::to_string(weight.cols) +
           "), got " + shape_of(dout));
  const Matrix<T> weight_gradient = matrix<T>("dW", dw);
  if (weight_gradient.rows != weight.rows || weight_gradient.cols != weight.cols || !is_contiguous(dw))
    refuse("dW must be contiguous and have the shape of W, got " + describe(dw));
  T* bias_gradient = vector<T>("db", db, weight.cols);
  py::object dx = want_dx ? new_matrix<T>(input.rows, input.cols) : py::object(py::none());
  const Matrix<T> input_gradient = want_dx ? matrix<T>("dx", dx) : Matrix<T>{};
  unlocked(2 * cost::gemm<T>(input.rows, weight.cols, weight.rows),
           [&] { ops::affine_backward(input, weight, dy, input_gradient, weight_gradient, bias_gradient); });
  return dx;
}

}  // namespace

void bind_affine(py::module_& m) {
  m.def("matmul", [](py::handle a, py::handle b, py::handle out) {
    if (is_array(a) && is_array(b)) {
      if (is_f32(a) && is_f32(b)) return multiply<float>(a, b, out);
      if (is_f64(a) && is_f64(b)) return multiply<double>(a, b, out);
    }
    const auto [x, y] = promoted(a, b);
    return is_f32(x) ? multiply<float>(x, y, out) : multiply<double>(x, y, out);
  });
  m.def("affine_forward", [](py::handle x, py::handle w, py::handle b) {
    return by_dtype("W", w, [&](auto type) { return forward<decltype(type)>(x, w, b); });
  });
  m.def("affine_backward",
        [](InUse& lock, py::handle x, py::handle w, py::handle dout, py::handle dw, py::handle db, bool want_dx) {
          return by_dtype("W", w, [&](auto type) { return backward<decltype(type)>(lock, x, w, dout, dw, db, want_dx); });
        });
}

}  // namespace fastnn::bindings
