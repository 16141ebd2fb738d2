#include "bindings/network/run.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bindings/network/write.h"

namespace fastnn::bindings {
namespace {

constexpr Index kKeepBytes = 8 << 20;
constexpr Index kCheckRows = 4096;  // of targets: they are converted to be checked, and no copy of all is to be made
constexpr Index kConverted = 256;   // rows, at most, that are copied as a whole where they cannot be used as they lie

// Beyond this loss a step is done in Python, which looks at the gradients before it squares them: 10^10 in a column of x makes
// one of 10^18 or more, and gradients of 10^20.
template <class T>
constexpr double kLargeLoss = sizeof(T) == 4 ? 1e16 : 1e140;

[[noreturn]] void refuse_square(uint64_t step) {
  const std::string message = "the square of a gradient of step " + std::to_string(step) +
                              " is infinite: the elements it belongs to are as before it, the others are updated; scale the "
                              "data or limit the norm with clip_norm; a trainer with nonfinite=\"ignore\" goes on";
  PyErr_SetString(PyExc_FloatingPointError, message.c_str());
  throw py::error_already_set();
}

}  // namespace

CompiledNetwork::CompiledNetwork(InUse& lock, const py::tuple& layers) : lock_(lock), type_(only_class(Role::network)) {
  for (const py::handle layer : layers) layers_.emplace_back(layer, layers_.size());
}

int CompiledNetwork::traverse(visitproc visit, void* arg) const {
  for (const LayerObject& l : layers_) Py_VISIT(l.object.ptr());
  return 0;
}

struct CompiledNetwork::Request {
  py::handle trainer, x, t, weight, order;
  Index step, rows;  // rows 0: all of x is one batch
  double scale;
  py::handle rates;
  double seconds;
  py::handle losses;
};

py::object CompiledNetwork::train(py::handle trainer, py::handle x, py::handle t, py::handle weight, py::handle order, Index step,
                                  Index rows, double scale, py::handle rates, double seconds, py::handle losses) {
  if (step < 0 || rows < 1) refuse("there is no such step");
  return train({trainer, x, t, weight, order, step, rows, scale, rates, seconds, losses});
}

py::object CompiledNetwork::step(py::handle trainer, py::handle x, py::handle t, py::handle weight) {
  return train({trainer, x, t, weight, py::none(), 0, 0, 1, py::none(), std::numeric_limits<double>::infinity(), py::none()});
}

// None where Python has to do it: also within a call, from which a schedule may come back here, and in a child forked in the
// middle of one.
py::object CompiledNetwork::train(const Request& request) {
  const Hold hold(lock_);
  if (training_ || !type_.attributes.holds_for(type_.type)) return py::none();
  struct Busy {
    explicit Busy(bool& flag) : flag(flag) { flag = true; }
    ~Busy() { flag = false; }
    bool& flag;
  } const busy(training_);
  const Calling calling(call_);
  call_.train = true;
  try {
    return look_up(layers_, call_) ? train_as(f64_, request) : train_as(f32_, request);
  } catch (const Unsupported&) {
    return py::none();
  }
}

Index CompiledNetwork::affine_bytes() const {
  Index bytes = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].kind == LayerKind::affine && is_array(call_.layers[i].parameters[0]))
      bytes += size_of(call_.layers[i].parameters[0]) * 4;
  return bytes;
}

