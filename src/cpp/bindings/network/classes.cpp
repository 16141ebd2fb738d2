#include "bindings/network/classes.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <unordered_map>

namespace fastnn::bindings {
namespace {

constexpr const char* kRoles[] = {"layer", "loss", "optimizer", "network", "trainer", "epochs", "function"};

// Whatever the role: what an attribute is.
const std::vector<const char*> kAccess = {"__getattribute__", "__getattr__", "__setattr__", "__dict__"};

std::vector<const char*> attributes_of_role(Role role) {
  switch (role) {
    case Role::layer:
      return {"forward", "backward",     "backward_params", "params", "grads",       "alpha",  "momentum",
              "eps",     "ratio",        "inverted",        "seed",   "seeded",      "step",   "stream",
              "_kept",   "running_mean", "running_var",     "_saved", "approximate", "layers", "first_row"};
    case Role::loss:
      return {"forward", "backward", "y", "label_smoothing", "delta", "quantiles"};
    case Role::optimizer:
      return {"update", "rate",  "lr",     "weight_decay", "state",     "step",     "eps",      "momentum",    "decay_rate",
              "beta1",  "beta2", "groups", "_factors",     "_matrices", "nesterov", "ns_steps", "adamw_factor"};
    case Role::network:
      return {"forward", "backward", "backward_params", "params", "grads", "layers"};
    case Role::trainer:
      return {"net",         "loss",          "optimizer", "clip_norm",          "seed",       "nonfinite", "steps",   "_loss",
              "_check_loss", "_check_finite", "_clip",     "_loss_and_gradient", "_criterion", "average",   "averaged"};
    case Role::epochs:
      return {"step", "_inputs", "_gather"};
    case Role::function:
      return {"forward", "backward", "checked", "function", "_weighs"};
  }
  return {};
}

// Those of a role. A registration puts another list in its place: whoever reads one needs no lock. None is ever destroyed, nor
// what is in it: they outlive the interpreter's end.
using Classes = std::unordered_map<PyTypeObject*, const NativeClass*>;
std::atomic<const Classes*> all_classes[std::size(kRoles)];
std::mutex registering;

const Classes& classes(Role role) {
  static const Classes none;
  const Classes* const known = all_classes[static_cast<int>(role)].load(std::memory_order_acquire);
  return known ? *known : none;
}

// The attribute as the class has it, without a word of its own code.
PyObject* attribute(PyTypeObject* type, const py::str& name) { return _PyType_Lookup(type, name.ptr()); }

}  // namespace

AsAtImport::AsAtImport(PyTypeObject* type, Role role) {
  std::vector<const char*> all = attributes_of_role(role);
  all.insert(all.end(), kAccess.begin(), kAccess.end());
  for (const char* text : all) {
    const py::str name = interned(text);
    attributes_.emplace_back(name, py::reinterpret_borrow<py::object>(attribute(type, name)));
  }
}

bool AsAtImport::compare(PyTypeObject* type) const {
  for (const auto& [name, value] : attributes_)
    if (attribute(type, name) != value.ptr()) return false;
  return true;
}

const NativeClass* find_class(Role role, PyTypeObject* type) {
  const Classes& known = classes(role);
  const auto at = known.find(type);
  return at == known.end() ? nullptr : at->second;
}
const NativeClass& class_of(Role role, PyTypeObject* type) {
  const NativeClass* const known = find_class(role, type);
  if (!known) throw Unsupported{};
  return *known;
}

const NativeClass& only_class(Role role) {
  const Classes& known = classes(role);
  if (known.size() != 1) throw Unsupported{};
  return *known.begin()->second;
}

void register_class(const std::string& role, const py::type& type, int kind, int activation, const py::tuple& names,
                    const py::tuple& slots) {
  const auto at = std::find(std::begin(kRoles), std::end(kRoles), role);
  if (at == std::end(kRoles)) refuse("unknown role " + role);
  const Role known = static_cast<Role>(at - std::begin(kRoles));
  auto* const class_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  const auto all = [](const py::tuple& texts) {
    std::vector<py::str> list;
    for (const py::handle text : texts) list.push_back(interned(text.cast<std::string>().c_str()));
    return list;
  };
  type.inc_ref();
  const auto* const made = new NativeClass{class_type, kind, activation, all(names), all(slots), AsAtImport(class_type, known)};
  const std::lock_guard<std::mutex> lock(registering);
  auto* const with = new Classes(classes(known));
  (*with)[class_type] = made;
  all_classes[static_cast<int>(known)].store(with, std::memory_order_release);
}

}  // namespace fastnn::bindings
