// Networks of native layers, compiled: what the Python objects say is read anew for each call, then steps run without them.
#include <algorithm>
#include <limits>

#include "bindings/labels.h"
#include "network/run.h"
#include "ops/cost.h"
#include "ops/shuffle.h"

namespace fastnn::bindings {
namespace {

using network::Layer;
using network::LayerKind;

PyObject* find(py::handle dict, py::handle key) {
  PyObject* value = PyDict_GetItemWithError(dict.ptr(), key.ptr());
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return value;
}
py::str interned(const char* name) { return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name)); }
py::dict attributes_of(py::handle object) {
  PyObject* dict = PyObject_GenericGetDict(object.ptr(), nullptr);
  if (!dict) throw py::error_already_set();
  return py::reinterpret_steal<py::dict>(dict);
}

// Names that are looked up in every call.
struct Names {
  py::str params = interned("params"), grads = interned("grads"), alpha = interned("alpha"), momentum = interned("momentum"),
          eps = interned("eps"), ratio = interned("ratio"), inverted = interned("inverted"), seed = interned("seed"),
          seeded = interned("seeded"), step = interned("step"), steps = interned("steps"), stream = interned("stream"),
          running_mean = interned("running_mean"), running_var = interned("running_var"), optimizer = interned("optimizer"),
          loss = interned("loss"), clip_norm = interned("clip_norm"), nonfinite = interned("nonfinite"), lr = interned("lr"),
          weight_decay = interned("weight_decay"), state = interned("state"), y = interned("y"), kept = interned("_kept"),
          forward = interned("forward"), backward = interned("backward"), backward_params = interned("backward_params"),
          update = interned("update"), rate = interned("rate"), kind = interned("_kind"), betas = interned("_betas");
};
const Names& names() {
  static const Names* const all = new Names;  // outlives the interpreter's end
  return *all;
}

double number(py::handle dict, py::handle name) {
  const py::handle value = find(dict, name);
  const double x = value ? PyFloat_AsDouble(value.ptr()) : 0;
  if (x == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    refuse_type(std::string(py::str(name)) + " must be a number, got " + describe(value));
  }
  return x;
}

// A network whose layers, loss or optimizer a plan cannot take: Python does it then.
struct Unsupported {};

// An array that goes into a dict once the call has succeeded.
struct NewEntry {
  py::dict dict;
  py::object key, array;
};

// What the objects of a call have been found to be. Owns a reference to every array, since the objects may change once the GIL is
// released.
struct Call {
  bool train = false, keep = false;
  int state_count = 0;
  py::object states[2];
  py::object optimizer, loss;  // their attributes
  py::handle seed;             // the trainer's
  Index features = 0;          // of a row of the data
  Extent x{};                  // where the data lie, if a step reads them there
  std::vector<py::object> owned;
  std::vector<NewEntry> entries;
  std::vector<Extent> extents;

  void clear() {  // but for room
    train = keep = false;
    state_count = 0;
    for (py::object& state : states) state = py::object();
    optimizer = loss = py::object();
    seed = py::handle();
    x = {};
    owned.clear();
    entries.clear();
    extents.clear();
  }

  // The numbers of a contiguous, writeable array of T of this shape; cols < 0: of one dimension.
  template <class T>
  T* numbers(py::handle array, Index rows, Index cols) {
    const bool fits = array && is_array(array) && is_dtype<T>(array) && is_contiguous(array) && is_writeable(array) &&
                      rank(array) == (cols < 0 ? 1 : 2) && extent(array, 0) == rows && (cols < 0 || extent(array, 1) == cols);
    if (!fits) throw Unsupported{};
    T* data = data_of<T>(array);
    owned.push_back(py::reinterpret_borrow<py::object>(array));
    const Index size = cols < 0 ? rows : rows * cols;
    extents.push_back({reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + size)});
    return data;
  }

  // The array that stands beside a parameter in a dict, or a new one.
  template <class T>
  T* beside(py::handle dict, py::handle key, py::handle like, Index rows, Index cols, bool zeros) {
    if (!dict || !PyDict_Check(dict.ptr())) throw Unsupported{};
    py::object array = py::reinterpret_borrow<py::object>(find(dict, key));
    if (!array) {
      array = py::module_::import("numpy").attr(zeros ? "zeros" : "empty")(like.attr("shape"), py::dtype::of<T>());
      entries.push_back({py::reinterpret_borrow<py::dict>(dict), py::reinterpret_borrow<py::object>(key), array});
    }
    return numbers<T>(array, rows, cols);
  }
};

