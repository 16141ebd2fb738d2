#include "bindings/network/read.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "ops/shuffle.h"

namespace fastnn::bindings {
namespace {

// The lock among an object's attributes, or null.
InUse* lock_of(const py::dict& attributes, py::object& locked) {
  locked = find(attributes, names().in_use);
  return locked && py::isinstance<InUse>(locked) ? locked.cast<InUse*>() : nullptr;
}

// The layers of a residual block.
py::object block_of(const py::dict& attributes) {
  py::object layers = entry_of(attributes, names().layers);
  if (!PyTuple_CheckExact(layers.ptr())) throw Unsupported{};
  return layers;
}

}  // namespace

LayerObject::LayerObject(py::handle layer, const std::string& prefix, std::size_t place)
    : object(py::reinterpret_borrow<py::object>(layer)),
      type(&class_of(Role::layer, Py_TYPE(layer.ptr()))),
      kind(static_cast<LayerKind>(type->kind)),
      parameters(static_cast<int>(type->names.size())),
      stream(static_cast<uint32_t>(place)) {
  lock = lock_of(attributes_of(layer), locked);
  for (int i = 0; i < parameters; ++i) {
    names[i] = type->names[static_cast<std::size_t>(i)];
    entries[i] = interned((prefix + std::string(names[i])).c_str());
  }
  if (kind == LayerKind::residual) block = block_of(attributes_of(layer));
}

namespace {

void add_layers(const py::tuple& layers, const std::string& prefix, std::size_t& place, std::vector<LayerObject>& to) {
  Index i = 0;
  for (const py::handle layer : layers) {
    const std::string name = prefix + std::to_string(i++) + ".";
    to.emplace_back(layer, name, place++);
    if (to.back().kind != LayerKind::residual) continue;
    LayerObject end = to.back();
    end.kind = LayerKind::sum;
    add_layers(py::reinterpret_borrow<py::tuple>(end.block), name, place, to);
    to.push_back(std::move(end));
  }
}

}  // namespace

std::vector<LayerObject> layers_of(const py::tuple& layers) {
  std::vector<LayerObject> all;
  std::size_t place = 0;
  add_layers(layers, "", place, all);
  return all;
}

void Call::clear() {
  train = keep = alone = own_loss = deep = false;
  for (Found& layer : layers) layer = Found{};
  trainer = optimizer = loss = optimizer_object = factors = matrices = py::object();
  own_factors.clear();
  averages.clear();
  averaged = py::object();
  average_lock = nullptr;
  state_count = iterations = 0;
  for (py::object& state : states) state = py::object();
  x = {};
  owned.clear();
  entries.clear();
  extents.clear();
}

namespace {

bool in_range(const std::vector<int64_t>& rows, Index n) noexcept {
  uint64_t highest = 0;  // a negative number is a large one
  for (const int64_t row : rows) highest = std::max(highest, static_cast<uint64_t>(row));
  return rows.empty() || highest < static_cast<uint64_t>(n);
}

}  // namespace

void Order::read(py::handle order, Index n, bool anew) {
  if (!anew && order.is(source_)) return;
  clear();
  const auto is_rows = [](py::handle a) { return is_array(a) && is_i64(a) && is_contiguous(a) && rank(a) == 1; };
  n_ = n;
  drawn_ = false;
  if (PyTuple_CheckExact(order.ptr())) {
    const auto [size, seed, epoch, of] = py::cast<std::tuple<Index, uint64_t, uint64_t, py::object>>(order);
    if (size < 0 || (of.is_none() ? size > n : !is_rows(of) || extent(of, 0) != size)) throw Unsupported{};
    size_ = size;
    seed_ = seed;
    epoch_ = epoch;
    of_ = of.is_none() ? nullptr : data_of<const int64_t>(of);
  } else {
    if (!is_rows(order)) throw Unsupported{};
    size_ = extent(order, 0);
    of_ = data_of<const int64_t>(order);
    rows_.assign(of_, of_ + size_);
    if (!in_range(rows_, n)) throw Unsupported{};
    drawn_ = true;
  }
  source_ = py::reinterpret_borrow<py::object>(order);
}

const int64_t* Order::draw() {
  if (drawn_) return rows_.data();
  rows_.resize(static_cast<std::size_t>(size_));
  ops::permutation(seed_, epoch_, size_, rows_.data());
  if (of_) {
    for (int64_t& row : rows_) row = of_[row];
    if (!in_range(rows_, n_)) throw Unsupported{};
  }
  drawn_ = true;
  return rows_.data();
}

namespace {

// Whether an object has an attribute of its own in the place of one of its class.
template <class... Name>
bool replaces(py::handle attributes, const Name&... name) {
  return (... || static_cast<bool>(find(attributes, name)));
}

py::handle parameter(const Call& call, std::size_t layer, int which) {
  const py::object& array = call.layers[layer].parameters[which];
  if (!array || !is_array(array)) throw Unsupported{};
  return array;
}

Index last_extent(py::handle array, int dimensions) {
  if (rank(array) != dimensions) throw Unsupported{};
  return extent(array, dimensions - 1);
}

// The numbers of a contiguous array of T of this shape, which a step can write to; cols < 0: of one dimension. The call holds it.
template <class T>
T* numbers(Call& call, py::handle array, Index rows, Index cols) {
  const bool fits = array && is_array(array) && is_dtype<T>(array) && is_contiguous(array) && rank(array) == (cols < 0 ? 1 : 2) &&
                    extent(array, 0) == rows && (cols < 0 || extent(array, 1) == cols) && (!call.train || is_writeable(array));
  if (!fits) throw Unsupported{};
  T* data = data_of<T>(array);
  const Index size = cols < 0 ? rows : rows * cols;
  if (call.train) call.extents.push_back({reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + size)});
  return data;
}

// The array that stands beside a parameter in a dict, or a new one.
template <class T>
T* beside(Call& call, py::handle dict, py::handle key, py::handle like, Index rows, Index cols, bool zeros) {
  if (!is_dict(dict)) throw Unsupported{};
  py::object array = find(dict, key);
  if (!array) {
    array = zeros ? zeros_like(like) : new_like(like);
    call.entries.push_back({py::reinterpret_borrow<py::dict>(dict), py::reinterpret_borrow<py::object>(key), array});
  }
  T* data = numbers<T>(call, array, rows, cols);
  call.owned.push_back(std::move(array));
  return data;
}

template <class T>
T* statistic(Call& call, py::handle attributes, py::handle name, Index size) {
  call.owned.push_back(entry_of(attributes, name));
  return numbers<T>(call, call.owned.back(), size, -1);
}

template <class T>
void read_parameter(Call& call, const LayerObject& l, std::size_t i, int which, Index rows, Index cols,
                    network::Parameter<T>& to) {
  const py::handle p = parameter(call, i, which);
  to.p = numbers<T>(call, p, rows, cols);
  to.size = cols < 0 ? rows : rows * cols;
  if (!call.train) return;
  if (!call.averages.empty()) {
    const py::object params = entry_of(call.averages[i], names().params);
    if (!is_dict(params)) throw Unsupported{};
    const py::object average = entry_of(params, l.names[which]);
    to.average = numbers<T>(call, average, rows, cols);
    call.owned.push_back(average);
  }
  if (call.factors) {
    const py::object of = find(call.factors, l.entries[which]);
    to.frozen = of && of.is_none();
    if (to.frozen) return;
    if (of) {
      call.own_factors.push_back({py::float_(of[py::int_(0)]), py::float_(of[py::int_(1)])});
      to.factors = static_cast<uint32_t>(call.own_factors.size());
    }
  }
  if (call.keep && l.kind != LayerKind::embedding)
    to.g = beside<T>(call, call.layers[i].grads, l.names[which], p, rows, cols, false);
  if (call.matrices && l.kind == LayerKind::affine && which == 0 && contains(call.matrices, l.entries[0]))
    to.iterations = call.iterations;
  T** const slots[2] = {&to.s1, &to.s2};
  for (int s = 0; s < (to.iterations ? 1 : call.state_count); ++s)
    *slots[s] = beside<T>(call, call.states[s], l.entries[which], p, rows, cols, true);
}

// Arrays that share memory are updated one after the other, which a plan does not do; and what it reads of the data must stay.
void check_distinct(Call& call) {
  const auto same = [](const Extent& a, const Extent& b) { return a.first == b.first && a.last == b.last; };
  const std::vector<Extent>& now = call.extents;
  for (const Extent& e : now)
    if (e.meets(call.x)) throw Unsupported{};
  if (std::equal(now.begin(), now.end(), call.distinct.begin(), call.distinct.end(), same)) return;
  std::vector<Extent> sorted = now;
  std::sort(sorted.begin(), sorted.end(), [](const Extent& a, const Extent& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i].meets(sorted[i - 1])) throw Unsupported{};
  call.distinct = now;
}

}  // namespace

