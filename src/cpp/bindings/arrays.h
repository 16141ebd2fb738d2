#pragma once
// NumPy arrays at the border: what is taken as it is, what is converted, what is refused, and in which words.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <type_traits>

#include "core/types.h"

namespace fastnn::bindings {

namespace py = pybind11;

// Raises ValueError (TypeError) with a message that names the argument.
[[noreturn]] void refuse(const std::string& message);
[[noreturn]] void refuse_type(const std::string& message);

// Makes what the next ones compare with: once, at import, see `names` of objects.h.
void make_types();
bool is_array(py::handle h) noexcept;    // of NumPy, and without a mask
bool is_f32(py::handle array) noexcept;  // of the machine's own float32
bool is_f64(py::handle array) noexcept;
bool is_i64(py::handle array) noexcept;
bool is_i32(py::handle array) noexcept;
bool is_u8(py::handle array) noexcept;
template <class T>
bool is_dtype(py::handle array) noexcept;
template <>
inline bool is_dtype<float>(py::handle array) noexcept {
  return is_f32(array);
}
template <>
inline bool is_dtype<double>(py::handle array) noexcept {
  return is_f64(array);
}
template <>
inline bool is_dtype<int64_t>(py::handle array) noexcept {
  return is_i64(array);
}

// What an array is comes from the array itself: attributes and methods are a subclass's to redefine.
py::tuple shape_tuple(py::handle array);
std::string shape_of(py::handle array);  // "(3, 4)"
std::string describe(py::handle h);      // "float32 array of shape (3, 4)" or "list"
bool same_shape(py::handle a, py::handle b) noexcept;

// x as an array of whatever type, see `as_array` of fastnn._checks; TypeError where that cannot be.
py::array any_array(const char* name, py::handle x);
// x as an array of real numbers: itself where it is an aligned float32 or float64 array of the type wanted, else converted.
// `like` is an array whose type is wanted, or None for float32/float64 as x is and float32 otherwise. TypeError where x holds no
// real numbers.
py::object as_real(const char* name, py::handle x, py::handle like);

// A C-contiguous copy, a plain array.
py::object copied(py::handle array);
// Another plain array of the same memory.
py::object plain_view(py::handle array);
// to[...] = from
void copy_into(py::handle to, py::handle from);
// A copy of an array of numbers as a C-contiguous one of int64.
py::object copied_as_i64(py::handle array);
// The same of x, for a table's row numbers; TypeError where it holds no integers.
py::object row_numbers(py::handle x);

// x as an array of whatever real type it has; TypeError where it holds no real numbers.
py::array real_array(const char* name, py::handle x);
// The end of an error of an array: which of its rows is the first with NaN; "" where none is.
std::string nan_named(const char* name, py::handle array);

// Aligned: data and strides are multiples of the element's size, as every view below needs. The same array, or a copy that is.
py::object aligned(py::handle array);
bool is_aligned(py::handle array) noexcept;
// The same array, or a C-contiguous, aligned copy.
py::object contiguous(py::handle array);
bool is_contiguous(py::handle array) noexcept;
bool is_writeable(py::handle array) noexcept;

// The bytes [first, last) that an array's elements lie in; empty where it has none.
struct Extent {
  const char *first, *last;
  bool meets(const Extent& other) const noexcept { return first < other.last && other.first < last; }
};
Extent extent_of(py::handle array) noexcept;

inline int rank(py::handle array) { return py::detail::array_proxy(array.ptr())->nd; }
inline Index extent(py::handle array, int axis) { return py::detail::array_proxy(array.ptr())->dimensions[axis]; }
Index size_of(py::handle array) noexcept;

template <class T>
T* data_of(py::handle array) noexcept {
  return reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data);
}

