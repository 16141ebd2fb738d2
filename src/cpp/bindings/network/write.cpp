#include "bindings/network/write.h"

#include <algorithm>

namespace fastnn::bindings {
namespace {

// The shape of what a layer takes: that of the data, with an embedding's dim, until an affine layer flattens it.
template <class T>
py::tuple shape_before(std::size_t i, py::handle x, Index rows, const std::vector<Layer<T>>& layers) {
  const auto first = layers.begin(),
             affine = std::find_if(first, layers.end(), [](const Layer<T>& l) { return l.kind == LayerKind::affine; });
  if (i > static_cast<std::size_t>(affine - first)) return py::make_tuple(rows, layers[i].in);
  py::list shape;
  shape.append(rows);
  for (int axis = 1; axis < rank(x); ++axis) shape.append(extent(x, axis));
  if (first->kind == LayerKind::embedding) shape.append(first->dim);
  return py::tuple(shape);
}

}  // namespace

template <class T>
void write_back(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                const network::Plan<T>& plan, py::handle x, const network::Rule& rule, Index updates, Index rows) {
  const Names& name = names();
  for (const auto& [dict, key, array] : call.entries) dict[key] = array;
  const auto count = static_cast<uint64_t>(updates);
  call.trainer[name.steps] = py::int_(rule.step + count);
  call.optimizer[name.step] = py::int_(rule.update.step - 1 + updates);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Call::Found& found = call.layers[i];
    const Layer<T>& layer = layers[i];
    if (layer.kind == LayerKind::dropout) {
      found.attributes[name.seed] = py::int_(layer.seed);
      found.attributes[name.stream] = py::int_(i);
      found.attributes[name.step] = py::int_(rule.step + count);
      const Index numbers = rows * layer.out, bytes = (numbers + 7) / 8;
      py::object kept = new_array(py::dtype::of<uint8_t>(), 1, &bytes);
      std::copy_n(plan.kept(i), bytes, data_of<uint8_t>(kept));
      found.attributes[name.kept] = py::make_tuple(std::move(kept), shape_before(i, x, rows, layers));
    } else if (layer.kind == LayerKind::embedding) {
      const auto distinct = static_cast<Index>(plan.embedding_rows().size());
      py::object indices = new_vector<int64_t>(distinct), values = new_matrix<T>(distinct, layer.dim);
      std::copy_n(plan.embedding_rows().data(), distinct, data_of<int64_t>(indices));
      std::copy_n(plan.embedding_values(), size_of(values), data_of<T>(values));
      const py::object sparse = py::module_::import("fastnn.sparse").attr("RowSparse");
      found.grads[objects[i].names[0]] = sparse.attr("trusted")(indices, values, shape_tuple(found.parameters[0]));
    } else if (has_parameters(layer.kind) && !call.keep) {
      PyDict_Clear(found.grads.ptr());
    }
  }
  py::object y = new_matrix<T>(rows, plan.outputs());
  std::copy_n(plan.predictions(), rows * plan.outputs(), data_of<T>(y));
  call.loss[name.y] = y;
}

#define FASTNN_INSTANTIATE(T)                                                                                                   \
  template void write_back(const std::vector<LayerObject>&, const Call&, const std::vector<Layer<T>>&, const network::Plan<T>&, \
                           py::handle, const network::Rule&, Index, Index);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::bindings