bool look_up(const std::vector<LayerObject>& layers, Call& call) {
  const Names& name = names();
  call.layers.resize(layers.size());
  py::handle first;  // parameter of all
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerObject& l = layers[i];
    if (!l.type->has(l.object)) throw Unsupported{};
    Call::Found& found = call.layers[i];
    found.attributes = attributes_of(l.object);
    if (replaces(found.attributes, name.forward)) throw Unsupported{};
    if (call.train && replaces(found.attributes, name.backward, name.backward_params)) throw Unsupported{};
    if (l.block && !find(found.attributes, name.layers).is(l.block)) throw Unsupported{};
    if (!l.parameters) continue;
    const py::object params = entry_of(found.attributes, name.params);
    if (!is_dict(params) || PyDict_GET_SIZE(params.ptr()) != l.parameters) throw Unsupported{};
    for (int p = 0; p < l.parameters; ++p) found.parameters[p] = entry_of(params, l.names[p]);
    if (!first) first = parameter(call, i, 0);
    if (!call.train) continue;
    found.grads = entry_of(found.attributes, name.grads);
    if (!is_dict(found.grads)) throw Unsupported{};
  }
  if (!first) throw Unsupported{};
  return is_f64(first);
}

void read_ratios(const std::vector<LayerObject>& layers, Call& call, const double* ratios, const uint64_t* step) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].kind != LayerKind::dropout) continue;
    Call::Found& found = call.layers[i];
    const py::object ratio = entry_of(found.attributes, names().ratio);
    if (ratios)
      found.ratio = *ratios++;
    else if (PyFloat_CheckExact(ratio.ptr()))
      found.ratio = PyFloat_AS_DOUBLE(ratio.ptr());
    else if (PyCallable_Check(ratio.ptr()))
      found.ratio = layers[i]
                        .object.attr("ratio_at")(step ? py::object(py::int_(*step)) : entry_of(found.attributes, names().step))
                        .cast<double>();
    else
      throw Unsupported{};
  }
}