struct LayerObject {
  LayerKind kind;
  py::dict attributes;
  Activation activation{};
  Py_ssize_t plain_size = 0;         // of the attributes when last seen without a replaced pass
  py::object parameters[2], grads;   // what it has in this call, or null
  py::str weight, bias;              // keys of params and grads
  py::str weight_entry, bias_entry;  // keys of the optimizer's state
};

class CompiledNetwork {
 public:
  // layers: (kind, layer, activation, "W", "b", "0.") of each. An embedding comes first.
  CompiledNetwork(InUse& lock, const py::list& layers) : lock_(lock) {
    for (const py::handle entry : layers) {
      const auto [kind, layer, activation, weight, bias, prefix] =
          entry.cast<std::tuple<int, py::object, int, std::string, std::string, std::string>>();
      LayerObject l{};
      l.kind = static_cast<LayerKind>(kind);
      l.attributes = attributes_of(layer);
      l.activation = static_cast<Activation>(activation);
      l.weight = interned(weight.c_str());
      l.bias = interned(bias.c_str());
      l.weight_entry = interned((prefix + weight).c_str());
      l.bias_entry = interned((prefix + bias).c_str());
      layers_.push_back(std::move(l));
    }
  }

  // Trains on rows of a data set; the stub says what it takes and returns. None: Python has to do it.
  py::object train(py::handle trainer, py::handle x, py::handle t, py::handle weight, py::handle order, Index step, Index rows,
                   double scale, py::handle rates, double seconds, py::handle losses) {
    return alone(
        [&](auto& typed) { return train_as(typed, trainer, x, t, weight, order, step, rows, scale, rates, seconds, losses); });
  }

  py::object step(py::handle trainer, py::handle x, py::handle t, py::handle weight) {
    return train(trainer, x, t, weight, py::none(), 0, 0, 1, py::none(), std::numeric_limits<double>::infinity(), py::none());
  }

  // The outputs for rows x times scale, as without training, or None.
  py::object infer(py::handle x, double scale) {
    return alone([&](auto& typed) { return infer_as(typed, x, scale); });
  }

  // For the garbage collector: attributes of layers may lead back to their network.
  int traverse(visitproc visit, void* arg) const {
    for (const LayerObject& l : layers_) Py_VISIT(l.attributes.ptr());
    return 0;
  }
  void clear() { layers_.clear(); }

 private:
  // Forgets the objects of a call at its end, however it ends.
  struct Calling {
    explicit Calling(CompiledNetwork& network) : network(network) { network.calling_ = true; }
    ~Calling() {
      network.call_.clear();
      for (LayerObject& l : network.layers_) l.parameters[0] = l.parameters[1] = l.grads = py::object();
      network.calling_ = false;
    }
    Calling(const Calling&) = delete;
    Calling& operator=(const Calling&) = delete;
    CompiledNetwork& network;
  };

  // f(what belongs to the dtype), or None where Python has to do it: also within a call, from which a schedule may come back
  // here, and in a child forked in the middle of one.
  template <class F>
  py::object alone(F&& f) {
    const Hold hold(lock_);
    if (calling_) return py::none();
    const Calling calling(*this);
    try {
      return with_type(f);
    } catch (const Unsupported&) {
      return py::none();
    }
  }

  template <class T>
  struct Typed {
    using Number = T;
    network::Runner<T> runner;
    network::Predictor<T> predictor;
    std::vector<Layer<T>> layers;
  };

  template <class F>
  py::object with_type(F&& f) {
    look_up();
    for (const LayerObject& l : layers_)
      if (has_parameters(l)) return is_f64(parameter(l)) ? f(f64_) : f(f32_);
    throw Unsupported{};
  }

