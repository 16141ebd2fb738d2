#pragma once
// The native classes as they were at import. An object of a class that has been changed since is not what it was taken for:
// Python runs it.
#include <atomic>
#include <utility>
#include <vector>

#include "bindings/objects.h"

namespace fastnn::bindings {

// epochs: a trainer that goes through many steps; function: a loss that is one
enum class Role { layer, loss, optimizer, network, trainer, epochs, function };

// The attributes of a class that native code stands in for, or reads from instances, where a class must not have them.
class AsAtImport {
 public:
  AsAtImport(PyTypeObject* type, Role role);
  // Whether a class, the same or one derived from it, has them still.
  bool holds_for(PyTypeObject* type) const {
    const unsigned int tag = tag_of(type);
    if (tag != 0 && tag == right_.load(std::memory_order_relaxed)) return true;
    if (!compare(type)) return false;
    right_.store(tag, std::memory_order_relaxed);
    return true;
  }

 private:
  bool compare(PyTypeObject* type) const;
  // A number that no two types have, and that no change of one leaves; 0 for none. Python writes it while others read.
  static unsigned int tag_of(PyTypeObject* type) noexcept { return __atomic_load_n(&type->tp_version_tag, __ATOMIC_ACQUIRE); }

  std::vector<std::pair<py::str, py::object>> attributes_;  // null: none
  mutable std::atomic<unsigned int> right_{0};              // the tag of the last type that was found to be right
};

struct NativeClass {
  PyTypeObject* type;
  int kind, activation;               // of the layer, the loss or the optimizer
  std::vector<py::str> names, slots;  // of a layer's parameters; of an optimizer's betas and its memory
  AsAtImport attributes;

  // Whether an object is of this class itself, unchanged.
  bool has(py::handle object) const { return Py_TYPE(object.ptr()) == type && attributes.holds_for(type); }
};

// Null for a class that is none; the other throws Unsupported.
const NativeClass* find_class(Role role, PyTypeObject* type);
const NativeClass& class_of(Role role, PyTypeObject* type);
// The only class of its role: the network's, and the trainer's.
const NativeClass& only_class(Role role);

void register_class(const std::string& role, const py::type& type, int kind, int activation, const py::tuple& names,
                    const py::tuple& slots);

}  // namespace fastnn::bindings