template <class T>
void read_layers(const std::vector<LayerObject>& layers, Call& call, std::vector<Layer<T>>& to) {
  const Names& name = names();
  to.resize(layers.size());
  Index features = call.features;
  bool deep = call.deep;    // until an affine layer makes rows flat
  std::vector<Index> open;  // blocks: what goes around them
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerObject& from = layers[i];
    const py::object& attributes = call.layers[i].attributes;
    Layer<T>& l = to[i];
    l = Layer<T>{};
    l.kind = from.kind;
    l.keeps_gradients = call.keep;
    l.in = l.out = features;
    switch (from.kind) {
      case LayerKind::affine:
        deep = false;
        l.out = last_extent(parameter(call, i, 0), 2);
        read_parameter(call, from, i, 0, l.in, l.out, l.weight);
        read_parameter(call, from, i, 1, l.out, -1, l.bias);
        break;
      case LayerKind::batchnorm:
        read_parameter(call, from, i, 0, l.out, -1, l.weight);
        read_parameter(call, from, i, 1, l.out, -1, l.bias);
        l.running_mean = statistic<T>(call, attributes, name.running_mean, l.out);
        l.running_var = statistic<T>(call, attributes, name.running_var, l.out);
        if (!call.averages.empty()) {
          l.average_mean = statistic<T>(call, call.averages[i], name.running_mean, l.out);
          l.average_var = statistic<T>(call, call.averages[i], name.running_var, l.out);
        }
        l.momentum = number(attributes, name.momentum);
        l.eps = normal<T>(number(attributes, name.eps));
        break;
      case LayerKind::layernorm:
      case LayerKind::rmsnorm:
        if (deep) throw Unsupported{};  // it normalizes the last axis alone
        read_parameter(call, from, i, 0, l.out, -1, l.weight);
        if (from.kind == LayerKind::layernorm) read_parameter(call, from, i, 1, l.out, -1, l.bias);
        l.eps = normal<T>(number(attributes, name.eps));
        break;
      case LayerKind::embedding: {
        const py::handle w = parameter(call, i, 0);
        l.dim = last_extent(w, 2);
        l.vocabulary = extent(w, 0);
        l.out = l.in * l.dim;
        read_parameter(call, from, i, 0, l.vocabulary, l.dim, l.weight);
        break;
      }
      case LayerKind::activation:
        l.activation = static_cast<Activation>(from.type->activation);
        if (l.activation == Activation::gelu && is_text(entry_of(attributes, name.approximate), "tanh"))
          l.activation = Activation::gelu_tanh;
        if (l.activation == Activation::leaky_relu) l.alpha = static_cast<T>(number(attributes, name.alpha));
        break;
      case LayerKind::residual:
        if (deep) throw Unsupported{};  // what is added may have another shape than the plan's rows
        open.push_back(features);
        break;
      case LayerKind::sum:
        if (features != open.back()) throw Unsupported{};
        open.pop_back();
        break;
      case LayerKind::dropout:
        l.ratio = call.layers[i].ratio;
        if (!(l.ratio >= 0 && l.ratio < 1) || features > (Index{1} << 24)) throw Unsupported{};
        l.inverted = truth(attributes, name.inverted);
        l.stream = from.stream;
        if (call.train) l.seed = truth(attributes, name.seeded) ? unsigned_number(entry_of(attributes, name.seed)) : call.seed;
        if (call.alone) {
          l.seed = unsigned_number(entry_of(attributes, name.seed));
          l.step = unsigned_number(entry_of(attributes, name.step));
          const uint64_t stream = unsigned_number(entry_of(attributes, name.stream));
          if (l.step >> 63 || stream >> 32) throw Unsupported{};
          l.stream = static_cast<uint32_t>(stream);
        }
        break;
    }
    features = l.out;
    if (features <= 0) throw Unsupported{};
  }
  if (call.train) check_distinct(call);
}

