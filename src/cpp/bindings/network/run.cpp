#include "bindings/network/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <optional>
#include <utility>

#include "bindings/network/write.h"

namespace fastnn::bindings {
namespace {

constexpr Index kKeepBytes = 8 << 20;
constexpr Index kCheckRows = 4096;  // of targets: they are converted to be checked, and no copy of all is to be made
constexpr Index kConverted = 256;   // rows, at most, that are copied as a whole where they cannot be used as they lie

[[noreturn]] void refuse_square(uint64_t step) {
  const std::string message = "the square of a gradient of step " + std::to_string(step) +
                              " is infinite: the elements it belongs to are as before it, the others are updated; scale the "
                              "data or limit the norm with clip_norm; a trainer with nonfinite=\"ignore\" goes on";
  PyErr_SetString(PyExc_FloatingPointError, message.c_str());
  throw py::error_already_set();
}

[[noreturn]] void refuse_replaced() {
  refuse("parameters must be the arrays of the last forward: some were replaced; call forward again");
}

// What a call that may come back to its object is told there.
struct Busy {
  explicit Busy(bool& flag) : flag(flag) { flag = true; }
  ~Busy() { flag = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  bool& flag;
};

py::object not_implemented() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

template <class T>
bool normalizes(const std::vector<Layer<T>>& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const Layer<T>& l) { return l.kind == LayerKind::batchnorm; });
}

// The gradient of the outputs as Python has made it: of their shape and type, contiguous.
template <class T>
py::object output_gradient(py::handle dout, Index rows, Index outputs) {
  static const py::handle like = new_vector<T>(0).release();
  py::object real = is_array(dout) && is_dtype<T>(dout) ? py::reinterpret_borrow<py::object>(dout) : as_real("dout", dout, like);
  if (rank(real) != 2 || extent(real, 0) != rows || extent(real, 1) != outputs)
    refuse("dout must have the output's shape (" + std::to_string(rows) + ", " + std::to_string(outputs) + "), got " +
           shape_of(real));
  return contiguous(real);
}

// Holds the locks of those layers that others may use, to write or only to read.
template <bool writes>
class HoldLayers {
 public:
  explicit HoldLayers(const std::vector<LayerObject>& layers) {
    try {
      for (const LayerObject& layer : layers)
        if (layer.lock && layer.lock->counts()) {
          held_.reserve(layers.size());
          writes ? layer.lock->enter() : layer.lock->enter_reading();
          held_.push_back(layer.lock);
        }
    } catch (...) {
      release();
      throw;
    }
  }
  ~HoldLayers() { release(); }
  HoldLayers(const HoldLayers&) = delete;
  HoldLayers& operator=(const HoldLayers&) = delete;

 private:
  void release() noexcept {
    for (InUse* lock : held_) writes ? lock->leave() : lock->leave_reading();
  }
  std::vector<InUse*> held_;
};
using WriteLayers = HoldLayers<true>;
using ReadLayers = HoldLayers<false>;

// What a loss that is Python's may have done to the network: its arrays may have changed, but must be there still.
void check_unchanged(const std::vector<LayerObject>& layers, const Call& call) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].parameters) continue;
    const py::handle params = find(call.layers[i].attributes, names().params);
    for (int p = 0; p < layers[i].parameters; ++p)
      if (!params || !is_dict(params) || find(params, layers[i].names[p]) != call.layers[i].parameters[p].ptr())
        refuse_replaced();
  }
}

