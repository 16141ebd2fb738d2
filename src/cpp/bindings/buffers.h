#pragma once
// The memory of results: at cache lines, so that no access of a kernel spans two, and used again, so that its pages exist.
#include <pybind11/pybind11.h>

#include <cstddef>

namespace fastnn::bindings {

// Below this, NumPy's own memory is as good.
constexpr std::size_t kOwnBuffer = 4096;

// `bytes` bytes at a 64-byte boundary, or where they are many at a page, and the object that gives them back when it dies.
// MemoryError where there are none.
struct Buffer {
  pybind11::object owner;
  void* data;
};
Buffer new_buffer(std::size_t bytes);

}  // namespace fastnn::bindings