namespace {

// One that is not ours, or not as it was made, is Python's to compute.
network::LossRule read_loss(Call& call, py::handle loss) {
  const NativeClass* const type = find_class(Role::loss, Py_TYPE(loss.ptr()));
  call.own_loss = !type || !type->has(loss);
  if (call.own_loss) return {};
  call.loss = attributes_of(loss);
  call.own_loss = replaces(call.loss, names().forward, names().backward);
  network::LossRule rule{static_cast<network::Loss>(type->kind), {}};
  const Names& name = names();
  if (rule.kind == network::Loss::softmax) {
    const double smoothing = number(call.loss, name.label_smoothing);
    if (!(smoothing >= 0 && smoothing < 1)) throw Unsupported{};
    if (smoothing > 0) rule.numbers = {smoothing};
  } else if (rule.kind == network::Loss::huber) {
    rule.numbers = {number(call.loss, name.delta)};
    if (!(rule.numbers[0] > 0)) throw Unsupported{};
  } else if (rule.kind == network::Loss::quantile) {
    const py::object all = entry_of(call.loss, name.quantiles);
    if (!PyTuple_CheckExact(all.ptr()) || PyTuple_GET_SIZE(all.ptr()) == 0) throw Unsupported{};
    for (const py::handle q : py::reinterpret_borrow<py::tuple>(all)) {
      if (!PyFloat_CheckExact(q.ptr())) throw Unsupported{};
      rule.numbers.push_back(PyFloat_AS_DOUBLE(q.ptr()));
    }
  }
  return rule;
}

ops::UpdateRule read_optimizer(Call& call, py::handle optimizer, bool rates) {
  const Names& name = names();
  const NativeClass& type = class_of(Role::optimizer, Py_TYPE(optimizer.ptr()));
  if (!type.has(optimizer)) throw Unsupported{};
  const auto held = py::reinterpret_borrow<py::object>(optimizer);  // whatever its schedule does to the trainer
  call.optimizer = attributes_of(optimizer);
  call.optimizer_object = held;
  if (replaces(call.optimizer, name.update, name.rate, name.factors, name.matrices)) throw Unsupported{};
  if (!call.lock || !find(call.optimizer, name.in_use).is(call.locked)) {
    if (!find(call.optimizer, name.in_use)) const py::object made = held.attr(name.in_use);
    call.lock = lock_of(call.optimizer, call.locked);
    if (!call.lock) throw Unsupported{};
  }
  ops::UpdateRule rule{};
  rule.kind = static_cast<Optimizer>(type.kind);
  const py::object lr = entry_of(call.optimizer, name.lr);
  if (PyFloat_CheckExact(lr.ptr()) && PyFloat_AS_DOUBLE(lr.ptr()) >= 0 && std::isfinite(PyFloat_AS_DOUBLE(lr.ptr())))
    rule.lr = PyFloat_AS_DOUBLE(lr.ptr());
  else if (!rates)
    rule.lr = held.attr("rate")().cast<double>();
  const py::object decay = entry_of(call.optimizer, name.weight_decay);
  if (PyFloat_CheckExact(decay.ptr()))
    rule.weight_decay = PyFloat_AS_DOUBLE(decay.ptr());
  else if (!rates)
    rule.weight_decay = held.attr("decay")().cast<double>();
  double* const betas[2] = {&rule.beta1, &rule.beta2};
  for (std::size_t b = 0; b < type.names.size(); ++b) *betas[b] = number(call.optimizer, type.names[b]);
  if (squares_gradients(rule.kind)) rule.eps = number(call.optimizer, name.eps);
  if (rule.kind == Optimizer::muon) {
    rule.muon = {number(call.optimizer, name.momentum), number(call.optimizer, name.adamw_factor),
                 truth(call.optimizer, name.nesterov)};
    const uint64_t iterations = unsigned_number(entry_of(call.optimizer, name.ns_steps));
    if (iterations < 1 || iterations > ops::kMostIterations) throw Unsupported{};
    call.iterations = static_cast<int>(iterations);
  }
  const uint64_t step = unsigned_number(entry_of(call.optimizer, name.step));
  if (step >> 62) throw Unsupported{};
  rule.step = static_cast<int64_t>(step) + 1;
  call.state_count = states_of(rule.kind);
  const py::object state = entry_of(call.optimizer, name.state);
  if (!is_dict(state) || PyDict_GET_SIZE(state.ptr()) != call.state_count) throw Unsupported{};
  for (int s = 0; s < call.state_count; ++s) call.states[s] = entry_of(state, type.slots[static_cast<std::size_t>(s)]);
  return rule;
}

}  // namespace

