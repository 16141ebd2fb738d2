#pragma once
// What Python objects hold, as their dicts say: no code of theirs is run, and nothing that is missing or of another type is
// believed.
#include <cstdint>

#include "bindings/arrays.h"

namespace fastnn::bindings {

// What native code cannot take as it is: Python does it then.
struct Unsupported {};

// The value, or null. Owned, since another thread may take it out of the dict meanwhile.
inline py::object find(py::handle dict, py::handle key) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* value = nullptr;
  if (PyDict_GetItemRef(dict.ptr(), key.ptr(), &value) < 0) throw py::error_already_set();
#else
  PyObject* value = Py_XNewRef(PyDict_GetItemWithError(dict.ptr(), key.ptr()));
  if (!value && PyErr_Occurred()) throw py::error_already_set();
#endif
  return py::reinterpret_steal<py::object>(value);
}
// The value, which must be there.
inline py::object entry_of(py::handle dict, py::handle key) {
  py::object value = find(dict, key);
  if (!value) throw Unsupported{};
  return value;
}
// Of a set.
inline bool contains(py::handle set, py::handle key) {
  const int found = PySet_Contains(set.ptr(), key.ptr());
  if (found < 0) throw py::error_already_set();
  return found > 0;
}
inline bool is_dict(py::handle value) { return value && PyDict_CheckExact(value.ptr()); }

// An object's own attributes, the live dict.
py::dict attributes_of(py::handle object);

// Exact numbers and truths of a dict.
double number(py::handle dict, py::handle name);
bool truth(py::handle dict, py::handle name);
uint64_t unsigned_number(py::handle value);
bool is_text(py::handle value, const char* text);  // of what is a str

py::str interned(const char* name);

// Names that are looked up in every call. What is made once is made at import: a thread that waits for another to have made it
// would keep what that one may need, the GIL or a stop of all threads.
struct Names {
  py::str params = interned("params"), grads = interned("grads"), alpha = interned("alpha"), momentum = interned("momentum"),
          eps = interned("eps"), ratio = interned("ratio"), inverted = interned("inverted"), seed = interned("seed"),
          seeded = interned("seeded"), step = interned("step"), steps = interned("steps"), stream = interned("stream"),
          first_row = interned("first_row"), running_mean = interned("running_mean"), running_var = interned("running_var"),
          optimizer = interned("optimizer"), loss = interned("loss"), clip_norm = interned("clip_norm"),
          nonfinite = interned("nonfinite"), per_row = interned("_per_row"), lr = interned("lr"),
          weight_decay = interned("weight_decay"), state = interned("state"), y = interned("y"), kept = interned("_kept"),
          forward = interned("forward"), backward = interned("backward"), backward_params = interned("backward_params"),
          update = interned("update"), rate = interned("rate"), raise = interned("raise"), own_loss = interned("_loss"),
          check_loss = interned("_check_loss"), check_finite = interned("_check_finite"), clip = interned("_clip"),
          inputs = interned("_inputs"), gather = interned("_gather"), saved = interned("_saved"),
          loss_and_gradient = interned("_loss_and_gradient"), criterion = interned("_criterion"), function = interned("function"),
          weighs = interned("_weighs"), checked = interned("checked"), in_use = interned("_in_use"),
          approximate = interned("approximate"), label_smoothing = interned("label_smoothing"), delta = interned("delta"),
          quantiles = interned("quantiles"), groups = interned("groups"), factors = interned("_factors"),
          average = interned("average"), averaged = interned("averaged"), layers = interned("layers"),
          matrices = interned("_matrices"), nesterov = interned("nesterov"), ns_steps = interned("ns_steps"),
          adamw_factor = interned("adamw_factor"), part = interned("_part");
};
const Names& names();

}  // namespace fastnn::bindings
