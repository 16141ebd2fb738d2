#include "bindings/objects.h"

namespace fastnn::bindings {

py::str interned(const char* name) { return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name)); }

const Names& names() {
  static const Names* const all = new Names;  // outlives the interpreter's end
  return *all;
}

py::dict attributes_of(py::handle object) {
  PyObject* dict = PyObject_GenericGetDict(object.ptr(), nullptr);
  if (!dict) PyErr_Clear();
  auto attributes = py::reinterpret_steal<py::dict>(dict);
  if (!is_dict(attributes)) throw Unsupported{};
  return attributes;
}

double number(py::handle dict, py::handle name) {
  const py::object value = entry_of(dict, name);
  if (PyFloat_Check(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  if (!PyLong_CheckExact(value.ptr())) throw Unsupported{};
  const double x = PyLong_AsDouble(value.ptr());
  if (x == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw Unsupported{};
  }
  return x;
}

bool truth(py::handle dict, py::handle name) {
  const py::object value = entry_of(dict, name);
  if (!PyBool_Check(value.ptr())) throw Unsupported{};
  return value.ptr() == Py_True;
}

uint64_t unsigned_number(py::handle value) {
  if (!PyLong_CheckExact(value.ptr())) throw Unsupported{};
  const uint64_t n = PyLong_AsUnsignedLongLong(value.ptr());
  if (n == static_cast<uint64_t>(-1) && PyErr_Occurred()) {
    PyErr_Clear();
    throw Unsupported{};
  }
  return n;
}

bool is_text(py::handle value, const char* text) {
  if (!PyUnicode_CheckExact(value.ptr())) throw Unsupported{};
  return PyUnicode_CompareWithASCIIString(value.ptr(), text) == 0;
}

}  // namespace fastnn::bindings
