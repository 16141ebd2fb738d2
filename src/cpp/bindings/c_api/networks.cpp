#include "bindings/c_api/networks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "bindings/c_api/status.h"
#include "bindings/network/write.h"

namespace fastnn::bindings::c_api {
namespace {

// The locks of what a handle works on.
class Locks {
 public:
  explicit Locks(InUse::Holder holder) : holder_(holder) {}
  ~Locks() { release(); }
  Locks(const Locks&) = delete;
  Locks& operator=(const Locks&) = delete;

  void hold(InUse& lock) {
    held_.reserve(held_.size() + 1);
    lock.enter(holder_, true);
    held_.push_back(&lock);
  }
  void release() noexcept {
    for (InUse* lock : held_) lock->leave();
    held_.clear();
  }

 private:
  InUse::Holder holder_;
  std::vector<InUse*> held_;
};

// Holds locks of others for a call that reads.
class Reading {
 public:
  explicit Reading(const std::vector<InUse*>& locks) : locks_(locks) {
    for (InUse* lock : locks_) {
      try {
        lock->enter_reading();
      } catch (...) {
        release();
        throw;
      }
      ++held_;
    }
  }
  ~Reading() { release(); }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

 private:
  void release() noexcept {
    while (held_ > 0) locks_[--held_]->leave_reading();
  }
  const std::vector<InUse*>& locks_;
  std::size_t held_ = 0;
};

// A network of one type of numbers, as it was read when the handle was opened.
template <class T>
struct Typed {
  std::vector<Layer<T>> layers;  // as predictions and steps take them
  network::Runner<T> runner;
  std::vector<std::unique_ptr<network::Predictor<T>>> free;  // predictors that nobody works with
};

template <class T>
ops::RowSource rows_of(const T* x, Index cols) noexcept {
  return {reinterpret_cast<const char*>(x), number_of<T>(), cols * static_cast<Index>(sizeof(T)), cols};
}

// While it lives, the one call that works on what is lent.
struct Stepping {
  Stepping(std::atomic<bool>& flag, bool lent) noexcept
      : flag(flag), lent(lent), own(!lent || !flag.exchange(true, std::memory_order_acquire)) {}
  ~Stepping() {
    if (lent && own) flag.store(false, std::memory_order_release);
  }
  Stepping(const Stepping&) = delete;
  Stepping& operator=(const Stepping&) = delete;
  std::atomic<bool>& flag;
  bool lent, own;
};

class Handle {
 public:
  // Of a Sequential or a Trainer. Throws what Python's exceptions are, or Unsupported.
  explicit Handle(py::handle object);
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  void close();  // gives back what was lent

  bool wide() const noexcept { return wide_; }
  bool trains() const noexcept { return trains_; }
  Index in() const noexcept { return call_.features; }
  Index out() const noexcept { return wide_ ? f64_.layers.back().out : f32_.layers.back().out; }
  Index targets() const noexcept { return trains_ && rule_.loss.kind != network::Loss::softmax ? rule_.loss.targets(out()) : 0; }
  bool set_rate(double lr) noexcept {
    if (!trains_ || !(lr >= 0 && std::isfinite(lr))) return false;
    rule_.update.lr = lr;
    rate_set_ = true;
    return true;
  }
  template <class T>
  int predict(Index rows, const T* x, T* y);
  template <class T>
  int step(Index rows, const T* x, const long long* labels, const T* targets, const double* weight, double* loss);

 private:
  template <class T>
  Typed<T>& typed() noexcept {
    if constexpr (sizeof(T) == sizeof(double))
      return f64_;
    else
      return f32_;
  }
  template <class T>
  void read();
  template <class T>
  int check_targets(Index rows, const long long* labels, const T* targets) const noexcept;
  template <class T>
  void write(Typed<T>& typed);

  py::object network_, trainer_;
  std::vector<LayerObject> layers_;
  std::vector<InUse*> reading_;  // locks of a network that is not lent
  Call call_;
  Locks locks_{reinterpret_cast<InUse::Holder>(this)};  // of what is above, which outlives it
  network::Rule rule_{};
  Typed<float> f32_;
  Typed<double> f64_;
  bool wide_ = false, trains_ = false, rate_set_ = false;
  std::atomic<bool> stepping_{false};
  std::mutex guard_;  // of free predictors
  Index updates_ = 0, rows_ = 0;
};

// The numbers that a row of the input has, as the first layers with parameters say.
Index features_of(const std::vector<LayerObject>& layers, const Call& call) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerKind kind = layers[i].kind;
    if (kind == LayerKind::embedding) break;
    if (layers[i].parameters > 0) return extent(call.layers[i].parameters[0], 0);
  }
  throw Unsupported{};
}

// Nobody is there to ask a schedule.
void check_constant(const py::dict& attributes, py::handle name, const char* what) {
  if (PyCallable_Check(entry_of(attributes, name).ptr()))
    refuse(std::string(what) + " must be a number for steps from C, not a schedule");
}

