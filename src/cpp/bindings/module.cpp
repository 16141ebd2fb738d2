// The native core of fastnn: a table of contents.
#include "bindings/arrays.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace fastnn::bindings;
  m.doc() = "Native kernels of fastnn. Private: use the classes of the package.";
  bind_rownorm(m);
  bind_runtime(m);
  bind_in_use(m);
  bind_affine(m);
  bind_batchnorm(m);
  bind_c_api(m);
  bind_elementwise(m);
  bind_embedding(m);
  bind_losses(m);
  bind_network(m);
  bind_optimizers(m);
  bind_sparse(m);
}
