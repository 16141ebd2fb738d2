// Networks of native layers, compiled: what the Python objects say is read anew for each call, then steps run without them, and
// what they leave is written back.
#include "bindings/network/crowd.h"
#include "bindings/network/run.h"
#include "ops/cost.h"
#include "ops/shuffle.h"

namespace fastnn::bindings {

void bind_network(py::module_& m) {
  m.def("permutation", [](Index n, uint64_t seed, uint64_t epoch) {
    py::object order = new_vector<int64_t>(n);
    int64_t* to = data_of<int64_t>(order);
    unlocked(cost::elements<double>(n, 10 * cost::kRandom), [&] { ops::permutation(seed, epoch, n, to); });
    return order;
  });
  const auto collected = [](PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      return py::detail::is_holder_constructed(self) ? py::cast<CompiledNetwork&>(py::handle(self)).traverse(visit, arg) : 0;
    };
    type.tp_clear = [](PyObject* self) {
      if (py::detail::is_holder_constructed(self)) py::cast<CompiledNetwork&>(py::handle(self)).clear();
      return 0;
    };
  };
  m.attr("LAYERS") = numbered(network::kLayerNames);
  py::class_<CompiledNetwork>(m, "CompiledNetwork", py::custom_type_setup(collected))
      .def(py::init<InUse&, const py::tuple&>(), py::keep_alive<1, 2>())
      .def("step", &CompiledNetwork::step, py::arg("trainer"), py::arg("x"), py::arg("t"), py::arg("weight"), py::arg("cut") = 0)
      .def("train", py::overload_cast<const py::args&>(&CompiledNetwork::train))
      .def_static("step_together", &CompiledNetwork::step_together)
      .def("pieces", &CompiledNetwork::pieces)
      .def("forward", &CompiledNetwork::forward)
      .def("backward", &CompiledNetwork::backward)
      .def("infer", &CompiledNetwork::infer);
  py::class_<Crowd>(m, "Crowd")
      .def(py::init<int>())
      .def("begin", &Crowd::begin)
      .def("next", &Crowd::next)
      .def("close", &Crowd::close);
  m.def("register_class", &register_class, py::arg("role"), py::arg("type"), py::arg("kind") = 0, py::arg("activation") = 0,
        py::arg("names") = py::tuple(), py::arg("slots") = py::tuple());
}

}  // namespace fastnn::bindings