// The optimizer's rate, unless a schedule says it.
double rate_of(const Call& call, double scheduled) {
  PyObject* const lr = find(call.optimizer, names().lr);
  if (lr && PyCallable_Check(lr)) return scheduled;
  if (lr && PyFloat_CheckExact(lr) && PyFloat_AS_DOUBLE(lr) >= 0 && std::isfinite(PyFloat_AS_DOUBLE(lr)))
    return PyFloat_AS_DOUBLE(lr);
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
    function_ = py::reinterpret_borrow<py::object>(entry_of(attributes, names().function));
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

CompiledNetwork::CompiledNetwork(InUse& lock, const py::tuple& layers)
    : lock_(lock), type_(only_class(Role::network)), layers_(layers_of(layers)) {
  try {
    for (; joined_ < layers_.size(); ++joined_)
      if (layers_[joined_].lock) layers_[joined_].lock->join(lock_);
  } catch (...) {
    part();
    throw;
  }
}

void CompiledNetwork::part() noexcept {
  while (joined_ > 0)
    if (const LayerObject& layer = layers_[--joined_]; layer.lock) layer.lock->part(lock_);
}

int CompiledNetwork::traverse(visitproc visit, void* arg) const {
  for (const LayerObject& l : layers_) {
    Py_VISIT(l.object.ptr());
    Py_VISIT(l.block.ptr());
  }
  Py_VISIT(pass_.ptr());
  Py_VISIT(pass_x_.ptr());
  return 0;
}

// What changes from step to step.
void CompiledNetwork::read_rates(py::handle rates, network::Steps& steps) const {
  const auto drops =
      std::count_if(layers_.begin(), layers_.end(), [](const LayerObject& layer) { return layer.kind == LayerKind::dropout; });
  steps.rate_columns = 2 + static_cast<Index>(drops);
  const bool fits = is_array(rates) && is_f64(rates) && is_contiguous(rates) && rank(rates) == 2 && extent(rates, 0) > 0 &&
                    extent(rates, 1) == steps.rate_columns;
  if (!fits) refuse("rates must have rows of " + std::to_string(steps.rate_columns));
  steps.rates = data_of<const double>(rates);
}

struct CompiledNetwork::Request {
  py::handle trainer, x, t, weight, order = py::none();
  Index step = 0, rows = 0;  // rows 0: all of x is one batch
  double scale = 1;
  py::handle rates = py::none();
  double seconds = std::numeric_limits<double>::infinity();
  py::handle losses = py::none();
};

namespace {

// The exception that is being handled, as Python's.
py::object current_exception() {
  try {
    throw;
  } catch (py::error_already_set& error) {
    return error.value();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return py::error_already_set().value();
}

}  // namespace

py::object CompiledNetwork::train(py::handle trainer, py::handle x, py::handle t, py::handle weight, py::handle order, Index step,
                                  Index rows, double scale, py::handle rates, double seconds, py::handle losses) {
  if (step < 0 || rows < 1) refuse("there is no such step");
  return train({trainer, x, t, weight, order, step, rows, scale, rates, seconds, losses});
}

py::object CompiledNetwork::step(py::handle trainer, py::handle x, py::handle t, py::handle weight) {
  return train({trainer, x, t, weight});
}

// A call that trains, from what is read to what is written. It holds the locks as long as it lives.
class CompiledNetwork::Job {
 public:
  // Reads. Throws Unsupported where Python has to do it: also within a call, from which a schedule may come back here, and in a
  // child forked in the middle of one.
  Job(CompiledNetwork& net, const Request& request);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  bool runs_python() const noexcept { return net_.call_.own_loss; }
  // For as many threads as pay off, or for this one alone. Returns what one takes, in nanoseconds. Throws std::bad_alloc.
  double prepare(bool alone) { return wide_ ? prepare(net_.f64_, alone) : prepare(net_.f32_, alone); }
  void run() { wide_ ? run(net_.f64_) : run(net_.f32_); }  // prepared; with the GIL only where it runs Python
  void give_up() noexcept { done_ = {0, 0, true, 0}; }     // it was not run
  py::object finish() { return wide_ ? finish(net_.f64_) : finish(net_.f32_); }

 private:
  template <class T>
  void read(Training<T>& typed);
  template <class T>
  double prepare(Training<T>& typed, bool alone);
  template <class T>
  void run(Training<T>& typed);
  template <class T>
  py::object finish(Training<T>& typed);

  CompiledNetwork& net_;
  const Request& request_;
  const Hold hold_;
  const WriteLayers hold_layers_;
  std::optional<Busy> busy_;
  const Calling calling_;
  std::optional<Hold> hold_optimizer_, hold_average_;
  network::Rule rule_{};
  network::Data data_{};
  network::Steps steps_{};
  network::Done done_{0, 0, true, 0};
  std::exception_ptr failed_;
  Index used_ = 0;  // rows that an epoch uses
  bool wide_ = false, lost_ = false;
  double one_ = 0;
};

CompiledNetwork::Job::Job(CompiledNetwork& net, const Request& request)
    : net_(net), request_(request), hold_(net.lock_), hold_layers_(net.layers_), calling_(net.call_) {
  if (net.training_ || !net.type_.attributes.holds_for(net.type_.type)) throw Unsupported{};
  busy_.emplace(net.training_);
  net.call_.train = true;
  wide_ = look_up(net.layers_, net.call_);
  wide_ ? read(net.f64_) : read(net.f32_);
}

template <class T>
void CompiledNetwork::Job::read(Training<T>& typed) {
  Call& call = net_.call_;
  const std::vector<LayerObject>& objects = net_.layers_;
  const Request& request = request_;
  const bool single = request.rows == 0, indices = net_.takes_indices();
  rule_ = read_rule(call, request.trainer, !single, !request.rates.is_none());
  hold_optimizer_.emplace(*call.lock);
  if (call.average_lock) hold_average_.emplace(*call.average_lock);
  if (!request.rates.is_none()) net_.read_rates(request.rates, steps_);
  read_ratios(objects, call, steps_.rates ? steps_.rates + 2 : nullptr, &rule_.step);

  const Rows rows = read_rows<T>(call, "x", request.x, single, indices);
  const Index n = rows.n;
  if (n == 0) throw Unsupported{};
  data_.x = rows.from;
  data_.scale = request.scale;
  call.features = data_.x.cols;
  call.deep = indices || rank(request.x) > 2;
  if (data_.x.type == number_of<T>()) {
    const char* last = data_.x.data + (n - 1) * data_.x.row_bytes;
    call.x = {std::min(data_.x.data, last), std::max(data_.x.data, last) + data_.x.cols * static_cast<Index>(sizeof(T))};
  }
  const Index part = single ? 0 : read_part(call);
  read_groups(call, objects);
  const bool matrices = call.matrices && PySet_GET_SIZE(call.matrices.ptr()) > 0;
  call.keep = std::isfinite(rule_.clip_norm) || part || matrices || net_.affine_bytes() <= kKeepBytes;
  std::vector<Layer<T>>& layers = typed.layers;
  read_layers(objects, call, layers);
  rule_.factors = call.own_factors;
  if (indices && request.step == 0 && !ops::in_range(data_.x, n, layers.front().vocabulary)) throw Unsupported{};

  if (!call.own_loss)
    read_targets<T>(call, data_, rule_.loss, request.t, n, layers.back().out, single ? n : request.step == 0 ? kCheckRows : 0);
  const Weights weights = weights_of(request.weight, n);
  if (weights.subnormal) throw Unsupported{};  // they would be flushed
  data_.weight = weights.data;
  call.owned.push_back(weights.array);
  used_ = n;
  if (!request.order.is_none()) {
    data_.order = net_.order_.read(request.order, n, request.step == 0);
    used_ = static_cast<Index>(net_.order_.rows.size());
    if (used_ == 0) throw Unsupported{};
  }

  network::Steps& steps = steps_;
  steps.rows = single ? n : std::min(request.rows, used_);
  steps.first = request.step * steps.rows;
  if (steps.first >= used_) throw Unsupported{};
  steps.count = (used_ - steps.first) / steps.rows;
  if (steps.count == 0) {  // what is left of the data is one smaller batch
    steps.rows = used_ - steps.first;
    steps.count = 1;
  }
  if (steps.rates) steps.count = std::min(steps.count, extent(request.rates, 0));
  steps.part = part ? std::min(part, steps.rows) : steps.rows;
  if (steps.part < steps.rows && (call.own_loss || indices)) throw Unsupported{};
  // A layer of batch normalization refuses a single row.
  if (normalizes(layers) && (steps.part == 1 || steps.rows % steps.part == 1)) throw Unsupported{};
  steps.seconds = request.seconds;
  if (single) {
    steps.losses = &one_;
  } else {
    steps.losses = vector<double>("losses", request.losses, extent(request.losses, 0));
    steps.count = std::min(steps.count, extent(request.losses, 0));
  }
  rule_.update.lost = &lost_;
  limit<T>(rule_);
}

template <class T>
double CompiledNetwork::Job::prepare(Training<T>& typed, bool alone) {
  const bool clip = std::isfinite(rule_.clip_norm);
  if (runs_python()) {
    typed.halves.prepare(typed.layers, steps_.rows, clip);
    return 0;
  }
  typed.runner.prepare(typed.layers, steps_.rows, steps_.part, clip, alone);
  return typed.runner.cost() * static_cast<double>(steps_.count);
}

template <class T>
void CompiledNetwork::Job::run(Training<T>& typed) {
  try {
    if (runs_python())
      net_.run_by_python(typed, request_, data_, steps_, rule_, done_);
    else
      done_ = typed.runner.run(typed.layers, data_, steps_, rule_);
  } catch (...) {
    failed_ = std::current_exception();
  }
}

template <class T>
py::object CompiledNetwork::Job::finish(Training<T>& typed) {
  const bool single = request_.rows == 0;
  const network::Plan<T>& plan = runs_python() ? typed.halves.plan() : typed.runner.last_plan();
  if (done_.updates > 0) write_back(net_.layers_, net_.call_, typed.layers, plan, request_.x, rule_, done_.updates);
  if (failed_) std::rethrow_exception(failed_);
  if (steps_.first + done_.steps * steps_.rows >= used_) net_.order_.clear();
  if (lost_ && rule_.stop_at_nonfinite) refuse_square(rule_.step + static_cast<uint64_t>(done_.updates) - 1);
  const bool bad_loss = !done_.finite && !std::isfinite(done_.loss), bad_norm = !done_.finite && !bad_loss;
  // What a loss that is large, statistics or a norm may mean is for the step in Python to find out. The steps before it are
  // returned like any others; the next call comes upon it first.
  if (bad_norm && done_.steps == 0) return py::none();
  if (single) return py::float_(done_.finite ? one_ : done_.loss);
  return py::make_tuple(done_.updates, done_.steps, bad_loss ? py::object(py::float_(done_.loss)) : py::none());
}

// None where Python has to do it.
py::object CompiledNetwork::train(const Request& request) {
  try {
    Job job(*this, request);
    const double cost = job.prepare(false);
    if (job.runs_python())
      job.run();
    else
      unlocked(cost, [&] { job.run(); });
    return job.finish();
  } catch (const Unsupported&) {
    return py::none();
  }
}

// Each call's result, or the exception that it has raised. Each is one thread's from its beginning to its end; those that none
// has begun when the time is over have done no step.
py::list CompiledNetwork::train_together(const py::list& calls, double seconds) {
  using Clock = std::chrono::steady_clock;
  struct One {
    CompiledNetwork* net;
    Request request;
    std::optional<Job> job;
    py::object result = py::none();
  };
  std::vector<One> all(calls.size());
  std::vector<Job*> ready;
  double cost = 0;
  const auto guarded = [](One& one, auto&& f) {
    try {
      f();
    } catch (const Unsupported&) {
      one.job.reset();
    } catch (...) {
      one.job.reset();
      one.result = current_exception();
    }
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    One& one = all[i];
    const py::tuple call = calls[i], a = call[1];
    one.net = &call[0].cast<CompiledNetwork&>();
    one.request = {a[0], a[1], a[2], a[3]};
    if (a.size() > 4)
      one.request = {
          a[0], a[1], a[2], a[3], a[4], a[5].cast<Index>(), a[6].cast<Index>(), a[7].cast<double>(), a[8], a[9].cast<double>(),
          a[10]};
    guarded(one, [&] {
      one.job.emplace(*one.net, one.request);
      cost += one.job->prepare(true);
      one.job->runs_python() ? one.job->run() : ready.push_back(&*one.job);
    });
  }
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  unlocked(cost, [&] {
    run_team(crew_for(cost), [&](Team& team) {
      team.phase(static_cast<Index>(ready.size()), [&](Member& member) {
        for (Index i; (i = member.next()) >= 0;) {
          Job& job = *ready[static_cast<std::size_t>(i)];
          Clock::now() < deadline ? job.run() : job.give_up();
        }
      });
    });
  });
  py::list results;
  for (One& one : all) {
    if (one.job) guarded(one, [&] { one.result = one.job->finish(); });
    one.job.reset();
    results.append(one.result);
  }
  return results;
}

Index CompiledNetwork::affine_bytes() const {
  Index bytes = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].kind == LayerKind::affine && is_array(call_.layers[i].parameters[0]))
      bytes += size_of(call_.layers[i].parameters[0]) * 4;
  return bytes;
}

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
        const py::slice slice(first, first + rows, 1);
        return request.order.is_none() ? py::object(all[slice]) : py::object(all[request.order[slice]]);
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

