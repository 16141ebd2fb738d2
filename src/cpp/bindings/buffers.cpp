#include "bindings/buffers.h"

#include <cstdlib>
#include <mutex>
#include <vector>

#include "core/memory.h"

namespace fastnn::bindings {
namespace {

namespace py = pybind11;

// The C library gives larger blocks back to the system and asks for them again: clearing the pages of 16 MiB takes 600 us, and
// ReLU's pass over them 750 us.
constexpr std::size_t kKeep = kPaged;
constexpr std::size_t kKeepTotal = std::size_t{1} << 27;  // bytes held for later, at most

// In front of the data.
struct alignas(kLine) Block {
  std::size_t bytes;
};

// Large data begin at a page. A load that has the last 12 bits of its address in common with a store shortly before waits for
// it, and large arrays of NumPy begin 16 bytes into a page: with results 64 bytes into theirs, ReLU of 16 MiB took 1.8 ms, so
// 0.63.
std::size_t before_data(std::size_t bytes) { return bytes < kKeep ? sizeof(Block) : kPage; }

// Freed blocks, oldest first.
class Shelf {
 public:
  Block* take(std::size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (auto at = blocks_.rbegin(); at != blocks_.rend(); ++at) {
      Block* block = *at;
      if (block->bytes < bytes || block->bytes / 4 * 3 > bytes) continue;
      blocks_.erase(std::next(at).base());
      total_ -= block->bytes;
      return block;
    }
    return nullptr;
  }
  void put(Block* block) {
    const std::lock_guard<std::mutex> guard(mutex_);
    blocks_.push_back(block);
    total_ += block->bytes;
    while (total_ > kKeepTotal) {
      total_ -= blocks_.front()->bytes;
      std::free(blocks_.front());
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Block*> blocks_;
  std::size_t total_ = 0;
};

Shelf& shelf() {
  static auto* const only = new Shelf;  // arrays may live longer than what this library destroys at exit
  return *only;
}

Block* new_block(std::size_t bytes) {
  void* memory = allocate(before_data(bytes) + bytes);
  if (!memory) throw std::bad_alloc();
  return new (memory) Block{bytes};
}

void release(PyObject* capsule) {
  auto* block = static_cast<Block*>(PyCapsule_GetPointer(capsule, nullptr));
  if (block->bytes < kKeep)
    std::free(block);
  else
    shelf().put(block);
}

}  // namespace

Buffer new_buffer(std::size_t bytes) {
  Block* block = bytes < kKeep ? nullptr : shelf().take(bytes);
  if (!block) block = new_block(bytes);
  PyObject* owner = PyCapsule_New(block, nullptr, release);
  if (!owner) {
    std::free(block);
    throw py::error_already_set();
  }
  return {py::reinterpret_steal<py::object>(owner), reinterpret_cast<char*>(block) + before_data(block->bytes)};
}

}  // namespace fastnn::bindings