void read_groups(Call& call, const std::vector<LayerObject>& layers) {
  const py::object groups = entry_of(call.optimizer, names().groups);
  if (!PyTuple_CheckExact(groups.ptr())) throw Unsupported{};
  const bool grouped = PyTuple_GET_SIZE(groups.ptr()) > 0;
  if (!grouped && !call.iterations) return;
  py::dict params;
  for (std::size_t i = 0; i < layers.size(); ++i)
    for (int p = 0; p < layers[i].parameters; ++p) params[layers[i].entries[p]] = call.layers[i].parameters[p];
  if (grouped) {
    call.factors = call.optimizer_object.attr(names().factors)(params);
    if (!is_dict(call.factors)) throw Unsupported{};
  }
  if (call.iterations) {
    call.matrices = call.optimizer_object.attr(names().matrices)(params);
    if (!PyFrozenSet_CheckExact(call.matrices.ptr())) throw Unsupported{};
  }
}

namespace {

// Adds the attributes of layers as layers_of has them.
void add_attributes(py::handle layers, std::vector<py::dict>& to) {
  if (!PyTuple_CheckExact(layers.ptr())) throw Unsupported{};
  for (const py::handle layer : py::reinterpret_borrow<py::tuple>(layers)) {
    const bool block = static_cast<LayerKind>(class_of(Role::layer, Py_TYPE(layer.ptr())).kind) == LayerKind::residual;
    const py::dict attributes = attributes_of(layer);
    to.push_back(attributes);
    if (!block) continue;
    add_attributes(block_of(attributes), to);
    to.push_back(attributes);
  }
}

// The layers of a network that is a copy of the one that is trained.
void read_average(Call& call, py::handle averaged) {
  if (!only_class(Role::network).has(averaged)) throw Unsupported{};
  const py::dict attributes = attributes_of(averaged);
  add_attributes(entry_of(attributes, names().layers), call.averages);
  if (call.averages.size() != call.layers.size()) throw Unsupported{};
  call.average_lock = lock_of(attributes, call.averaged);
  if (!call.average_lock) throw Unsupported{};
}

}  // namespace

