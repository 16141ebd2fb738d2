#include "core/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "core/memory.h"

namespace fastnn {
namespace {

struct Free {
  void operator()(void* p) const noexcept { std::free(p); }
};
thread_local std::unique_ptr<void, Free> buffer;
thread_local std::size_t capacity = 0;

}  // namespace

void* scratch_bytes(std::size_t bytes) {
  if (bytes > capacity) {
    buffer.reset();
    capacity = 0;
    buffer.reset(allocate(bytes));
    if (!buffer) throw std::bad_alloc();
    capacity = bytes;
  }
  return buffer.get();
}

}  // namespace fastnn