template <class T>
py::object CompiledNetwork::train_as(Training<T>& typed, const Request& request) {
  const bool single = request.rows == 0;
  network::Rule rule = read_rule(call_, request.trainer, !single, !request.rates.is_none());
  const bool clip = std::isfinite(rule.clip_norm);

  network::Data data{};
  const Rows rows = read_rows<T>(call_, "x", request.x, single, takes_indices());
  const Index n = rows.n;
  if (n == 0) throw Unsupported{};
  data.x = rows.from;
  data.scale = request.scale;
  call_.features = data.x.cols;
  if (data.x.type == number_of<T>()) {
    const char* last = data.x.data + (n - 1) * data.x.row_bytes;
    call_.x = {std::min(data.x.data, last), std::max(data.x.data, last) + data.x.cols * static_cast<Index>(sizeof(T))};
  }
  call_.keep = clip || affine_bytes() <= kKeepBytes;
  std::vector<Layer<T>>& layers = typed.layers;
  read_layers(layers_, call_, layers);
  if (takes_indices() && request.step == 0 && !ops::in_range(data.x, n, layers.front().vocabulary)) throw Unsupported{};

  read_targets<T>(call_, data, rule.loss, request.t, n, layers.back().out, single ? n : request.step == 0 ? kCheckRows : 0);
  const Weights weights = weights_of(request.weight, n);
  if (weights.subnormal) throw Unsupported{};  // they would be flushed
  data.weight = weights.data;
  if (!request.order.is_none()) data.order = order_.read(request.order, n, request.step == 0);

  network::Steps steps{};
  steps.rows = single ? n : std::min(request.rows, n);
  steps.first = request.step * steps.rows;
  if (steps.first >= n) throw Unsupported{};
  steps.count = (n - steps.first) / steps.rows;
  if (steps.count == 0) {  // what is left of the data is one smaller batch
    steps.rows = n - steps.first;
    steps.count = 1;
  }
  if (!request.rates.is_none()) {
    steps.count = std::min(steps.count, extent(request.rates, 0));
    steps.rates = vector<const double>("rates", request.rates, extent(request.rates, 0));
  }
  const bool normalizes =
      std::any_of(layers.begin(), layers.end(), [](const Layer<T>& l) { return l.kind == LayerKind::batchnorm; });
  if (normalizes && steps.rows == 1) throw Unsupported{};  // its layer refuses a single row
  steps.seconds = request.seconds;
  double one = 0;
  if (single) {
    steps.losses = &one;
  } else {
    steps.losses = vector<double>("losses", request.losses, extent(request.losses, 0));
    steps.count = std::min(steps.count, extent(request.losses, 0));
  }

  bool lost = false;
  rule.update.lost = &lost;
  const bool squares = squares_gradients(rule.update.kind);
  rule.largest_loss = squares ? kLargeLoss<T> : std::numeric_limits<double>::max();
  rule.largest_norm =
      std::sqrt(static_cast<double>(squares ? std::numeric_limits<T>::max() : std::numeric_limits<double>::max()));
  typed.runner.prepare(layers, steps.rows, clip);
  const network::Done done = unlocked(typed.runner.plan().cost() * static_cast<double>(steps.count),
                                      [&] { return typed.runner.run(layers, data, steps, rule); });
  if (done.updates > 0) write_back(layers_, call_, layers, typed.runner.plan(), request.x, rule, done.updates, steps.rows);
  if (steps.first + done.steps * steps.rows >= n) order_.clear();
  if (lost && rule.stop_at_nonfinite) refuse_square(rule.step + static_cast<uint64_t>(done.updates) - 1);
  const bool bad_loss = !done.finite && !std::isfinite(done.loss), bad_norm = !done.finite && !bad_loss;
  // What a loss that is large, statistics or a norm may mean is for the step in Python to find out. The steps before it are
  // returned like any others; the next call comes upon it first.
  if (bad_norm && done.steps == 0) return py::none();
  if (single) return py::float_(done.finite ? one : done.loss);
  return py::make_tuple(done.updates, done.steps, bad_loss ? py::object(py::float_(done.loss)) : py::none());
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
  const bool indices = takes_indices(), few = is_array(x) && rank(x) > 0 && extent(x, 0) <= kConverted;
  const Rows rows = read_rows<T>(call, "x", x, few, indices);
  const ops::RowSource& from = rows.from;
  const Index n = rows.n;
  if (n == 0 || (indices && scale != 1)) throw Unsupported{};
  call.features = from.cols;
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