py::object CompiledNetwork::forward(py::handle x, py::handle pass) {
  const Hold hold(lock_);
  const WriteLayers hold_layers(layers_);
  if (training_ || passing_ || !type_.attributes.holds_for(type_.type)) return not_implemented();
  const Busy busy(passing_);
  const Calling calling(pass_call_);
  pass_call_.alone = pass_call_.keep = true;
  try {
    return look_up(layers_, pass_call_) ? forward_as(kept_f64_, x, pass) : forward_as(kept_f32_, x, pass);
  } catch (const Unsupported&) {
    return not_implemented();
  }
}

template <class T>
py::object CompiledNetwork::forward_as(Kept<T>& kept, py::handle x, py::handle pass) {
  Call& call = pass_call_;
  const Rows rows = read_rows<T>(call, "x", x, true, takes_indices());
  const Index n = rows.n;
  call.features = rows.from.cols;
  call.deep = takes_indices() || rank(x) > 2;
  std::vector<Layer<T>>& layers = kept.forward;
  read_ratios(layers_, call, nullptr, nullptr);
  read_layers(layers_, call, layers);
  if (n == 0 || (n == 1 && normalizes(layers))) throw Unsupported{};  // which its layer refuses
  if (takes_indices() && !ops::in_range(rows.from, n, layers.front().vocabulary)) throw Unsupported{};
  py::object y = new_matrix<T>(n, layers.back().out);
  pass_ = pass_x_ = py::object();
  kept.halves.prepare(layers, n, false);
  unlocked(kept.halves.plan().forward_cost(), [&] {
    kept.halves.forward(layers, rows.from, nullptr, 0, 1, 0, data_of<T>(y));
    kept.halves.update_statistics();
  });
  const Names& name = names();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const py::object& attributes = call.layers[i].attributes;
    if (layers[i].kind == LayerKind::dropout) {
      attributes[name.step] = py::int_(layers[i].step + 1);
      write_kept(call, layers, kept.halves.plan(), i, x, n);
    }
    attributes[name.saved] = pass;
  }
  pass_shape_.assign(1, n);
  for (int axis = 1; axis < rank(x); ++axis) pass_shape_.push_back(extent(x, axis));
  pass_x_ = rows.array;
  pass_wide_ = sizeof(T) == sizeof(double);
  pass_ = py::reinterpret_borrow<py::object>(pass);
  return y;
}

