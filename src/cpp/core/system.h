#pragma once
// What teams ask of the operating system. CMake chooses who answers: system/linux.cpp, or system/portable.cpp where there is no
// futex and no thread says where it runs.
#include <atomic>
#include <cstdint>

namespace fastnn::system {

// Of processors, by their numbers.
class ProcessorSet {
 public:
  static constexpr int kMost = 1024;
  static constexpr int kWords = kMost / 64;

  static bool can_hold(int p) noexcept { return p >= 0 && p < kMost; }
  bool has(int p) const noexcept { return can_hold(p) && (words[p / 64] >> (p % 64) & 1) != 0; }
  void add(int p) noexcept {
    if (can_hold(p)) words[p / 64] |= uint64_t{1} << (p % 64);
  }
  void remove(int p) noexcept {
    if (can_hold(p)) words[p / 64] &= ~(uint64_t{1} << (p % 64));
  }
  int count() const noexcept {
    int n = 0;
    for (const uint64_t word : words) n += __builtin_popcountll(word);
    return n;
  }

  uint64_t words[kWords]{};
};

// The processor that the calling thread runs on; -1 where that is not known.
int processor() noexcept;
// Those that it may run on; false where they are not known.
bool allowed_processors(ProcessorSet& set) noexcept;

using Thread = int;
Thread this_thread() noexcept;
// Lets a thread run on these processors alone; false where that is refused.
bool move(Thread thread, const ProcessorSet& set) noexcept;

// Sleeps while a word has this value, or for less long.
void sleep(const std::atomic<uint32_t>& word, uint32_t value) noexcept;
// Wakes so many of those who sleep on a word, which has been changed.
void wake(const std::atomic<uint32_t>& word, int count) noexcept;

// How many libraries have been loaded into this process, by now and ever, and f(path, context) for those that are there; 0 and
// none where the system does not tell.
unsigned long long libraries_loaded() noexcept;
void each_library(void (*f)(const char* path, void* context), void* context) noexcept;

}  // namespace fastnn::system
