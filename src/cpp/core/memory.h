#pragma once
// Memory at the beginning of a cache line, large blocks of a page, and from 4 MiB on huge pages where the system has them.
#include <cstddef>

namespace fastnn {

constexpr std::size_t kLine = 64, kPage = 4096;
constexpr std::size_t kPaged = 32 * kPage;  // from so many bytes on

// At least `bytes` bytes, to be given back with std::free; null where there are none.
void* allocate(std::size_t bytes) noexcept;

}  // namespace fastnn
