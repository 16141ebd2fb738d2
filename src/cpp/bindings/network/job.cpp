#include "bindings/network/job.h"

#include <cmath>
#include <string>
#include <tuple>
#include <utility>

namespace fastnn::bindings {
namespace {

constexpr Index kKeepBytes = 8 << 20;
constexpr Index kCheckRows = 4096;  // of targets: they are converted to be checked, and no copy of all is to be made

[[noreturn]] void refuse_square(uint64_t step) {
  const std::string message = "the square of a gradient of step " + std::to_string(step) +
                              " is infinite: the elements it belongs to are as before it, the others are updated; scale the "
                              "data or limit the norm with clip_norm; a trainer with nonfinite=\"ignore\" goes on";
  PyErr_SetString(PyExc_FloatingPointError, message.c_str());
  throw py::error_already_set();
}

}  // namespace

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

CompiledNetwork::Request CompiledNetwork::Request::of(const py::tuple& a) {
  if (a.size() == 4) return {a[0], a[1], a[2], a[3]};
  if (a.size() != 11 && a.size() != 12) refuse("a training takes 4, 11 or 12 arguments, got " + std::to_string(a.size()));
  Request r{a[0], a[1], a[2], a[3], a[4], a[5].cast<Index>(), a[6].cast<Index>(), a[7].cast<double>(), a[8], a[9].cast<double>(),
            a[10]};
  if (a.size() == 12) r.cut = a[11].cast<Index>();
  if (r.step < 0 || r.rows < 1 || r.cut < 0) refuse("there is no such step");
  return r;
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

Index CompiledNetwork::affine_bytes() const {
  Index bytes = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].kind == LayerKind::affine && is_array(call_.layers[i].parameters[0]))
      bytes += size_of(call_.layers[i].parameters[0]) * 4;
  return bytes;
}

CompiledNetwork::Job::Job(CompiledNetwork& net, const Request& request)
    : net_(net), request_(request), hold_(net.lock_), hold_layers_(net.layers_) {
  if (net.training_ || !net.type_.attributes.holds_for(net.type_.type)) throw Unsupported{};
  busy_.emplace(net.training_);
  calling_.emplace(net.call_);  // not before: of another's call, on the same thread, nothing is to be forgotten
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
  const bool wanted = !request.pieces.is_none() || std::isfinite(rule_.clip_norm) || part || matrices;
  call.keep = wanted || net_.affine_bytes() <= kKeepBytes;
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
    net_.order_.read(request.order, n, request.step == 0);
    used_ = net_.order_.size();
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
  steps.pieces = request.cut;
  const bool whole = steps.part == steps.rows && steps.pieces == 0 && request.pieces.is_none();
  if (!whole && (call.own_loss || indices)) throw Unsupported{};
  if (steps.part < steps.rows && steps.pieces) throw Unsupported{};
  // A layer of batch normalization refuses a single row, unless others have some of its batch.
  if (normalizes(layers) && request.pieces.is_none() && (steps.part == 1 || steps.rows % steps.part == 1)) throw Unsupported{};
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
  typed.runner.prepare(typed.layers, steps_, clip, alone);
  return typed.runner.cost() * static_cast<double>(steps_.count);
}