Handle::Handle(py::handle object) {
  const py::handle trainer_class = reinterpret_cast<PyObject*>(only_class(Role::trainer).type);
  trains_ = py::isinstance(object, trainer_class);
  if (trains_) trainer_ = py::reinterpret_borrow<py::object>(object);
  network_ = trains_ ? py::object(object.attr("net")) : py::reinterpret_borrow<py::object>(object);
  if (!only_class(Role::network).has(network_)) throw Unsupported{};
  const py::object compiled = network_.attr("_compiled");  // which tells layers' locks of the network
  if (compiled.is_none()) throw Unsupported{};
  const py::dict attributes = attributes_of(network_);
  InUse& lock = entry_of(attributes, names().in_use).cast<InUse&>();
  layers_ = layers_of(py::reinterpret_borrow<py::tuple>(entry_of(attributes, names().layers)));
  if (layers_.front().kind == LayerKind::embedding) throw Unsupported{};
  call_.train = call_.keep = trains_;
  if (trains_) {
    locks_.hold(lock);
    for (const LayerObject& layer : layers_)
      if (layer.lock && layer.kind != LayerKind::sum) locks_.hold(*layer.lock);
  } else {
    reading_.push_back(&lock);
    for (const LayerObject& layer : layers_)
      if (layer.lock && layer.kind != LayerKind::sum) reading_.push_back(layer.lock);
  }
  const Reading reading(reading_);
  wide_ = look_up(layers_, call_);
  if (trains_) {
    rule_ = read_rule(call_, trainer_, false, false);
    if (call_.own_loss || rule_.per_row) throw Unsupported{};
    check_constant(call_.optimizer, names().lr, "the optimizer's lr");
    check_constant(call_.optimizer, names().weight_decay, "the optimizer's weight_decay");
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (layers_[i].kind == LayerKind::dropout)
        check_constant(call_.layers[i].attributes, names().ratio, "the ratio of a Dropout");
    locks_.hold(*call_.lock);
    if (call_.average_lock) locks_.hold(*call_.average_lock);
    read_groups(call_, layers_);
  }
  read_ratios(layers_, call_, nullptr, trains_ ? &rule_.step : nullptr);
  call_.features = features_of(layers_, call_);
  wide_ ? read<double>() : read<float>();
  rule_.factors = call_.own_factors;
  if (trains_ && rule_.loss.targets(out()) == 0) throw Unsupported{};
}

template <class T>
void Handle::read() {
  read_layers(layers_, call_, typed<T>().layers);
}

template <class T>
int Handle::predict(Index rows, const T* x, T* y) {
  if (wide_ != (sizeof(T) == sizeof(double)) || rows < 0 || !present(rows > 0, x, y)) return FASTNN_INVALID;
  if (rows == 0) return FASTNN_OK;
  const Stepping alone(stepping_, trains_);
  if (!alone.own) return FASTNN_IN_USE;
  Typed<T>& own = typed<T>();
  const Reading reading(reading_);
  std::unique_ptr<network::Predictor<T>> predictor;
  {
    const std::lock_guard<std::mutex> guard(guard_);
    if (!own.free.empty()) {
      predictor = std::move(own.free.back());
      own.free.pop_back();
    }
  }
  if (!predictor) predictor = std::make_unique<network::Predictor<T>>();
  const ops::RowSource source = rows_of(x, call_.features);
  predictor->prepare(own.layers, source, rows, 1);
  predictor->run(own.layers, source, rows, 1, y);
  const std::lock_guard<std::mutex> guard(guard_);
  own.free.push_back(std::move(predictor));
  return FASTNN_OK;
}

template <class T>
int Handle::check_targets(Index rows, const long long* labels, const T* targets) const noexcept {
  const bool classes = rule_.loss.kind == network::Loss::softmax;
  if (classes ? !labels || targets : !targets || labels) return FASTNN_INVALID;
  if (classes) {
    const Index n = out();
    const auto is_class = [n](long long label) { return label >= 0 && label < n; };
    return std::all_of(labels, labels + rows, is_class) ? FASTNN_OK : FASTNN_RANGE;
  }
  const T low = rule_.loss.kind == network::Loss::sigmoid || rule_.loss.kind == network::Loss::poisson
                    ? T(0)
                    : -std::numeric_limits<T>::infinity();
  const T high = rule_.loss.kind == network::Loss::sigmoid ? T(1) : std::numeric_limits<T>::infinity();
  const auto fits = [=](T t) { return !(t < low || t > high); };  // NaN is the loss's to find
  return std::all_of(targets, targets + rows * this->targets(), fits) ? FASTNN_OK : FASTNN_RANGE;
}

