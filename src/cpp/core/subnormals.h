#pragma once
// Subnormals can slow a kernel many times over.
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastnn {

// Flushes subnormals while it lives; the caller's mode comes back after.
class FlushSubnormals {
 public:
  FlushSubnormals() noexcept {
#if defined(__x86_64__)
    before_ = _mm_getcsr();
    _mm_setcsr(before_ | 0x8040u);  // FTZ | DAZ
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (uint64_t{1} << 24)));  // FZ
#endif
  }
  ~FlushSubnormals() {
#if defined(__x86_64__)
    _mm_setcsr(before_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" ::"r"(before_));
#endif
  }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__x86_64__)
  unsigned before_;
#elif defined(__aarch64__)
  uint64_t before_;
#endif
};

}  // namespace fastnn
