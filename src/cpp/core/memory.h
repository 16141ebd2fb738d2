#pragma once
// Memory at the beginning of a cache line, from 128 KiB of a page, and from 4 MiB on huge pages where the system has them.
#include <cstddef>

namespace fastnn {

// At least `bytes` bytes, to be given back with std::free; null where there are none.
void* allocate(std::size_t bytes) noexcept;

}  // namespace fastnn