network::Rule read_rule(Call& call, py::handle trainer, bool epochs, bool rates) {
  const Names& name = names();
  PyTypeObject* const type = Py_TYPE(trainer.ptr());  // which may be one derived from ours
  if (!only_class(Role::trainer).attributes.holds_for(type)) throw Unsupported{};
  if (epochs && !only_class(Role::epochs).attributes.holds_for(type)) throw Unsupported{};
  const py::dict attributes = attributes_of(trainer);
  call.trainer = attributes;
  if (replaces(attributes, name.own_loss, name.check_loss, name.check_finite, name.clip, name.loss_and_gradient))
    throw Unsupported{};
  if (epochs && replaces(attributes, name.step, name.inputs, name.gather)) throw Unsupported{};
  network::Rule rule{};
  rule.update = read_optimizer(call, entry_of(attributes, name.optimizer), rates);
  rule.loss = read_loss(call, entry_of(attributes, name.loss));
  const bool clip = !entry_of(attributes, name.clip_norm).is_none();
  rule.clip_norm = clip ? number(attributes, name.clip_norm) : std::numeric_limits<double>::infinity();
  const py::object nonfinite = entry_of(attributes, name.nonfinite);
  if (!PyUnicode_CheckExact(nonfinite.ptr())) throw Unsupported{};
  rule.stop_at_nonfinite = nonfinite.is(name.raise) || PyUnicode_Compare(nonfinite.ptr(), name.raise.ptr()) == 0;
  rule.per_row = attributes.contains(name.per_row);
  const py::object averaged = entry_of(attributes, name.averaged);
  if (!averaged.is_none()) {
    rule.average = 1 - number(attributes, name.average);
    if (!(rule.average > 0 && rule.average < 1)) throw Unsupported{};
    read_average(call, averaged);
  }
  rule.step = unsigned_number(entry_of(attributes, name.steps));
  if (rule.step >> 63) throw Unsupported{};
  call.seed = unsigned_number(entry_of(attributes, name.seed));
  return rule;
}

// Beyond this loss a step is done in Python, which looks at the gradients before it squares them: 10^10 in a column of x makes
// one of 10^18 or more, and gradients of 10^20.
template <class T>
constexpr double kLargeLoss = sizeof(T) == 4 ? 1e16 : 1e140;

template <class T>
void limit(network::Rule& rule) {
  const bool squares = squares_gradients(rule.update.kind);
  constexpr double most = std::numeric_limits<double>::max();
  rule.largest_loss = squares ? kLargeLoss<T> : most;
  rule.largest_norm = std::sqrt(squares ? static_cast<double>(std::numeric_limits<T>::max()) : most);
}

