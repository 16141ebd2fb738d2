// One call updates a whole dict of parameters. Everything is checked, and all state made, before a number changes.
#include "ops/optimizers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/in_use.h"
#include "bindings/objects.h"
#include "ops/cost.h"

namespace fastnn::bindings {
namespace {

// params['W']: written out only where an error needs it.
std::string entry(const char* dict, py::handle key) { return std::string(dict) + "[" + std::string(py::repr(key)) + "]"; }

// What is a number to Python or NumPy, a bool excepted, may be infinite, but not NaN.
double number_of(const std::string& name, py::handle h) {
  const double infinity = std::numeric_limits<double>::infinity();
  return py::cast<double>(py::module_::import("fastnn._checks").attr("real_number")(name, h, -infinity, infinity));
}

// The memory of all parameters, in order of address.
class Extents {
 public:
  explicit Extents(const py::dict& params) {
    for (const auto& [key, param] : params)
      if (is_array(param) && size_of(param) > 0) sorted_.push_back(extent_of(param));
    std::sort(sorted_.begin(), sorted_.end(), [](const Extent& a, const Extent& b) { return a.first < b.first; });
    for (std::size_t i = 1; i < sorted_.size(); ++i) {
      overlap_ = overlap_ || sorted_[i].meets(sorted_[i - 1]);
      sorted_[i].last = std::max(sorted_[i].last, sorted_[i - 1].last);
    }
  }
  bool overlap() const { return overlap_; }
  // Whether an array shares memory with some parameter; with overlapping parameters, perhaps.
  bool meet(const Extent& e) const {
    const auto after = std::partition_point(sorted_.begin(), sorted_.end(), [&](const Extent& s) { return s.first < e.last; });
    return after != sorted_.begin() && e.first < std::prev(after)->last;
  }

 private:
  std::vector<Extent> sorted_;
  bool overlap_ = false;
};

// Those that Muon updates as a whole, by so many iterations.
struct Matrices {
  py::object names;  // a frozenset
  int iterations = 0;
  bool has(py::handle key) const { return iterations > 0 && contains(names, key); }
};

// What one call works on. Owns a reference to every array it uses, since the dicts may change once the GIL is released.
class Pending {
 public:
  Pending(const Extents& extents, const py::dict& params, const py::dict& factors, const Matrices& matrices, int state_count,
          const py::object& s1, const py::object& s2)
      : extents_(extents), params_(params), factors_(factors), matrices_(matrices), state_count_(state_count), states_{s1, s2} {}

  void reserve(std::size_t entries) {
    f32_.reserve(entries);
    owned_.reserve(4 * entries);
  }

  void add(py::handle key, py::handle param, py::handle grad) {
    if (!is_array(param)) return add_number(key, param, grad);
    if (is_f32(param))
      add_array<float>(f32_, key, param, grad);
    else if (is_f64(param))
      add_array<double>(f64_, key, param, grad);
    else
      refuse_type(entry("params", key) + " must be a float32 or float64 array or a float, got " + describe(param));
  }

  // Takes the memory that run() needs: it may throw std::bad_alloc, while nothing has changed.
  void make_room() { room_ = ops::room_for(f32_, f64_); }

  // The norm of the gradients, which are scaled to the limit where theirs is larger.
  double clip(double limit) {
    const double norm = unlocked(cost(), [&] { return ops::gradient_norm(f32_, f64_); });
    if (!std::isfinite(norm)) {
      const std::string text = py::str(py::float_(norm));
      PyErr_SetString(PyExc_FloatingPointError, ("the norm of the gradients is " + text + ": nothing has changed").c_str());
      throw py::error_already_set();
    }
    if (norm > limit) {
      for (const py::object& g : gradients_)
        if (!is_writeable(g)) refuse("grads must be writeable with clip_norm, got a read-only " + describe(g));
      unlocked(cost(), [&] { ops::scale_gradients(limit / norm, f32_, f64_); });
      for (const auto& [target, copy] : converted_) copy_into(target, copy);
    }
    return norm;
  }

  void run(const ops::UpdateRule& rule) {
    for (const auto& [dict, key, array] : new_states_) dict[key] = array;
    unlocked(room_.crew.nanoseconds, [&] { ops::update(rule, f32_, f64_, room_); });
    for (const auto& [target, copy] : write_back_) copy_into(target, copy);
    for (const auto& [key, number] : numbers_) params_[key] = py::float_(*data_of<double>(number));
  }

