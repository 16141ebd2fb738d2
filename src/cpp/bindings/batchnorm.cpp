#include "ops/batchnorm.h"

#include "bindings/arrays.h"
#include "bindings/in_use.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

template <class T>
py::tuple forward(InUse& lock, py::handle x, py::handle gamma, py::handle beta, py::handle running_mean, py::handle running_var,
                  double momentum, double eps, bool train) {
  const Hold hold(lock);
  py::object keep;
  const Matrix<const T> input = contiguous_rows<T>("x", x, keep);
  const Index n = input.cols;
  if (rank(gamma) != 1 || extent(gamma, 0) != n)
    refuse("x must have " + std::to_string(size_of(gamma)) + " numbers a row (gamma has shape " + shape_of(gamma) +
           "), got shape " + shape_of(x));
  if (train && input.rows < 2) refuse("x must have at least 2 rows in training, got shape " + shape_of(x));
  const py::object dense_gamma = contiguous(gamma),
                   dense_beta = is_array(beta) ? contiguous(beta) : py::reinterpret_borrow<py::object>(beta);
  const ops::BatchNormVectors<T> v{vector<const T>("gamma", dense_gamma, n), vector<const T>("beta", dense_beta, n),
                                   vector<T>("running_mean", running_mean, n), vector<T>("running_var", running_var, n)};
  py::object y = new_matrix<T>(input.rows, n), mean = new_vector<T>(n), rstd = new_vector<T>(n);
  const Matrix<T> out = matrix<T>("y", y);
  T *m = data_of<T>(mean), *r = data_of<T>(rstd);
  unlocked(cost::elements<T>(input.rows * n, 3 * cost::kMove), [&] {
    if (train)
      ops::batchnorm_train(input, v, momentum, normal<T>(eps), m, r, out);
    else
      ops::batchnorm_eval(input, v, normal<T>(eps), m, r, out);
  });
  return py::make_tuple(std::move(y), std::move(mean), std::move(rstd));
}

template <class T>
py::object backward(InUse& lock, bool by_batch, py::handle x, py::handle mean, py::handle rstd, py::handle gamma, py::handle dout,
                    py::handle dgamma, py::handle dbeta) {
  const Hold hold(lock);
  py::object keep_x, keep_dy;
  const Matrix<const T> input = contiguous_rows<T>("x", x, keep_x), dy = contiguous_rows<T>("dout", dout, keep_dy);
  const Index n = input.cols;
  if (dy.rows != input.rows || dy.cols != n)
    refuse("dout must have the shape of the output, " + shape_of(x) + ", got " + shape_of(dout));
  const py::object dense_gamma = contiguous(gamma);
  const T *m = vector<const T>("mean", mean, n), *r = vector<const T>("rstd", rstd, n),
          *g = vector<const T>("gamma", dense_gamma, n);
  T *dg = vector<T>("dgamma", dgamma, n), *db = vector<T>("dbeta", dbeta, n);
  py::object dx = new_matrix<T>(input.rows, n);
  const Matrix<T> out = matrix<T>("dx", dx);
  unlocked(cost::elements<T>(input.rows * n, 4 * cost::kMove),
           [&] { ops::batchnorm_backward(by_batch, input, m, r, g, dy, dg, db, out); });
  return dx;
}

}  // namespace

void bind_batchnorm(py::module_& m) {
  m.def("batchnorm_forward", [](InUse& lock, py::handle x, py::handle gamma, py::handle beta, py::handle running_mean,
                                py::handle running_var, double momentum, double eps, bool train) {
    return by_dtype("gamma", gamma, [&](auto type) {
      return forward<decltype(type)>(lock, x, gamma, beta, running_mean, running_var, momentum, eps, train);
    });
  });
  m.def("batchnorm_backward", [](InUse& lock, bool by_batch, py::handle x, py::handle mean, py::handle rstd, py::handle gamma,
                                 py::handle dout, py::handle dgamma, py::handle dbeta) {
    return by_dtype("gamma", gamma, [&](auto type) {
      return backward<decltype(type)>(lock, by_batch, x, mean, rstd, gamma, dout, dgamma, dbeta);
    });
  });
}

}  // namespace fastnn::bindings
