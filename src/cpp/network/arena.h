#pragma once
// Named places in one block of memory. A plan asks for its places once to learn how much they take, and again to get them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "core/memory.h"
#include "core/types.h"

namespace fastnn::network {

class Arena {
 public:
  Arena() = default;
  ~Arena() { std::free(block_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Calls places(take) twice, where take(T*&, count) gives count numbers on lines of their own. Throws std::bad_alloc before
  // anything is given up.
  template <class F>
  void lay_out(F&& places) {
    std::size_t size = 0;
    places([&](auto*& place, Index count) {
      place = nullptr;
      size += bytes(count, sizeof *place);
    });
    if (size > capacity_) {
      void* block = allocate(size);
      if (!block) throw std::bad_alloc();
      std::free(block_);
      block_ = block;
      capacity_ = size;
    }
    char* at = static_cast<char*>(block_);
    places([&](auto*& place, Index count) {
      place = reinterpret_cast<std::remove_reference_t<decltype(place)>>(at);
      at += bytes(count, sizeof *place);
    });
  }

 private:
  static std::size_t bytes(Index count, std::size_t each) {
    return (static_cast<std::size_t>(count) * each + kLine - 1) / kLine * kLine;
  }
  void* block_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace fastnn::network