  // Finds the arrays of all layers, and holds them: a schedule, or another thread meanwhile, may replace them.
  void look_up() {
    const Names& name = names();
    for (LayerObject& l : layers_) {
      check_methods(l.attributes, l.plain_size);
      if (!has_parameters(l)) continue;
      const py::handle params = find(l.attributes, name.params), grads = find(l.attributes, name.grads);
      if (!params || !PyDict_Check(params.ptr()) || !grads || !PyDict_Check(grads.ptr())) throw Unsupported{};
      l.grads = py::reinterpret_borrow<py::object>(grads);
      l.parameters[0] = py::reinterpret_borrow<py::object>(find(params, l.weight));
      if (l.kind != LayerKind::embedding) l.parameters[1] = py::reinterpret_borrow<py::object>(find(params, l.bias));
    }
  }
  static bool has_parameters(const LayerObject& l) { return l.kind != LayerKind::activation && l.kind != LayerKind::dropout; }
  static py::handle parameter(const LayerObject& l, int which = 0) {
    if (!l.parameters[which] || !is_array(l.parameters[which])) throw Unsupported{};
    return l.parameters[which];
  }

  template <class T>
  void read_parameter(network::Parameter<T>& to, const LayerObject& l, bool second, Index rows, Index cols) {
    const py::handle p = parameter(l, second);
    to.p = call_.numbers<T>(p, rows, cols);
    to.size = cols < 0 ? rows : rows * cols;
    if (!call_.train) return;
    if (call_.keep && l.kind != LayerKind::embedding)
      to.g = call_.beside<T>(l.grads, second ? l.bias : l.weight, p, rows, cols, false);
    T** const slots[2] = {&to.s1, &to.s2};
    for (int s = 0; s < call_.state_count; ++s)
      *slots[s] = call_.beside<T>(call_.states[s], second ? l.bias_entry : l.weight_entry, p, rows, cols, true);
  }

