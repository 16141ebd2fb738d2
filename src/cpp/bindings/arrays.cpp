#include "bindings/arrays.h"

#include <unistd.h>

#include <algorithm>

#include "bindings/buffers.h"

namespace fastnn::bindings {
namespace {

using py::detail::array_proxy;
using py::detail::npy_api;

// NumPy hands out one descriptor for each native type, except to arrays that come from pickles, fields or casts of descriptors.
bool has_type(py::handle array, int type_number, PyObject* common) noexcept {
  PyObject* descr = array_proxy(array.ptr())->descr;
  if (descr == common) return true;
  const auto dtype = py::reinterpret_borrow<py::dtype>(descr);
  return dtype.num() == type_number && (dtype.byteorder() == '=' || dtype.byteorder() == '|');
}

struct Type {
  PyObject* common;
  int number;
};
template <class T>
const Type& type_of() {
  static const Type type{py::dtype::of<T>().release().ptr(), py::dtype::of<T>().num()};
  return type;
}

template <class T>
bool is_native(py::handle array) noexcept {
  const Type& type = type_of<T>();
  return has_type(array, type.number, type.common);
}

py::module_ checks() { return py::module_::import("fastnn._checks"); }

}  // namespace

void refuse(const std::string& message) { throw py::value_error(message); }
void refuse_type(const std::string& message) { throw py::type_error(message); }

void make_types() {
  type_of<float>();
  type_of<double>();
  type_of<int64_t>();
  type_of<int32_t>();
  type_of<uint8_t>();
}

bool is_array(py::handle h) noexcept {
  const auto& api = npy_api::get();
  if (Py_TYPE(h.ptr()) == api.PyArray_Type_) return true;
  return api.PyArray_Check_(h.ptr()) && !(py::hasattr(h, "mask") && py::hasattr(h, "filled"));
}

bool is_f32(py::handle array) noexcept { return is_native<float>(array); }
bool is_f64(py::handle array) noexcept { return is_native<double>(array); }
bool is_i64(py::handle array) noexcept { return is_native<int64_t>(array); }
bool is_i32(py::handle array) noexcept { return is_native<int32_t>(array); }
bool is_u8(py::handle array) noexcept { return is_native<uint8_t>(array); }

py::tuple shape_tuple(py::handle array) {
  py::tuple shape(static_cast<std::size_t>(rank(array)));
  for (int i = 0; i < rank(array); ++i) shape[static_cast<std::size_t>(i)] = py::int_(extent(array, i));
  return shape;
}
std::string shape_of(py::handle array) { return py::str(shape_tuple(array)); }

std::string describe(py::handle h) {
  if (!is_array(h)) return py::str(py::type::handle_of(h).attr("__name__"));
  return std::string(py::str(py::handle(array_proxy(h.ptr())->descr))) + " array of shape " + shape_of(h);
}

bool same_shape(py::handle a, py::handle b) noexcept {
  if (rank(a) != rank(b)) return false;
  for (int i = 0; i < rank(a); ++i)
    if (extent(a, i) != extent(b, i)) return false;
  return true;
}

py::array any_array(const char* name, py::handle x) {
  if (is_array(x) || PyList_CheckExact(x.ptr()) || PyTuple_CheckExact(x.ptr())) {
    if (py::array array = py::array::ensure(x)) return array;
    PyErr_Clear();
  }
  return checks().attr("as_array")(name, x);
}

py::array real_array(const char* name, py::handle x) {
  py::array array = any_array(name, x);
  const char kind = array.dtype().kind();
  if (kind != 'f' && kind != 'i' && kind != 'u' && kind != 'b') checks().attr("real_array")(name, array);
  return array;
}

std::string nan_named(const char* name, py::handle array) { return py::str(checks().attr("nan_named")(name, array)); }

py::object copied_as_i64(py::handle array) {
  if (!is_i64(array) || !is_contiguous(array)) return array.attr("astype")(py::dtype::of<int64_t>(), py::arg("order") = "C");
  py::object copy = new_like(array);  // NumPy takes 0.7 us for it
  std::copy_n(data_of<const int64_t>(array), size_of(array), data_of<int64_t>(copy));
  return copy;
}

py::object row_numbers(py::handle x) {
  const py::array array = any_array("x", x);
  const char kind = array.dtype().kind();
  if (kind != 'i' && kind != 'u') {
    // NumPy makes float64 of an empty list
    if (array.size() != 0) refuse_type("x must hold integer row numbers, got " + describe(array) + nan_named("x", array));
  }
  return copied_as_i64(array);
}

py::object as_real(const char* name, py::handle x, py::handle like) {
  const bool any = like.is_none();
  if (!any && !(is_array(like) && (is_f32(like) || is_f64(like))))
    refuse_type("a parameter must be a float32 or float64 array, got " + describe(like));
  if (is_array(x)) {
    const bool right = any ? is_f32(x) || is_f64(x) : (is_f32(like) ? is_f32(x) : is_f64(x));
    if (right && is_aligned(x)) return py::reinterpret_borrow<py::object>(x);
  }
  const py::array array = real_array(name, x);
  const bool wide = any ? array.dtype().num() == npy_api::NPY_DOUBLE_ : is_f64(like);
  return array.attr("astype")(wide ? py::dtype::of<double>() : py::dtype::of<float>(), py::arg("order") = "C");
}

bool is_aligned(py::handle array) noexcept { return (array_proxy(array.ptr())->flags & npy_api::NPY_ARRAY_ALIGNED_) != 0; }
bool is_contiguous(py::handle array) noexcept {
  return is_aligned(array) && (array_proxy(array.ptr())->flags & npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
}
bool is_writeable(py::handle array) noexcept {
  return (array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}

py::object aligned(py::handle array) {
  if (is_aligned(array)) return py::reinterpret_borrow<py::object>(array);
  return copied(array);
}

py::object contiguous(py::handle array) {
  if (is_contiguous(array)) return py::reinterpret_borrow<py::object>(array);
  return copied(array);
}

void copy_into(py::handle to, py::handle from) {
  if (npy_api::get().PyArray_CopyInto_(to.ptr(), from.ptr()) != 0) throw py::error_already_set();
}

py::object copied(py::handle array) {
  py::object copy = new_like(array);
  copy_into(copy, array);
  return copy;
}

py::object plain_view(py::handle array) {
  auto& api = npy_api::get();
  PyObject* view = api.PyArray_View_(array.ptr(), nullptr, reinterpret_cast<PyObject*>(api.PyArray_Type_));
  if (!view) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(view);
}

Extent extent_of(py::handle array) noexcept {
  const auto* p = array_proxy(array.ptr());
  Extent e{p->data, p->data};
  if (size_of(array) == 0) return e;
  for (int i = 0; i < p->nd; ++i) (p->strides[i] < 0 ? e.first : e.last) += (p->dimensions[i] - 1) * p->strides[i];
  e.last += is_f32(array) ? sizeof(float) : sizeof(double);
  return e;
}

Index size_of(py::handle array) noexcept {
  Index n = 1;
  for (int i = 0; i < rank(array); ++i) n *= extent(array, i);
  return n;
}

py::object new_array(py::dtype dtype, int nd, const Index* shape) {
  auto& api = npy_api::get();
  std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
  for (int i = 0; i < nd; ++i)
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(shape[i]), &bytes)) bytes = 0;  // NumPy's to refuse
  Buffer buffer{};
  if (bytes >= kOwnBuffer) buffer = new_buffer(bytes);
  PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype.release().ptr(), nd, const_cast<Py_intptr_t*>(shape),
                                              nullptr, buffer.data, buffer.data ? npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr);
  if (!array) throw py::error_already_set();
  py::object result = py::reinterpret_steal<py::object>(array);
  if (buffer.data) api.PyArray_SetBaseObject_(array, buffer.owner.release().ptr());
  return result;
}

py::object new_like(py::handle array) {
  return new_array(py::reinterpret_borrow<py::dtype>(array_proxy(array.ptr())->descr), rank(array),
                   reinterpret_cast<const Index*>(array_proxy(array.ptr())->dimensions));
}

py::object zeros_like(py::handle array) {
  const py::dtype type = is_f32(array) ? py::dtype::of<float>() : py::dtype::of<double>();
  py::object zeros = py::module_::import("numpy").attr("zeros")(shape_tuple(array), type);
  const bool right = is_array(zeros) && (is_f32(array) ? is_f32(zeros) : is_f64(zeros)) && same_shape(zeros, array) &&
                     is_contiguous(zeros) && is_writeable(zeros);
  if (!right) refuse_type("numpy.zeros must return zeros, got " + describe(zeros));
  return zeros;
}

WithoutGil::~WithoutGil() {
  try {
    PyEval_RestoreThread(state_);
  } catch (...) {  // what unwinds the stack, which must go on or never come back
    for (;;) ::pause();
  }
}

}  // namespace fastnn::bindings
