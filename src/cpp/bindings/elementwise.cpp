// Activations, dropout, scaling, and the norm of gradients.
#include "ops/elementwise.h"

#include <cstring>
#include <vector>

#include "bindings/arrays.h"
#include "ops/cost.h"
#include "ops/parts.h"

namespace fastnn::bindings {
namespace {

using cost::elements;

Activation activation_of(int kind) {
  if (kind < 0 || kind >= kActivations) refuse("unknown activation " + std::to_string(kind));
  return static_cast<Activation>(kind);
}

// dout as a contiguous array of the type and shape of saved.
template <class T>
py::object like_output(py::handle dout, py::handle saved) {
  if (!is_array(dout) || !is_dtype<T>(dout) || !same_shape(dout, saved))
    refuse("dout must have the shape of the output, " + shape_of(saved) + ", got " + describe(dout));
  return contiguous(dout);
}

template <class T>
py::object activation_forward(int kind, py::handle x, double alpha) {
  const Activation activation = activation_of(kind);
  const py::object input = contiguous(x);
  py::object y = new_like(input);
  const Index n = size_of(input);
  const T* from = data_of<T>(input);
  T* to = data_of<T>(y);
  unlocked(elements<T>(n, cost::kTranscendental),
           [&] { ops::activation_forward(activation, from, to, n, static_cast<T>(alpha)); });
  return y;
}

template <class T>
py::object activation_backward(int kind, py::handle saved, py::handle dout, double alpha) {
  const Activation activation = activation_of(kind);
  const py::object kept = contiguous(saved), gradient = like_output<T>(dout, saved);
  py::object dx = new_like(kept);
  const Index n = size_of(kept);
  const T *s = data_of<T>(kept), *dy = data_of<T>(gradient);
  T* to = data_of<T>(dx);
  unlocked(elements<T>(n, cost::kTranscendental),
           [&] { ops::activation_backward(activation, s, s, dy, to, n, static_cast<T>(alpha)); });
  return dx;
}

template <class T>
py::tuple dropout_forward(py::handle x, const RandomStream& stream, double ratio, double scale, Index first) {
  if (!(ratio >= 0 && ratio < 1)) refuse("ratio must be a number in [0, 1), got " + std::string(py::str(py::float_(ratio))));
  const py::object input = contiguous(x);
  const Index n = size_of(input);
  if (first < 0 || first > (Index{1} << 34) - n) refuse("x must have at most 2**34 elements, got shape " + shape_of(x));
  const Index bytes = (n + 7) / 8;
  py::object y = new_like(input), keep = new_array(py::dtype::of<uint8_t>(), 1, &bytes);
  const T* from = data_of<T>(input);
  T* to = data_of<T>(y);
  uint8_t* bits = data_of<uint8_t>(keep);
  if (first == 0) {
    unlocked(elements<T>(n, cost::kRandom),
             [&] { ops::dropout_forward(stream, ratio, static_cast<T>(scale), from, to, bits, n); });
    return py::make_tuple(std::move(y), std::move(keep));
  }
  // Bits of groups that begin before the first element, and then from it on.
  std::vector<uint64_t> groups(static_cast<std::size_t>(n / ops::kMaskGroup) + 3);
  unlocked(elements<T>(n, cost::kRandom), [&] {
    ops::drop(stream, ratio, static_cast<T>(scale), first, n, from, to, reinterpret_cast<uint8_t*>(groups.data()), first);
    const Index shift = first % ops::kMaskGroup;
    for (std::size_t i = 0; shift && i + 1 < groups.size(); ++i)
      groups[i] = groups[i] >> shift | groups[i + 1] << (ops::kMaskGroup - shift);
    std::memcpy(bits, groups.data(), static_cast<std::size_t>(bytes));
  });
  return py::make_tuple(std::move(y), std::move(keep));
}

template <class T>
py::object dropout_backward(py::handle keep, double scale, py::handle dout) {
  const py::object gradient = contiguous(dout);
  const Index n = size_of(gradient);
  if (!is_array(keep) || !is_u8(keep) || !is_contiguous(keep) || size_of(keep) != (n + 7) / 8)
    refuse("dout must have the shape of the output, got " + describe(dout));
  py::object dx = new_like(gradient);
  const uint8_t* bits = data_of<uint8_t>(keep);
  const T* dy = data_of<T>(gradient);
  T* to = data_of<T>(dx);
  unlocked(elements<T>(n, cost::kMove), [&] { ops::dropout_backward(bits, static_cast<T>(scale), dy, to, n); });
  return dx;
}

template <class T>
py::object scaled(py::handle x, double factor) {
  const py::object input = contiguous(x);
  py::object y = new_like(input);
  const Index n = size_of(input);
  const T* from = data_of<T>(input);
  T* to = data_of<T>(y);
  unlocked(elements<T>(n, cost::kMove), [&] { ops::scale(from, static_cast<T>(factor), to, n); });
  return y;
}

template <class T>
void scale_in_place(py::handle x, double factor) {
  if (!is_contiguous(x) || !is_writeable(x))
    refuse("an array to scale in place must be contiguous and writeable, got " + describe(x));
  const Index n = size_of(x);
  T* p = data_of<T>(x);
  unlocked(elements<T>(n, cost::kMove), [&] { ops::scale(p, static_cast<T>(factor), p, n); });
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.attr("ACTIVATIONS") = numbered(kActivationNames);
  m.def("activation_forward", [](int kind, py::handle x, double alpha) {
    return by_dtype("x", x, [&](auto type) { return activation_forward<decltype(type)>(kind, x, alpha); });
  });
  m.def("activation_backward", [](int kind, py::handle saved, py::handle dout, double alpha) {
    return by_dtype("saved", saved, [&](auto type) { return activation_backward<decltype(type)>(kind, saved, dout, alpha); });
  });
  m.def(
      "dropout_forward",
      [](py::handle x, uint64_t seed, uint64_t step, uint32_t stream, double ratio, double scale, Index first) {
        return by_dtype("x", x,
                        [&](auto type) { return dropout_forward<decltype(type)>(x, {seed, step, stream}, ratio, scale, first); });
      },
      py::arg("x"), py::arg("seed"), py::arg("step"), py::arg("stream"), py::arg("ratio"), py::arg("scale"),
      py::arg("first") = 0);
  m.def("dropout_backward", [](py::handle keep, double scale, py::handle dout) {
    return by_dtype("dout", dout, [&](auto type) { return dropout_backward<decltype(type)>(keep, scale, dout); });
  });
  m.def("scaled", [](py::handle x, double factor) {
    return by_dtype("x", x, [&](auto type) { return scaled<decltype(type)>(x, factor); });
  });
  m.def("scale_in_place",
        [](py::handle x, double factor) { by_dtype("x", x, [&](auto type) { scale_in_place<decltype(type)>(x, factor); }); });
  m.def("sum_of_squares", [](const py::sequence& arrays) {
    std::vector<ops::Run> runs;
    std::vector<py::object> keep;
    Index total = 0;
    for (const py::handle& array : arrays) {
      if (!is_array(array) || !(is_f32(array) || is_f64(array)))
        refuse_type("expected float32 or float64 arrays, got " + describe(array));
      keep.push_back(contiguous(array));
      const py::handle a = keep.back();
      total += size_of(a);
      runs.push_back({is_f32(a) ? data_of<const float>(a) : nullptr, is_f64(a) ? data_of<const double>(a) : nullptr, size_of(a)});
    }
    return unlocked(elements<float>(total, cost::kMove), [&] { return ops::sum_of_squares(runs); });
  });
}

}  // namespace fastnn::bindings
