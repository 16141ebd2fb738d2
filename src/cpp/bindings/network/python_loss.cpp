// Steps whose loss is Python's.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "bindings/network/job.h"

namespace fastnn::bindings {
namespace {

// What a loss that is Python's may have done to the network: its arrays may have changed, but must be there still.
void check_unchanged(const std::vector<LayerObject>& layers, const Call& call) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].parameters) continue;
    const py::object params = find(call.layers[i].attributes, names().params);
    for (int p = 0; p < layers[i].parameters; ++p)
      if (!params || !is_dict(params) || !find(params, layers[i].names[p]).is(call.layers[i].parameters[p])) refuse_replaced();
  }
}

// The optimizer's rate, unless a schedule says it.
double rate_of(const Call& call, double scheduled) {
  const py::object lr = find(call.optimizer, names().lr);
  if (lr && PyCallable_Check(lr.ptr())) return scheduled;
  if (lr && PyFloat_CheckExact(lr.ptr()) && PyFloat_AS_DOUBLE(lr.ptr()) >= 0 && std::isfinite(PyFloat_AS_DOUBLE(lr.ptr())))
    return PyFloat_AS_DOUBLE(lr.ptr());
  return call.optimizer_object.attr(names().rate)().cast<double>();
}

// A trainer's loss that is Python's.
template <class T>
class PythonLoss {
 public:
  PythonLoss(py::handle trainer, const network::Rule& rule) : trainer_(trainer), checks_(rule.stop_at_nonfinite) {
    criterion_ = trainer.attr(names().criterion);
    if (rule.per_row || !only_class(Role::function).has(criterion_)) {
      general_ = trainer.attr(names().loss_and_gradient);
      return;
    }
    const py::dict attributes = attributes_of(criterion_);
    function_ = entry_of(attributes, names().function);
    weighs_ = truth(attributes, names().weighs);
  }

  // The loss of some rows and its gradient with respect to y, contiguous and in its shape.
  std::pair<double, py::object> operator()(py::handle y, py::handle t, py::handle weight) const {
    if (general_ || (!weighs_ && !weight.is_none())) {
      const py::tuple result = (general_ ? general_ : py::object(trainer_.attr(names().loss_and_gradient)))(y, t, weight);
      return {result[0].cast<double>(), output_gradient<T>(result[1], extent(y, 0), extent(y, 1))};
    }
    py::object result = weighs_ ? function_(y, t, weight) : function_(y, t);
    PyObject* const pair = result.ptr();
    const bool plain = PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2 && PyFloat_CheckExact(PyTuple_GET_ITEM(pair, 0)) &&
                       is_array(PyTuple_GET_ITEM(pair, 1)) && is_dtype<T>(PyTuple_GET_ITEM(pair, 1)) &&
                       is_contiguous(PyTuple_GET_ITEM(pair, 1)) && same_shape(PyTuple_GET_ITEM(pair, 1), y);
    if (!plain) result = criterion_.attr(names().checked)(y, result);
    const py::handle dout = PyTuple_GET_ITEM(result.ptr(), 1);
    return {PyFloat_AsDouble(PyTuple_GET_ITEM(result.ptr(), 0)), output_gradient<T>(dout, extent(y, 0), extent(y, 1))};
  }

  // Raises as the trainer does where a function's gradient is not finite.
  void check(py::handle dout) const {
    if (!checks_ || !function_) return;
    const T* g = data_of<const T>(dout);
    T sum = 0;  // of numbers that are 0 unless they are infinite or NaN
    for (Index i = 0, n = size_of(dout); i < n; ++i) sum += g[i] * T(0);
    if (sum != 0 || std::isnan(sum)) trainer_.attr(names().check_finite)("gradient that the loss returns", std::nan(""));
  }

 private:
  py::handle trainer_;
  bool checks_, weighs_ = false;
  py::object criterion_, general_, function_;
};

}  // namespace

// Steps whose loss the trainer's own Python computes, between their halves. What was done when it raises is in `done`.
template <class T>
void CompiledNetwork::run_by_python(Training<T>& typed, const Request& request, const network::Data& data,
                                    const network::Steps& steps, const network::Rule& rule, network::Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::duration<double>(steps.seconds);
  network::Halves<T>& halves = typed.halves;
  const Index rows = steps.rows, outputs = typed.layers.back().out;
  const double forward_cost = halves.plan().forward_cost(), cost = halves.plan().cost() - forward_cost;
  PythonLoss<T> compute(request.trainer, rule);
  const bool whole = request.rows == 0;  // x, t and weight are one batch
  network::Rule now = rule;
  for (Index s = 0; s < steps.count; ++s) {
    std::size_t drops = 0;
    const Index first = steps.first + s * rows;
    const bool enough = Clock::now() >= deadline;
    bool weighs = !data.weight;
    for (Index i = first; !weighs && i < first + rows; ++i) weighs = data.weight[data.order ? data.order[i] : i] > 0;
    if (weighs) {
      now.step = rule.step + static_cast<uint64_t>(done.updates);
      now.update.step = rule.update.step + done.updates;
      if (const double* rates = steps.rates_of(done.updates)) {
        now.update.lr = rates[0];
        now.update.weight_decay = rates[1];
        for (Layer<T>& layer : typed.layers)
          if (layer.kind == LayerKind::dropout) layer.ratio = rates[2 + drops++];
        halves.renew(typed.layers);
      }
      py::object y = new_matrix<T>(rows, outputs);
      unlocked(forward_cost,
               [&] { halves.forward(typed.layers, data.x, data.order, first, data.scale, now.step, data_of<T>(y)); });
      const auto batch = [&](py::handle all) -> py::object {
        if (whole || all.is_none()) return py::reinterpret_borrow<py::object>(all);
        if (!data.order) return all[py::slice(first, first + rows, 1)];
        py::object some = new_vector<int64_t>(rows);
        std::copy_n(data.order + first, rows, data_of<int64_t>(some));
        return all[some];
      };
      const auto [loss, dout] = compute(y, batch(request.t), batch(request.weight));
      check_unchanged(layers_, call_);
      if (!steps.rates) now.update.lr = rate_of(call_, now.update.lr);
      done.loss = loss;
      done.finite = !rule.stop_at_nonfinite || std::fabs(loss) <= rule.largest_loss;
      if (!done.finite) return;
      compute.check(dout);
      done.finite = unlocked(cost, [&] { return halves.finish(typed.layers, data_of<const T>(dout), now); });
      if (!done.finite) return;
      steps.losses[done.updates++] = done.loss;
      write_counters(call_, rule, done.updates);
    }
    done.steps = s + 1;
    if (enough || (rule.update.lost && *rule.update.lost)) return;
  }
}

template void CompiledNetwork::run_by_python(Training<float>&, const Request&, const network::Data&, const network::Steps&,
                                             const network::Rule&, network::Done&);
template void CompiledNetwork::run_by_python(Training<double>&, const Request&, const network::Data&, const network::Steps&,
                                             const network::Rule&, network::Done&);

}  // namespace fastnn::bindings