Index read_part(const Call& call) {
  const py::object part = find(call.trainer, names().part);
  return part ? static_cast<Index>(unsigned_number(part)) : 0;
}

namespace {

bool number_type(py::handle array, ops::Number& type) {
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
bool has_whole_rows(py::handle array) {
  if (!is_aligned(array)) return false;
  const auto* p = py::detail::array_proxy(array.ptr());
  Index expected = py::reinterpret_borrow<py::dtype>(p->descr).itemsize();
  for (int i = p->nd - 1; i > 0; --i) {
    if (p->dimensions[i] != 1 && p->strides[i] != expected) return false;
    expected *= p->dimensions[i];
  }
  return true;
}

// Rows [first, first + n) of the targets of a data set.
template <class T>
void check_dense(const network::LossRule& loss, py::handle rows, Index first, Index n, Index outputs) {
  if (loss.kind == network::Loss::softmax) {
    softmax_labels<T>(rows, n, outputs, false, first);
    return;
  }
  const Index shape[] = {n, loss.targets(outputs)};
  const Range range = loss.kind == network::Loss::sigmoid   ? Range::unit
                      : loss.kind == network::Loss::poisson ? Range::counts
                                                            : Range::all;
  check_targets<T>(contiguous(as_real("t", rows, new_vector<T>(0))), new_array(py::dtype::of<T>(), 2, shape), range, first);
}

}  // namespace

template <class T>
Rows read_rows(Call& call, const char* name, py::handle array, bool may_convert, bool indices) {
  if (!is_array(array) || rank(array) < 1) throw Unsupported{};
  py::object rows = py::reinterpret_borrow<py::object>(array);
  ops::RowSource from{};
  const bool readable = number_type(rows, from.type) && (!indices || ops::is_integer(from.type));
  if (!readable || !has_whole_rows(rows)) {
    if (!may_convert) throw Unsupported{};
    rows = indices ? row_numbers(rows) : contiguous(as_real(name, rows, new_vector<T>(0)));
    number_type(rows, from.type);
  }
  const Index n = extent(rows, 0);
  from.data = data_of<const char>(rows);
  from.row_bytes = py::detail::array_proxy(rows.ptr())->strides[0];
  from.cols = n ? size_of(rows) / n : 0;
  call.owned.push_back(rows);
  return {from, n, std::move(rows)};
}

template <class T>
void read_targets(Call& call, network::Data& data, const network::LossRule& loss, py::handle given, Index n, Index outputs,
                  Index check_rows) {
  const Index width = loss.targets(outputs);
  if (width == 0) throw Unsupported{};
  const py::object t = is_array(given) ? py::reinterpret_borrow<py::object>(given) : py::object(any_array("t", given));
  if (loss.kind == network::Loss::softmax && rank(t) != 2) {
    const Labels labels = softmax_labels<T>(t, n, outputs, false);
    if (labels.classes) {
      data.labels = data_of<const int64_t>(labels.array);
      call.owned.push_back(labels.array);
      return;
    }
  }
  if (check_rows == n) {
    check_dense<T>(loss, t, 0, n, outputs);
  } else if (check_rows > 0) {
    const py::object plain = plain_view(t);  // whose slices are what they seem
    for (Index first = 0; first < n; first += check_rows) {
      const Index end = std::min(first + check_rows, n);
      check_dense<T>(loss, plain[py::slice(first, end, 1)], first, end - first, outputs);
    }
  }
  const Rows rows = read_rows<T>(call, "t", t, true, false);
  data.dense = rows.from;
  if (data.dense.cols != width || rows.n != n) throw Unsupported{};
}

#define FASTNN_INSTANTIATE(T)                                                                \
  template void limit<T>(network::Rule&);                                                    \
  template void read_layers(const std::vector<LayerObject>&, Call&, std::vector<Layer<T>>&); \
  template Rows read_rows<T>(Call&, const char*, py::handle, bool, bool);                    \
  template void read_targets<T>(Call&, network::Data&, const network::LossRule&, py::handle, Index, Index, Index);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::bindings
