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
void write_kept(const Call& call, const std::vector<Layer<T>>& layers, const network::Plan<T>& plan, std::size_t layer,
                py::handle x, Index rows) {
  const Index numbers = rows * layers[layer].out, bytes = (numbers + 7) / 8;
  py::object kept = new_array(py::dtype::of<uint8_t>(), 1, &bytes);
  std::copy_n(plan.kept(layer), bytes, data_of<uint8_t>(kept));
  call.layers[layer].attributes[names().kept] = py::make_tuple(std::move(kept), shape_before(layer, x, rows, layers));
}

template <class T>
void write_embedding(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                     const network::Plan<T>& plan) {
  if (layers.front().kind != LayerKind::embedding || layers.front().weight.frozen) return;
  const auto distinct = static_cast<Index>(plan.embedding_rows().size());
  py::object indices = new_vector<int64_t>(distinct), values = new_matrix<T>(distinct, layers.front().dim);
  std::copy_n(plan.embedding_rows().data(), distinct, data_of<int64_t>(indices));
  std::copy_n(plan.embedding_values(), size_of(values), data_of<T>(values));
  const Call::Found& found = call.layers.front();
  const py::object sparse = py::module_::import("fastnn.sparse").attr("RowSparse");
  found.grads[objects.front().names[0]] = sparse.attr("trusted")(indices, values, shape_tuple(found.parameters[0]));
}

void write_counters(const Call& call, const network::Rule& rule, Index updates) {
  call.trainer[names().steps] = py::int_(rule.step + static_cast<uint64_t>(updates));
  call.optimizer[names().step] = py::int_(rule.update.step - 1 + updates);
}

template <class T>
void write_back(const std::vector<LayerObject>& objects, const Call& call, const std::vector<Layer<T>>& layers,
                const network::Plan<T>& plan, py::handle x, const network::Rule& rule, Index updates) {
  const Index rows = plan.rows();
  const Names& name = names();
  for (const auto& [dict, key, array] : call.entries) dict[key] = array;
  write_counters(call, rule, updates);
  write_embedding(objects, call, layers, plan);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Call::Found& found = call.layers[i];
    const Layer<T>& layer = layers[i];
    if (layer.kind == LayerKind::dropout) {
      found.attributes[name.seed] = py::int_(layer.seed);
      found.attributes[name.stream] = py::int_(layer.stream);
      found.attributes[name.step] = py::int_(rule.step + static_cast<uint64_t>(updates));
      if (!call.averages.empty()) call.averages[i][name.step] = found.attributes[name.step];
      write_kept(call, layers, plan, i, x, rows);
    } else if (layer.kind != LayerKind::embedding && objects[i].parameters > 0 && !call.keep) {
      PyDict_Clear(found.grads.ptr());
    }
  }
  if (call.own_loss) return;
  py::object y = new_matrix<T>(rows, plan.outputs());
  std::copy_n(plan.predictions(), rows * plan.outputs(), data_of<T>(y));
  call.loss[name.y] = y;
}

#define FASTNN_INSTANTIATE(T)                                                                                                   \
  template void write_kept(const Call&, const std::vector<Layer<T>>&, const network::Plan<T>&, std::size_t, py::handle, Index); \
  template void write_embedding(const std::vector<LayerObject>&, const Call&, const std::vector<Layer<T>>&,                     \
                                const network::Plan<T>&);                                                                       \
  template void write_back(const std::vector<LayerObject>&, const Call&, const std::vector<Layer<T>>&, const network::Plan<T>&, \
                           py::handle, const network::Rule&, Index);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::bindings