 private:
  struct NewState {
    py::dict dict;
    py::object key, array;
  };
  struct WriteBack {
    py::object target, copy;
  };
  struct Number {
    py::object key, number;
  };

  ops::Factors factors_of(py::handle key) const {
    const py::object pair = find(factors_, key);
    if (!pair) return {};
    return {py::float_(pair[py::int_(0)]), py::float_(pair[py::int_(1)])};
  }

  // Of a pass over all gradients, in nanoseconds.
  double cost() const {
    Index n = 0;
    for (const auto& u : f32_) n += u.size;
    for (const auto& u : f64_) n += 2 * u.size;
    return cost::elements<float>(n, cost::kMove);
  }

  // A gradient as it is used, and as it was given: of another type it is not scaled with it.
  template <class T>
  const T* gradient(py::object used, py::handle given) {
    gradients_.push_back(used);
    if (is_array(given) && is_dtype<T>(given) && !used.is(given)) {
      gradients_.push_back(py::reinterpret_borrow<py::object>(given));
      converted_.push_back({py::reinterpret_borrow<py::object>(given), used});
    }
    return own<T>(std::move(used));
  }

  template <class T>
  T* own(py::object array) {
    owned_.push_back(std::move(array));
    return data_of<T>(owned_.back());
  }

  // The array itself, or a contiguous copy whose numbers go back after the update.
  template <class T>
  T* in_place(const char* dict, py::handle key, py::handle array) {
    if (!is_writeable(array)) refuse(entry(dict, key) + " is read-only");
    py::object dense = contiguous(array);
    if (dense.ptr() != array.ptr()) write_back_.push_back({py::reinterpret_borrow<py::object>(array), dense});
    return own<T>(std::move(dense));
  }

  template <class T>
  T* state(int which, py::handle key, py::handle like, int count) {
    if (which >= count) return nullptr;
    const py::handle dict = states_[which];
    const py::object array = find(dict, key);
    if (!array) {
      const py::object zeros = zeros_like(like);
      new_states_.push_back({py::reinterpret_borrow<py::dict>(dict), py::reinterpret_borrow<py::object>(key), zeros});
      return own<T>(zeros);
    }
    if (!is_array(array) || !is_dtype<T>(array) || !same_shape(array, like))
      refuse(entry("params", key) + " must be what the optimizer's state for it is, a " + describe(array) + ", got a " +
             describe(like) + ": use a new optimizer for other parameters");
    return in_place<T>("state", key, array);
  }

  template <class T>
  void add_array(std::vector<ops::Update<T>>& updates, py::handle key, py::handle param, py::handle grad) {
    ops::Update<T> u{};
    u.p = in_place<T>("params", key, param);
    if (!is_array(grad) && py::hasattr(grad, "rows") && py::hasattr(grad, "values")) {
      add_rows(u, key, param, grad);
    } else {
      const bool as_it_is = is_array(grad) && is_dtype<T>(grad);
      py::object real = as_it_is ? py::reinterpret_borrow<py::object>(grad) : as_real(entry("grads", key).c_str(), grad, param);
      if (!same_shape(real, param))
        refuse(entry("grads", key) + " must have the shape of its parameter, " + shape_of(param) + ", got " + describe(real));
      real = contiguous(real);
      // A gradient inside a parameter's memory is read before that changes, unless it is its parameter, element for element.
      const bool inside = data_of<T>(real) != u.p && extents_.meet(extent_of(real));
      u.g = inside ? own<T>(copied(real)) : gradient<T>(std::move(real), grad);
      u.size = size_of(param);
      if (rank(param) == 2 && matrices_.has(key)) {
        u.iterations = matrices_.iterations;
        u.dim = extent(param, 1);
      }
    }
    const int states = u.iterations ? 1 : state_count_;
    u.s1 = state<T>(0, key, param, states);
    u.s2 = state<T>(1, key, param, states);
    u.factors = factors_of(key);
    updates.push_back(u);
  }