  // Reads the layers as they are now.
  template <class T>
  void read(std::vector<Layer<T>>& to) {
    const Names& name = names();
    to.resize(layers_.size());
    Index features = call_.features;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const LayerObject& from = layers_[i];
      const py::dict& attributes = from.attributes;
      Layer<T>& l = to[i];
      l = Layer<T>{};
      l.kind = from.kind;
      l.keeps_gradients = call_.keep;
      l.in = l.out = features;
      switch (from.kind) {
        case LayerKind::affine:
          l.out = last_extent(parameter(from), 2);
          read_parameter(l.weight, from, false, l.in, l.out);
          read_parameter(l.bias, from, true, l.out, -1);
          break;
        case LayerKind::batchnorm:
          read_parameter(l.weight, from, false, l.out, -1);
          read_parameter(l.bias, from, true, l.out, -1);
          l.running_mean = call_.numbers<T>(find(attributes, name.running_mean), l.out, -1);
          l.running_var = call_.numbers<T>(find(attributes, name.running_var), l.out, -1);
          l.momentum = number(attributes, name.momentum);
          l.eps = static_cast<T>(number(attributes, name.eps));
          break;
        case LayerKind::embedding: {
          const py::handle w = parameter(from);
          l.dim = last_extent(w, 2);
          l.vocabulary = extent(w, 0);
          l.out = l.in * l.dim;
          read_parameter(l.weight, from, false, l.vocabulary, l.dim);
          break;
        }
        case LayerKind::activation:
          l.activation = from.activation;
          l.alpha = static_cast<T>(number(attributes, name.alpha));
          break;
        case LayerKind::dropout: {
          l.ratio = number(attributes, name.ratio);
          if (!(l.ratio >= 0 && l.ratio < 1) || features > (Index{1} << 24)) throw Unsupported{};
          l.inverted = is_true(find(attributes, name.inverted));
          const bool own = !call_.seed || is_true(find(attributes, name.seeded));
          l.seed = unsigned_number(own ? py::handle(find(attributes, name.seed)) : call_.seed);
          break;
        }
      }
      features = l.out;
      if (features <= 0) throw Unsupported{};
    }
    check_distinct();
  }

  static Index last_extent(py::handle array, int dimensions) {
    if (rank(array) != dimensions) throw Unsupported{};
    return extent(array, dimensions - 1);
  }
  static bool is_dict(py::handle value) { return value && PyDict_Check(value.ptr()); }
  static bool is_true(py::handle value) {
    if (!value || !PyBool_Check(value.ptr())) throw Unsupported{};
    return value.ptr() == Py_True;
  }
  static uint64_t unsigned_number(py::handle value) {
    if (!value || !PyLong_Check(value.ptr())) throw Unsupported{};
    const uint64_t n = PyLong_AsUnsignedLongLong(value.ptr());
    if (n == static_cast<uint64_t>(-1) && PyErr_Occurred()) {
      PyErr_Clear();
      throw Unsupported{};
    }
    return n;
  }

  // Arrays that share memory are updated one after the other, which a plan does not do; and what it reads of the data must stay.
  void check_distinct() {
    const auto same = [](const Extent& a, const Extent& b) { return a.first == b.first && a.last == b.last; };
    const std::vector<Extent>& now = call_.extents;
    for (const Extent& e : now)
      if (e.meets(call_.x)) throw Unsupported{};
    if (now.size() == distinct_.size() && std::equal(now.begin(), now.end(), distinct_.begin(), same)) return;
    std::vector<Extent> sorted = now;
    std::sort(sorted.begin(), sorted.end(), [](const Extent& a, const Extent& b) { return a.first < b.first; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i].meets(sorted[i - 1])) throw Unsupported{};
    distinct_ = now;
  }

  // The rule of the trainer's optimizer, where that is one of fastnn's own classes itself.
  ops::UpdateRule read_optimizer(py::handle optimizer, bool rates_given) {
    const Names& name = names();
    const py::handle type = py::type::handle_of(optimizer);
    if (!type.is(optimizer_type_)) {
      const py::object own = type.attr("__dict__");
      if (!own.contains(name.kind)) throw Unsupported{};
      optimizer_kind_ = own[name.kind].cast<int>();
      betas_.clear();
      for (const py::handle beta : type.attr(name.betas)) betas_.push_back(py::reinterpret_borrow<py::object>(beta));
      optimizer_type_ = py::reinterpret_borrow<py::object>(type);
    }
    call_.optimizer = attributes_of(optimizer);
    if (find(call_.optimizer, name.update) || find(call_.optimizer, name.rate)) throw Unsupported{};
    ops::UpdateRule rule{};
    rule.kind = static_cast<Optimizer>(optimizer_kind_);
    const py::handle lr = find(call_.optimizer, name.lr);
    if (lr && PyFloat_CheckExact(lr.ptr()) && PyFloat_AS_DOUBLE(lr.ptr()) >= 0 && std::isfinite(PyFloat_AS_DOUBLE(lr.ptr())))
      rule.lr = PyFloat_AS_DOUBLE(lr.ptr());
    else if (!rates_given)
      rule.lr = optimizer.attr("rate")().cast<double>();
    rule.weight_decay = number(call_.optimizer, name.weight_decay);
    rule.beta1 = betas_.empty() ? 0 : number(call_.optimizer, betas_[0]);
    rule.beta2 = betas_.size() < 2 ? 0 : number(call_.optimizer, betas_[1]);
    rule.eps = number(call_.optimizer, name.eps);
    rule.step = static_cast<int64_t>(unsigned_number(find(call_.optimizer, name.step))) + 1;
    call_.state_count = states_of(rule.kind);
    const py::handle state = find(call_.optimizer, name.state);
    int s = 0;
    if (call_.state_count > 0 && is_dict(state))
      for (const auto& [key, dict] : py::reinterpret_borrow<py::dict>(state))
        if (s < call_.state_count) call_.states[s++] = py::reinterpret_borrow<py::object>(dict);
    if (s != call_.state_count) throw Unsupported{};
    return rule;
  }

  network::Loss read_loss(py::handle loss) {
    const py::handle type = py::type::handle_of(loss);
    if (!type.is(loss_type_)) {
      const py::object own = type.attr("__dict__");
      if (!own.contains(names().kind)) throw Unsupported{};
      loss_kind_ = own[names().kind].cast<int>();
      loss_type_ = py::reinterpret_borrow<py::object>(type);
    }
    call_.loss = attributes_of(loss);
    Py_ssize_t never = -1;
    check_methods(call_.loss, never);
    return static_cast<network::Loss>(loss_kind_);
  }
  // An object whose passes have been replaced is not what it seems.
  static void check_methods(py::handle attributes, Py_ssize_t& plain_size) {
    const Py_ssize_t size = PyDict_Size(attributes.ptr());
    if (size == plain_size) return;
    const Names& name = names();
    if (find(attributes, name.forward) || find(attributes, name.backward) || find(attributes, name.backward_params))
      throw Unsupported{};
    plain_size = size;
  }

  // Rows of numbers, or of indices, as they lie there; of other types, or with gaps within rows, they are converted if they may
  // be.
  template <class T>
  ops::RowSource source(const char* name, py::handle array, bool may_convert, bool indices = false) {
    py::object rows = py::reinterpret_borrow<py::object>(array);
    if (!is_array(rows) || rank(rows) < 1) throw Unsupported{};
    ops::RowSource from{};
    const bool readable = number_type(rows, from.type) && (!indices || ops::is_integer(from.type));
    if (!readable || !has_whole_rows(rows)) {
      if (!may_convert) throw Unsupported{};
      rows = indices ? row_numbers(rows) : contiguous(as_real(name, rows, sized<T>()));
      number_type(rows, from.type);
    }
    from.data = data_of<const char>(rows);
    from.row_bytes = py::detail::array_proxy(rows.ptr())->strides[0];
    from.cols = extent(rows, 0) ? size_of(rows) / extent(rows, 0) : 0;
    call_.owned.push_back(std::move(rows));
    return from;
  }
  template <class T>
  static py::handle sized() {
    static const py::handle array = new_vector<T>(0).release();
    return array;
  }
  template <class T>
  static constexpr ops::Number number_of() {
    return sizeof(T) == 4 ? ops::Number::f32 : ops::Number::f64;
  }
  static bool number_type(py::handle array, ops::Number& type) {
    if (is_f32(array))
      type = ops::Number::f32;
    else if (is_f64(array))
      type = ops::Number::f64;
    else if (is_u8(array))
      type = ops::Number::u8;
    else if (is_i32(array))
      type = ops::Number::i32;
    else if (is_i64(array))
      type = ops::Number::i64;
    else
      return false;
    return true;
  }
  // Each row contiguous, whatever lies between rows.
  static bool has_whole_rows(py::handle array) {
    if (!is_aligned(array)) return false;
    const auto* p = py::detail::array_proxy(array.ptr());
    Index expected = py::reinterpret_borrow<py::dtype>(p->descr).itemsize();
    for (int i = p->nd - 1; i > 0; --i) {
      if (p->dimensions[i] != 1 && p->strides[i] != expected) return false;
      expected *= p->dimensions[i];
    }
    return true;
  }

  bool takes_indices() const { return layers_.front().kind == LayerKind::embedding; }

  template <class T>
  py::object train_as(Typed<T>& typed, py::handle trainer, py::handle x, py::handle t, py::handle weight, py::handle order,
                      Index step, Index rows, double scale, py::handle rates, double seconds, py::handle room) {
    const Names& name = names();
    const bool single = rows == 0;  // all of x is one batch
    const py::dict attributes = attributes_of(trainer);
    const py::handle loss = find(attributes, name.loss), limit = find(attributes, name.clip_norm);
    network::Rule rule{};
    rule.loss = read_loss(loss);
    rule.update = read_optimizer(find(attributes, name.optimizer), !rates.is_none());
    const bool clip = limit && !limit.is_none();
    rule.clip_norm = clip ? number(attributes, name.clip_norm) : std::numeric_limits<double>::infinity();
    const py::handle nonfinite = find(attributes, name.nonfinite);
    rule.stop_at_nonfinite = !nonfinite || nonfinite.equal(py::str("raise"));
    rule.step = unsigned_number(find(attributes, name.steps));
    call_.seed = find(attributes, name.seed);

    network::Data data{};
    data.x = source<T>("x", x, single, takes_indices());
    data.scale = scale;
    const Index n = extent(x, 0);
    if (n == 0) throw Unsupported{};
    call_.train = true;
    call_.features = data.x.cols;
    if (data.x.type == number_of<T>()) {
      const char* last = data.x.data + (n - 1) * data.x.row_bytes;
      call_.x = {std::min(data.x.data, last), std::max(data.x.data, last) + data.x.cols * static_cast<Index>(sizeof(T))};
    }
    call_.keep = clip || parameter_bytes() <= kKeepBytes;
    std::vector<Layer<T>>& layers = typed.layers;
    read(layers);
    if (takes_indices() && step == 0 && !ops::in_range(data.x, n, layers.front().vocabulary)) throw Unsupported{};

    const Index outputs = layers.back().out;
    read_targets<T>(data, rule.loss, t, n, outputs, single ? n : step == 0 ? kCheckRows : 0);
    const Weights weights = weights_of(weight, n);
    if (weights.subnormal) throw Unsupported{};  // they would be flushed
    data.weight = weights.data;
    if (!order.is_none()) data.order = vector<const int64_t>("order", order, n);

    network::Steps steps{};
    steps.rows = single ? n : rows;
    steps.first = step * steps.rows;
    if (steps.first < 0 || steps.first >= n) throw Unsupported{};
    steps.count = (n - steps.first) / steps.rows;
    if (steps.count == 0) {  // what is left of the data is one smaller batch
      steps.rows = n - steps.first;
      steps.count = 1;
    }
    if (!rates.is_none()) {
      steps.count = std::min(steps.count, extent(rates, 0));
      steps.rates = vector<const double>("rates", rates, extent(rates, 0));
    }
    steps.seconds = seconds;
    double one = 0;
    if (single) {
      steps.losses = &one;
    } else {
      steps.losses = vector<double>("losses", room, extent(room, 0));
      steps.count = std::min(steps.count, extent(room, 0));
    }

    typed.runner.prepare(layers, steps.rows, clip);
    const network::Done done = unlocked(typed.runner.plan().cost() * static_cast<double>(steps.count),
                                        [&] { return typed.runner.run(layers, data, steps, rule); });
    if (done.updates > 0) leave(typed, attributes, x, rule, done.updates, steps.rows);
    const bool bad_loss = !done.finite && !std::isfinite(done.loss), bad_norm = !done.finite && !bad_loss;
    // The steps before a bad norm are returned like any others; the next call finds it first, and the step in Python tells of it.
    if (bad_norm && done.steps == 0) return py::none();
    if (single) return py::float_(done.finite ? one : done.loss);
    return py::make_tuple(done.updates, done.steps, bad_loss ? py::object(py::float_(done.loss)) : py::none());
  }

  // Labels or targets for n rows of `outputs` numbers; labels are checked, and targets so many rows at a time.
  template <class T>
  void read_targets(network::Data& data, network::Loss loss, py::handle t, Index n, Index outputs, Index check_rows) {
    if (loss == network::Loss::softmax && (!is_array(t) || rank(t) != 2)) {
      const Labels labels = softmax_labels<T>(t, n, outputs, false);
      if (labels.classes) {
        data.labels = data_of<const int64_t>(labels.array);
        call_.owned.push_back(labels.array);
        return;
      }
    }
    const py::object targets = is_array(t) ? py::reinterpret_borrow<py::object>(t) : as_real("t", t, sized<T>());
    if (check_rows == n)
      check_dense<T>(loss, targets, 0, n, outputs);
    else if (check_rows > 0)
      for (Index first = 0; first < n; first += check_rows)
        check_dense<T>(loss, targets[py::slice(first, std::min(first + check_rows, n), 1)], first,
                       std::min(check_rows, n - first), outputs);
    data.dense = source<T>("t", targets, true);
    if (data.dense.cols != outputs || extent(targets, 0) != n) throw Unsupported{};
  }

  // Rows [first, first + n) of the targets of a data set.
  template <class T>
  static void check_dense(network::Loss loss, const py::object& rows, Index first, Index n, Index outputs) {
    if (loss == network::Loss::softmax) {
      softmax_labels<T>(rows, n, outputs, false, first);
      return;
    }
    const Index shape[] = {n, outputs};
    check_targets<T>(contiguous(as_real("t", rows, sized<T>())), new_array(py::dtype::of<T>(), 2, shape),
                     loss == network::Loss::sigmoid, first);
  }

  Index parameter_bytes() const {
    Index bytes = 0;
    for (const LayerObject& l : layers_)
      if (l.kind == LayerKind::affine) bytes += size_of(parameter(l)) * 4;
    return bytes;
  }

  // The shape of what a layer takes: that of the data, with an embedding's dim, until an affine layer flattens it.
  template <class T>
  py::tuple shape_before(std::size_t i, py::handle x, Index rows, const std::vector<Layer<T>>& layers) const {
    const auto first = layers.begin(),
               affine = std::find_if(first, layers.end(), [](const Layer<T>& l) { return l.kind == LayerKind::affine; });
    if (i > static_cast<std::size_t>(affine - first)) return py::make_tuple(rows, layers[i].in);
    py::list shape;
    shape.append(rows);
    for (int axis = 1; axis < rank(x); ++axis) shape.append(extent(x, axis));
    if (takes_indices()) shape.append(layers.front().dim);
    return py::tuple(shape);
  }

  // What a step in Python would have left in the objects.
  template <class T>
  void leave(Typed<T>& typed, const py::dict& trainer, py::handle x, const network::Rule& rule, Index updates, Index rows) {
    const Names& name = names();
    for (const auto& [dict, key, array] : call_.entries) dict[key] = array;
    network::Plan<T>& plan = typed.runner.plan();
    const auto count = static_cast<uint64_t>(updates);
    trainer[name.steps] = py::int_(rule.step + count);
    call_.optimizer[name.step] = py::int_(rule.update.step - 1 + updates);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const LayerObject& l = layers_[i];
      if (l.kind == LayerKind::dropout) {
        l.attributes[name.seed] = py::int_(typed.layers[i].seed);
        l.attributes[name.stream] = py::int_(i);
        l.attributes[name.step] = py::int_(rule.step + count);
        const Index numbers = rows * typed.layers[i].out, bytes = (numbers + 7) / 8;
        py::object kept = new_array(py::dtype::of<uint8_t>(), 1, &bytes);
        std::copy_n(plan.kept(i), bytes, data_of<uint8_t>(kept));
        l.attributes[name.kept] = py::make_tuple(std::move(kept), shape_before(i, x, rows, typed.layers));
      } else if (l.kind == LayerKind::embedding) {
        const auto distinct = static_cast<Index>(plan.embedding_rows().size());
        py::object indices = new_vector<int64_t>(distinct), values = new_matrix<T>(distinct, typed.layers[i].dim);
        std::copy_n(plan.embedding_rows().data(), distinct, data_of<int64_t>(indices));
        std::copy_n(plan.embedding_values(), size_of(values), data_of<T>(values));
        const py::object sparse = py::module_::import("fastnn.sparse").attr("RowSparse");
        py::reinterpret_borrow<py::dict>(l.grads)[l.weight] = sparse.attr("trusted")(indices, values, parameter(l).attr("shape"));
      } else if (l.kind != LayerKind::activation && !call_.keep) {
        PyDict_Clear(l.grads.ptr());
      }
    }
    py::object y = new_matrix<T>(rows, plan.outputs());
    std::copy_n(plan.predictions(), rows * plan.outputs(), data_of<T>(y));
    call_.loss[name.y] = y;
  }

  template <class T>
  py::object infer_as(Typed<T>& typed, py::handle x, double scale) {
    constexpr Index kConverted = 256;  // rows, at most, that are copied as a whole where they cannot be used as they lie
    const bool indices = takes_indices();
    const ops::RowSource from = source<T>("x", x, is_array(x) && rank(x) > 0 && extent(x, 0) <= kConverted, indices);
    const Index n = extent(x, 0);
    if (n == 0 || (indices && scale != 1)) throw Unsupported{};
    call_.features = from.cols;
    read(typed.layers);
    if (indices && !ops::in_range(from, n, typed.layers.front().vocabulary)) throw Unsupported{};
    py::object y = new_matrix<T>(n, typed.layers.back().out);
    T* out = data_of<T>(y);
    typed.predictor.prepare(typed.layers, from, n, scale);
    unlocked(typed.predictor.cost(), [&] { typed.predictor.run(typed.layers, from, n, scale, out); });
    return y;
  }

  static constexpr Index kKeepBytes = 8 << 20;
  static constexpr Index kCheckRows = 4096;  // of targets: they are converted to be checked, and no copy of all is to be made

  InUse& lock_;
  std::vector<LayerObject> layers_;
  Typed<float> f32_;
  Typed<double> f64_;
  bool calling_ = false;
  py::object optimizer_type_;  // that the next two were read from
  int optimizer_kind_ = 0;
  std::vector<py::object> betas_;
  py::object loss_type_;  // likewise
  int loss_kind_ = 0;
  Call call_;
  std::vector<Extent> distinct_;
};

}  // namespace

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
  py::class_<CompiledNetwork>(m, "CompiledNetwork", py::custom_type_setup(collected))
      .def(py::init<InUse&, const py::list&>(), py::keep_alive<1, 2>())
      .def("step", &CompiledNetwork::step)
      .def("train", &CompiledNetwork::train)
      .def("infer", &CompiledNetwork::infer);
}

}  // namespace fastnn::bindings
