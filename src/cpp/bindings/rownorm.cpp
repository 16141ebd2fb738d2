#include "ops/rownorm.h"

#include "bindings/arrays.h"
#include "bindings/in_use.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

// What a layer holds may have been replaced by anything.
py::object dense(const char* name, py::handle array) {
  if (!is_array(array)) refuse_type(std::string(name) + " must be an array, got " + describe(array));
  return contiguous(array);
}

// `beta` is None for RMSNorm, whose rows are not centred.
template <class T>
py::tuple forward(py::handle x, py::handle gamma, py::handle beta, double eps) {
  py::object keep;
  const Matrix<const T> input = contiguous_rows<T>("x", dense("x", x), keep);
  const Index n = input.cols;
  const bool centred = !beta.is_none();
  const py::object dense_gamma = dense("gamma", gamma), dense_beta = centred ? dense("beta", beta) : py::object(py::none());
  py::object y = new_matrix<T>(input.rows, n), mean = py::none(), rstd = new_vector<T>(input.rows);
  if (centred) mean = new_vector<T>(input.rows);
  const RowNorm<T> r{input.rows,       n,
                     input.data,       centred ? data_of<T>(mean) : nullptr,
                     data_of<T>(rstd), vector<const T>("gamma", dense_gamma, n)};
  const T* add = centred ? vector<const T>("beta", dense_beta, n) : nullptr;
  T* to = data_of<T>(y);
  unlocked(cost::elements<T>(input.rows * n, 2 * cost::kMove), [&] { ops::rownorm_forward(r, normal<T>(eps), add, to); });
  return py::make_tuple(std::move(y), std::move(mean), std::move(rstd));
}

template <class T>
py::object backward(InUse& lock, py::handle x, py::handle mean, py::handle rstd, py::handle gamma, py::handle dout,
                    py::handle dgamma, py::handle dbeta) {
  const Hold hold(lock);
  py::object keep_x, keep_dy;
  const Matrix<const T> input = contiguous_rows<T>("x", dense("x", x), keep_x),
                        dy = contiguous_rows<T>("dout", dense("dout", dout), keep_dy);
  const Index n = input.cols;
  if (dy.rows != input.rows || dy.cols != n)
    refuse("dout must have the shape of the output, " + shape_of(x) + ", got " + shape_of(dout));
  const bool centred = !mean.is_none();
  const py::object dense_gamma = dense("gamma", gamma);
  const RowNorm<T> r{input.rows,
                     n,
                     input.data,
                     centred ? vector<T>("mean", mean, input.rows) : nullptr,
                     vector<T>("rstd", rstd, input.rows),
                     vector<const T>("gamma", dense_gamma, n)};
  T *dg = vector<T>("dgamma", dgamma, n), *db = centred ? vector<T>("dbeta", dbeta, n) : nullptr;
  py::object dx = new_matrix<T>(input.rows, n);
  T* to = data_of<T>(dx);
  const T* from = dy.data;
  unlocked(cost::elements<T>(input.rows * n, 4 * cost::kMove), [&] { ops::rownorm_backward(r, from, dg, db, to); });
  return dx;
}

}  // namespace

void bind_rownorm(py::module_& m) {
  m.def("rownorm_forward", [](py::handle x, py::handle gamma, py::handle beta, double eps) {
    return by_dtype("gamma", gamma, [&](auto type) { return forward<decltype(type)>(x, gamma, beta, eps); });
  });
  m.def("rownorm_backward", [](InUse& lock, py::handle x, py::handle mean, py::handle rstd, py::handle gamma, py::handle dout,
                               py::handle dgamma, py::handle dbeta) {
    return by_dtype("gamma", gamma,
                    [&](auto type) { return backward<decltype(type)>(lock, x, mean, rstd, gamma, dout, dgamma, dbeta); });
  });
}

}  // namespace fastnn::bindings