  template <class T>
  void add_rows(ops::Update<T>& u, py::handle key, py::handle param, py::handle grad) {
    const std::string name = entry("grads", key);
    const py::object rows = grad.attr("rows"), given = grad.attr("values");
    if (!is_array(rows) || rank(rows) != 1 || !is_i64(rows) || !is_contiguous(rows))
      refuse_type(name + ".rows must be a contiguous int64 array of shape (k,), got " + describe(rows));
    py::object values = contiguous(as_real((name + ".values").c_str(), given, param));
    const bool inside = extents_.meet(extent_of(values));
    const Index count = extent(rows, 0);
    u.dim = 1;
    bool fits = rank(param) >= 1 && rank(values) == rank(param) && extent(values, 0) == count;
    for (int i = 1; fits && i < rank(param); ++i) {
      fits = extent(values, i) == extent(param, i);
      u.dim *= extent(param, i);
    }
    if (!fits)
      refuse(name + ".values must have shape (" + std::to_string(count) + ", ...) and the rows of its parameter of shape " +
             shape_of(param) + ", got " + describe(values));
    u.rows = own<int64_t>(copied(rows));  // which nobody else can change once they are checked
    int64_t before = -1;
    for (Index i = 0; i < count; ++i) {
      if (u.rows[i] <= before || u.rows[i] >= extent(param, 0))
        refuse(name + ".rows must ascend within [0, " + std::to_string(extent(param, 0)) + "), got " + std::to_string(u.rows[i]) +
               " at position " + std::to_string(i));
      before = u.rows[i];
    }
    u.g = inside ? own<T>(copied(values)) : gradient<T>(values, given);
    u.size = count * u.dim;
  }

  void add_number(py::handle key, py::handle param, py::handle grad) {
    const auto number = [&](const char* dict, py::handle h, bool finite) {
      const std::string name = entry(dict, key);
      if (is_array(h) && rank(h) > 0) refuse(name + " must be a number as its parameter is, got " + describe(h));
      const py::object given = is_array(h) ? real_array(name.c_str(), h) : py::reinterpret_borrow<py::object>(h);
      const double v = PyFloat_CheckExact(h.ptr()) || is_array(h) ? PyFloat_AsDouble(given.ptr()) : number_of(name, h);
      if (PyErr_Occurred()) throw py::error_already_set();
      if (std::isnan(v) || (finite && std::isinf(v)))
        refuse(name + " must be a number, got " + std::string(py::str(py::float_(v))));
      py::object zero_d = new_array(py::dtype::of<double>(), 0, nullptr);
      *data_of<double>(zero_d) = v;
      return zero_d;
    };
    const py::object p = number("params", param, true), g = number("grads", grad, false);
    ops::Update<double> u{};
    u.p = own<double>(p);
    u.g = own<double>(g);
    u.size = 1;
    u.s1 = state<double>(0, key, p, state_count_);
    u.s2 = state<double>(1, key, p, state_count_);
    u.factors = factors_of(key);
    f64_.push_back(u);
    numbers_.push_back({py::reinterpret_borrow<py::object>(key), p});
  }

