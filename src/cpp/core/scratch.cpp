#include "core/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

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
    if (bytes > PTRDIFF_MAX - 64) throw std::bad_alloc();
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    buffer.reset();
    capacity = 0;
    buffer.reset(std::aligned_alloc(64, rounded));
    if (!buffer) throw std::bad_alloc();
    capacity = rounded;
  }
  return buffer.get();
}

}  // namespace fastnn