template <class T>
void CompiledNetwork::Job::run(Training<T>& typed) {
  try {
    if (!request_.order.is_none()) data_.order = net_.order_.draw();
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

namespace {

// What processes that have pieces of a batch share is Python's to send: share(memory of a row for each piece).
template <class T>
struct ByPython {
  const py::object& share;
  Index pieces;
  std::exception_ptr failed;

  static void call(void* context, T* by_piece, Index width) {
    ByPython& self = *static_cast<ByPython*>(context);
    if (self.failed) return;
    const py::gil_scoped_acquire gil;
    try {
      const auto row = width * static_cast<Index>(sizeof(T));
      self.share(py::memoryview::from_buffer(by_piece, {self.pieces, width}, {row, static_cast<Index>(sizeof(T))}));
    } catch (...) {
      self.failed = std::current_exception();
    }
  }
};

}  // namespace

// The losses of the pieces that count and the nodes that are left, (level, place), or a loss that is not finite, where the
// trainer minds; and mean and variance of each layer of batch normalization.
template <class T>
py::object CompiledNetwork::Job::pass_pieces(Training<T>& typed) {
  const auto [bounds, first, last, counts, divisor, room, share] =
      py::cast<std::tuple<py::object, Index, Index, py::object, double, py::object, py::object>>(request_.pieces);
  const bool arrays = is_array(bounds) && is_i64(bounds) && is_contiguous(bounds) && rank(bounds) == 1 && is_array(counts) &&
                      is_u8(counts) && is_contiguous(counts) && rank(counts) == 1 && is_array(room) && is_dtype<T>(room) &&
                      is_contiguous(room) && rank(room) == 2 && is_writeable(room);
  const Index count = arrays ? extent(counts, 0) : 0;
  if (!arrays || extent(bounds, 0) != count + 1 || first < 0 || first >= last || last > count)
    refuse("pieces must be (bounds, first, last, counts, divisor, room, share)");
  const int64_t* const bound = data_of<const int64_t>(bounds);
  const uint8_t* const does = data_of<const uint8_t>(counts);
  bool in_order = bound[0] == 0 && bound[last] - bound[first] == used_;
  for (Index i = 0; i < count; ++i) in_order = in_order && bound[i] <= bound[i + 1];
  if (!in_order) refuse("pieces must be cut in order, and x the rows of those at hand");
  network::Tree tree;
  tree.cut(count, first, last, [&](Index i) { return bound[i + 1] - bound[i]; });
  Index size = 0;
  for (const Layer<T>& layer : typed.layers)
    for (const network::Parameter<T>* p : {&layer.weight, &layer.bias})
      if (!p->frozen) size += p->size;
  if (extent(room, 1) != size || extent(room, 0) < static_cast<Index>(tree.roots().size()))  // with fewer pieces as many or fewer
    refuse("room must have a number for each that is trained, and a row for each node");
  std::vector<double> losses(static_cast<std::size_t>(last - first));
  ByPython<T> python{share, count, nullptr};
  const network::Exchange<T> exchange{ByPython<T>::call, &python};
  rule_.largest_loss = std::numeric_limits<double>::max();  // the trainer looks at the gradients of all
  const network::Pieces<T> pieces{&tree, does, divisor, share.is_none() ? nullptr : &exchange, losses.data(), data_of<T>(room)};
  const bool finite =
      unlocked(std::numeric_limits<double>::infinity(), [&] { return typed.runner.pieces(typed.layers, data_, rule_, pieces); });
  if (python.failed) std::rethrow_exception(python.failed);
  for (const auto& [dict, key, array] : net_.call_.entries) dict[key] = array;
  py::list own, nodes, moments;
  losses.resize(static_cast<std::size_t>(tree.own().count));
  for (const double loss : losses) {
    if (!finite && !std::isfinite(loss)) return py::float_(loss);
    own.append(loss);
  }
  for (const network::TreeNode& node : tree.roots()) nodes.append(py::make_tuple(node.level, node.place));
  const network::Plan<T>& plan = typed.runner.last_plan();
  for (std::size_t i = 0; i < typed.layers.size(); ++i) {
    if (typed.layers[i].kind != LayerKind::batchnorm) continue;
    const Index cols = typed.layers[i].out;
    py::object mean = new_vector<T>(cols), variance = new_vector<T>(cols);
    std::copy_n(plan.mean(i), cols, data_of<T>(mean));
    std::copy_n(plan.variance(i), cols, data_of<T>(variance));
    moments.append(py::make_tuple(mean, variance));
  }
  return py::make_tuple(own, nodes, moments);
}

double CompiledNetwork::Job::prepare(bool alone) { return wide_ ? prepare(net_.f64_, alone) : prepare(net_.f32_, alone); }
void CompiledNetwork::Job::run() { wide_ ? run(net_.f64_) : run(net_.f32_); }
py::object CompiledNetwork::Job::finish() { return wide_ ? finish(net_.f64_) : finish(net_.f32_); }
py::object CompiledNetwork::Job::pass_pieces() { return wide_ ? pass_pieces(net_.f64_) : pass_pieces(net_.f32_); }

}  // namespace fastnn::bindings
