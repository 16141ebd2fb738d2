#pragma once
// Memory that one call needs while it runs: a buffer of the calling thread's, which grows and is kept for the next call.
#include <cstddef>

namespace fastnn {

// At least `bytes` bytes at a 64-byte boundary, valid until this thread's next call. Throws std::bad_alloc.
void* scratch_bytes(std::size_t bytes);

template <class T>
T* scratch(std::size_t count) {
  return static_cast<T*>(scratch_bytes(count * sizeof(T)));
}

}  // namespace fastnn