// A 2-D view of an aligned array of type T with any strides.
template <class T>
Matrix<T> matrix(const char* name, py::handle array) {
  using Element = std::remove_const_t<T>;
  if (!is_array(array) || !is_dtype<Element>(array) || rank(array) != 2)
    refuse(std::string(name) + " must be a 2-D " + (sizeof(T) == 4 ? "float32" : "float64") + " array, got " + describe(array));
  if (!is_aligned(array)) refuse(std::string(name) + " must be aligned: its data and strides multiples of its element size");
  if (!std::is_const_v<T> && !is_writeable(array)) refuse(std::string(name) + " is read-only");
  const auto* p = py::detail::array_proxy(array.ptr());
  constexpr Index size = sizeof(T);
  return {reinterpret_cast<T*>(p->data), p->dimensions[0], p->dimensions[1], p->strides[0] / size, p->strides[1] / size};
}

// The same with rows of unit stride: of the array itself, or of a copy. `keep` owns what is viewed.
template <class T>
Matrix<const T> contiguous_rows(const char* name, py::handle array, py::object& keep) {
  keep = is_array(array) ? aligned(array) : py::reinterpret_borrow<py::object>(array);
  const Matrix<const T> view = matrix<const T>(name, keep);
  if (view.col_stride == 1 || view.cols <= 1) return view;
  keep = contiguous(array);
  return matrix<const T>(name, keep);
}

// The numbers of a contiguous 1-D array of type T and n numbers.
template <class T>
T* vector(const char* name, py::handle array, Index n) {
  using Element = std::remove_const_t<T>;
  if (!is_array(array) || !is_dtype<Element>(array) || rank(array) != 1 || extent(array, 0) != n || !is_contiguous(array))
    refuse(std::string(name) + " must be a contiguous " + (sizeof(T) == 4 ? "float32" : "float64") + " array of shape (" +
           std::to_string(n) + ",), got " + describe(array));
  if (!std::is_const_v<T> && !is_writeable(array)) refuse(std::string(name) + " is read-only");
  return data_of<T>(array);
}

// A new C-contiguous array, its numbers not set. MemoryError or ValueError (too many elements) from NumPy.
py::object new_array(py::dtype dtype, int nd, const Index* shape);
template <class T>
py::object new_matrix(Index rows, Index cols) {
  const Index shape[] = {rows, cols};
  return new_array(py::dtype::of<T>(), 2, shape);
}
template <class T>
py::object new_vector(Index n) {
  return new_array(py::dtype::of<T>(), 1, &n);
}
py::object new_like(py::handle array);  // same type and shape, C order
// Zeros of the type and shape of an array of float32 or float64, on pages that take no memory until they are used.
py::object zeros_like(py::handle array);

// f(T{}) for the type of a float32 or float64 array.
template <class F>
auto by_dtype(const char* name, py::handle array, F&& f) {
  if (is_array(array) && is_f32(array)) return f(float{});
  if (is_array(array) && is_f64(array)) return f(double{});
  refuse_type(std::string(name) + " must be a float32 or float64 array, got " + describe(array));
}

// What keeps a divisor from zero, in T: a smaller number would be flushed.
template <class T>
T normal(double eps) {
  return static_cast<T>(eps < static_cast<double>(std::numeric_limits<T>::min()) ? std::numeric_limits<T>::min() : eps);
}

// While it lives, the calling thread is without the GIL. Up to Python 3.13 an interpreter that ends unwinds the stack of a daemon
// thread that asks for the GIL, which ends the process where a frame must not be left so: such a thread waits in here for good,
// as it does from 3.14 on.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Runs f without the GIL if it takes long enough for another thread to profit: taking the lock back can wait for a whole switch
// interval.
template <class F>
auto unlocked(double nanoseconds, F&& f) {
  if (nanoseconds < 10000) return f();
  const WithoutGil released;
  return f();
}

// {"name": its place in a table of names}
template <std::size_t N>
py::dict numbered(const char* const (&names)[N]) {
  py::dict d;
  for (std::size_t i = 0; i < N; ++i) d[names[i]] = i;
  return d;
}

// One file per subject.
void bind_runtime(py::module_& m);
void bind_affine(py::module_& m);
void bind_batchnorm(py::module_& m);
void bind_c_api(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_embedding(py::module_& m);
void bind_in_use(py::module_& m);
void bind_losses(py::module_& m);
void bind_network(py::module_& m);
void bind_optimizers(py::module_& m);
void bind_rownorm(py::module_& m);
void bind_sparse(py::module_& m);

}  // namespace fastnn::bindings