template <class T>
int Handle::step(Index rows, const T* x, const long long* labels, const T* targets, const double* weight, double* loss) {
  if (!trains_ || wide_ != (sizeof(T) == sizeof(double)) || rows < 1 || !x || !loss) return FASTNN_INVALID;
  if (const int status = check_targets(rows, labels, targets)) return status;
  double sum = 0;
  for (Index i = 0; weight && i < rows; ++i) {
    if (!(weight[i] >= 0 && (weight[i] == 0 || std::isnormal(weight[i])))) return FASTNN_INVALID;
    sum += weight[i];
  }
  if (weight && !(sum > 0 && std::isfinite(sum))) return FASTNN_INVALID;
  Typed<T>& own = typed<T>();
  for (const Layer<T>& layer : own.layers)
    if (layer.kind == LayerKind::batchnorm && rows < 2) return FASTNN_INVALID;
  const Stepping alone(stepping_, true);
  if (!alone.own) return FASTNN_IN_USE;
  network::Data data{};
  data.x = rows_of(x, call_.features);
  data.scale = 1;
  data.labels = reinterpret_cast<const int64_t*>(labels);
  data.dense = rows_of(targets, this->targets());
  data.weight = weight;
  network::Steps steps{};
  steps.rows = steps.part = rows;
  steps.count = 1;
  steps.seconds = std::numeric_limits<double>::infinity();
  steps.losses = loss;
  bool lost = false;
  network::Rule now = rule_;
  now.step += static_cast<uint64_t>(updates_);
  now.update.step += updates_;
  now.update.lost = &lost;
  limit<T>(now);
  own.runner.prepare(own.layers, steps, std::isfinite(rule_.clip_norm));
  const network::Done done = own.runner.run(own.layers, data, steps, now);
  if (!done.finite) {
    *loss = done.loss;
    return FASTNN_NONFINITE;
  }
  ++updates_;
  rows_ = rows;
  return lost && now.stop_at_nonfinite ? FASTNN_NONFINITE : FASTNN_OK;
}

void Handle::close() {
  if (rate_set_) call_.optimizer[names().lr] = py::float_(rule_.update.lr);
  if (updates_ > 0) wide_ ? write(f64_) : write(f32_);
  locks_.release();
}

template <class T>
void Handle::write(Typed<T>& typed) {
  const py::object x = new_matrix<T>(rows_, call_.features);  // whose shape is told
  write_back(layers_, call_, typed.layers, typed.runner.last_plan(), x, rule_, updates_);
}

// What f() returns, with a Python exception for what it throws.
template <class F>
void* with_exception(F&& f) noexcept {
  try {
    return f();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const Unsupported&) {
    PyErr_SetString(PyExc_TypeError,
                    "a network for C must be a fastnn.Sequential, or a fastnn.Trainer of one with one of fastnn's own losses, of "
                    "fastnn's own layers, as they were made, with an Affine and no Embedding among them");
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

void* open_network(void* object) noexcept {
  return with_exception([&]() -> void* {
    if (!object) throw Unsupported{};
    return new Handle(static_cast<PyObject*>(object));
  });
}

void close_network(void* network) noexcept {
  const std::unique_ptr<Handle> handle(static_cast<Handle*>(network));
  with_exception([&]() -> void* {
    if (handle) handle->close();
    return nullptr;
  });
}

int shape(void* network, long long* in, long long* out, long long* targets, int* number_bytes) noexcept {
  return status_of(0, [&] {
    if (!present(true, network, in, out, targets, number_bytes)) return FASTNN_INVALID;
    const Handle& handle = *static_cast<Handle*>(network);
    *in = handle.in();
    *out = handle.out();
    *targets = handle.targets();
    *number_bytes = handle.wide() ? 8 : 4;
    return FASTNN_OK;
  });
}

int set_rate(void* network, double lr) noexcept {
  return network && static_cast<Handle*>(network)->set_rate(lr) ? FASTNN_OK : FASTNN_INVALID;
}

template <class T>
int predict(void* network, int threads, long long rows, const T* x, T* y) noexcept {
  return status_of(threads, [&] { return network ? static_cast<Handle*>(network)->predict<T>(rows, x, y) : FASTNN_INVALID; });
}

template <class T>
int step(void* network, int threads, long long rows, const T* x, const long long* labels, const double* weight,
         double* loss) noexcept {
  return status_of(threads, [&] {
    return network ? static_cast<Handle*>(network)->step<T>(rows, x, labels, nullptr, weight, loss) : FASTNN_INVALID;
  });
}
template <class T>
int step_dense(void* network, int threads, long long rows, const T* x, const T* targets, const double* weight,
               double* loss) noexcept {
  return status_of(threads, [&] {
    return network ? static_cast<Handle*>(network)->step<T>(rows, x, nullptr, targets, weight, loss) : FASTNN_INVALID;
  });
}

}  // namespace

void fill_networks(fastnn_api& table) noexcept {
  table.network_open = open_network;
  table.network_close = close_network;
  table.network_shape = shape;
  table.network_set_rate = set_rate;
  table.network_predict_f32 = predict<float>;
  table.network_predict_f64 = predict<double>;
  table.network_step_f32 = step<float>;
  table.network_step_f64 = step<double>;
  table.network_step_dense_f32 = step_dense<float>;
  table.network_step_dense_f64 = step_dense<double>;
}

}  // namespace fastnn::bindings::c_api