py::object CompiledNetwork::backward(py::handle dout, bool parameters, bool input) {
  const Hold hold(lock_);
  const WriteLayers hold_layers(layers_);
  if (training_ || passing_ || !pass_ || !type_.attributes.holds_for(type_.type)) return not_implemented();
  const Busy busy(passing_);
  const Calling calling(pass_call_);
  pass_call_.train = parameters;
  pass_call_.keep = true;
  try {
    const bool wide = look_up(layers_, pass_call_);
    for (const Call::Found& layer : pass_call_.layers)
      if (find(layer.attributes, names().saved) != pass_.ptr()) return not_implemented();
    if (wide != pass_wide_) refuse_replaced();
    return wide ? backward_as(kept_f64_, dout, parameters, input) : backward_as(kept_f32_, dout, parameters, input);
  } catch (const Unsupported&) {
    return not_implemented();
  }
}

template <class T>
py::object CompiledNetwork::backward_as(Kept<T>& kept, py::handle dout, bool parameters, bool input) {
  Call& call = pass_call_;
  const std::vector<Layer<T>>& before = kept.forward;
  std::vector<Layer<T>>& layers = kept.backward;
  std::vector<double> ratios;  // the forward's
  for (const Layer<T>& layer : before)
    if (layer.kind == LayerKind::dropout) ratios.push_back(layer.ratio);
  read_ratios(layers_, call, ratios.data(), nullptr);
  call.features = before.front().in;
  read_layers(layers_, call, layers);
  const auto replaced = [](const network::Parameter<T>& a, const network::Parameter<T>& b) {
    return a.p != b.p || a.size != b.size;
  };
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (replaced(layers[i].weight, before[i].weight) || replaced(layers[i].bias, before[i].bias)) refuse_replaced();
  const Index n = kept.halves.rows();
  const py::object dy = output_gradient<T>(dout, n, layers.back().out);
  const bool wants_dx = input && !takes_indices();
  py::object dx = py::none();
  if (wants_dx) dx = new_array(py::dtype::of<T>(), static_cast<int>(pass_shape_.size()), pass_shape_.data());
  const network::Plan<T>& plan = kept.halves.plan();
  unlocked(plan.cost() - plan.forward_cost(),
           [&] { kept.halves.backward(layers, data_of<const T>(dy), parameters, wants_dx ? data_of<T>(dx) : nullptr); });
  if (!parameters) return dx;
  for (const auto& [dict, key, array] : call.entries) dict[key] = array;
  write_embedding(layers_, call, layers, plan);
  return dx;
}