  const Extents& extents_;
  py::dict params_, factors_;
  const Matrices& matrices_;
  ops::UpdateRoom room_{};
  int state_count_;
  py::object states_[2];
  std::vector<ops::Update<float>> f32_;
  std::vector<ops::Update<double>> f64_;
  std::vector<py::object> owned_;
  std::vector<NewState> new_states_;
  std::vector<WriteBack> write_back_, converted_;
  std::vector<py::object> gradients_;
  std::vector<Number> numbers_;
};

// The optimizer's memory of one kind; null where it has no such.
py::object memory_of(py::handle state, const py::tuple& slots, std::size_t which) {
  if (which >= slots.size()) return {};
  if (!PyDict_Check(state.ptr())) refuse_type("the optimizer's state must be a dict, got " + describe(state));
  py::object memory = find(state, slots[which]);
  if (!memory) throw py::key_error(std::string(py::str(slots[which])));
  if (!PyDict_Check(memory.ptr())) refuse_type("the optimizer's state must hold dicts of arrays, got " + describe(memory));
  return memory;
}

// The number of the update, or where it is beyond all reason the largest there is: Adam's t, of which only beta^t counts.
int64_t count_of(const py::int_& step) {
  int overflow = 0;
  const int64_t n = PyLong_AsLongLongAndOverflow(step.ptr(), &overflow);
  return overflow > 0 ? std::numeric_limits<int64_t>::max() : n;
}

double update(InUse& lock, int kind, py::handle params, py::handle grads, py::handle state, const py::tuple& slots, double lr,
              double weight_decay, double beta1, double beta2, double eps, py::dict counter, double clip_norm,
              const py::dict& factors, const std::tuple<py::frozenset, double, double, bool, int>& muon) {
  const Hold hold(lock);
  const py::int_ step = py::object(counter[names().step]) + py::int_(1);
  if (kind < 0 || kind >= kOptimizers) refuse("unknown optimizer " + std::to_string(kind));
  if (!PyDict_Check(params.ptr())) refuse_type("params must be a dict of arrays, got " + describe(params));
  if (!PyDict_Check(grads.ptr())) refuse_type("grads must be a dict of arrays, got " + describe(grads));
  // Copies keep what they hold alive, whatever another thread does to the dicts meanwhile.
  const auto own_params = py::reinterpret_borrow<py::dict>(params);
  const auto p = py::reinterpret_steal<py::dict>(PyDict_Copy(params.ptr())),
             g = py::reinterpret_steal<py::dict>(PyDict_Copy(grads.ptr()));
  if (!p || !g) throw py::error_already_set();
  for (const auto& [key, unused] : g)
    if (!find(p, key)) refuse(entry("grads", key) + " has no parameter of that name");
  const int states = states_of(static_cast<Optimizer>(kind));
  if (slots.size() != static_cast<std::size_t>(states)) refuse("there must be as many slots as the optimizer has states");
  const py::object s1 = memory_of(state, slots, 0), s2 = memory_of(state, slots, 1);
  ops::UpdateRule rule{static_cast<Optimizer>(kind), lr, weight_decay, beta1, beta2, eps, count_of(step)};
  Matrices matrices;
  if (rule.kind == Optimizer::muon) {
    const auto& [names, momentum, others, nesterov, iterations] = muon;
    if (iterations < 1 || iterations > ops::kMostIterations)
      refuse("ns_steps must be an integer in [1, " + std::to_string(ops::kMostIterations) + "], got " +
             std::to_string(iterations));
    rule.muon = {momentum, others, nesterov};
    matrices = {names, iterations};
  }
  const Extents extents(p);
  const auto is_frozen = [&](py::handle key) {
    const py::object of = find(factors, key);
    return of && of.is_none();
  };
  Pending all(extents, own_params, factors, matrices, states, s1, s2);
  all.reserve(p.size());
  for (const auto& [key, param] : p) {
    if (is_frozen(key)) continue;
    const py::object grad = find(g, key);
    if (!grad) refuse(entry("params", key) + " has no gradient: grads must have the same keys");
    all.add(key, param, grad);
  }
  all.make_room();
  const double norm = clip_norm > 0 ? all.clip(clip_norm) : 0;
  if (!extents.overlap()) {
    all.run(rule);
    counter[names().step] = step;
    return norm;
  }
  // One array under two names, or views of one another: they are updated in turn, each from what the last has left.
  for (const auto& [key, param] : p) {
    if (is_frozen(key)) continue;
    Pending one(extents, own_params, factors, matrices, states, s1, s2);
    one.add(key, param, find(g, key));
    one.make_room();
    one.run(rule);
  }
  counter[names().step] = step;
  return norm;
}

// Whether it has: arrays that are not what they must be are left to Python.
template <class T>
bool blend_as(const py::list& targets, const py::list& sources, double share) {
  std::vector<ops::Pair<T>> pairs;
  Index n = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const py::handle y = targets[i], x = sources[i];
    for (const py::handle a : {x, y})
      if (!is_array(a) || !is_dtype<T>(a) || !is_contiguous(a)) return false;
    if (!is_writeable(y) || !same_shape(x, y) || extent_of(x).meets(extent_of(y))) return false;
    pairs.push_back({data_of<const T>(x), data_of<T>(y), size_of(y)});
    n += size_of(y);
  }
  unlocked(cost::elements<T>(n, cost::kMove), [&] { ops::blend(pairs, share); });
  return true;
}

bool blend(const py::list& targets, const py::list& sources, double share) {
  if (targets.size() != sources.size() || targets.empty()) return false;
  const py::handle first = targets[0];
  return is_array(first) && is_f64(first) ? blend_as<double>(targets, sources, share) : blend_as<float>(targets, sources, share);
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.attr("OPTIMIZERS") = numbered(kOptimizerNames);
  m.def("update", &update);
  m.def("blend", &blend);
}

}  // namespace fastnn::bindings