// One of a network's readers, as long as a prediction takes; a new one where all others are lent.
class CompiledNetwork::Lent {
 public:
  explicit Lent(std::vector<std::unique_ptr<Reader>>& free) : free_(free) {
    if (free_.empty()) {
      reader_ = std::make_unique<Reader>();
      return;
    }
    reader_ = std::move(free_.back());
    free_.pop_back();
  }
  ~Lent() {
    reader_->call.clear();
    free_.push_back(std::move(reader_));
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  Reader& operator*() const { return *reader_; }

 private:
  std::vector<std::unique_ptr<Reader>>& free_;
  std::unique_ptr<Reader> reader_;
};

py::object CompiledNetwork::infer(py::handle x, double scale) {
  const HoldReading hold(lock_);
  const ReadLayers hold_layers(layers_);
  if (!type_.attributes.holds_for(type_.type)) return py::none();
  const Lent lent(readers_);
  Reader& reader = *lent;
  try {
    const bool wide = look_up(layers_, reader.call);
    return wide ? infer_as(reader.call, reader.f64, x, scale) : infer_as(reader.call, reader.f32, x, scale);
  } catch (const Unsupported&) {
    return py::none();
  }
}

template <class T>
py::object CompiledNetwork::infer_as(Call& call, Inference<T>& typed, py::handle x, double scale) {
  read_ratios(layers_, call, nullptr, nullptr);
  const bool indices = takes_indices(), few = is_array(x) && rank(x) > 0 && extent(x, 0) <= kConverted;
  const Rows rows = read_rows<T>(call, "x", x, few, indices);
  const ops::RowSource& from = rows.from;
  const Index n = rows.n;
  if (n == 0 || (indices && scale != 1)) throw Unsupported{};
  call.features = from.cols;
  call.deep = indices || rank(x) > 2;
  std::vector<Layer<T>>& layers = typed.layers;
  read_layers(layers_, call, layers);
  if (indices && !ops::in_range(from, n, layers.front().vocabulary)) throw Unsupported{};
  py::object y = new_matrix<T>(n, layers.back().out);
  T* out = data_of<T>(y);
  typed.predictor.prepare(layers, from, n, scale);
  unlocked(typed.predictor.cost(), [&] { typed.predictor.run(layers, from, n, scale, out); });
  return y;
}

}  // namespace fastnn::bindings
