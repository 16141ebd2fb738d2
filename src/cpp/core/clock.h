#pragma once
// A clock that costs a few nanoseconds, and what a thread does while it waits.
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastnn {

inline uint64_t ticks() noexcept {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  uint64_t now;
  asm volatile("mrs %0, cntvct_el0" : "=r"(now));
  return now;
#endif
}

// Nanoseconds a tick; measured when first asked for, in a fifth of a millisecond.
double nanoseconds_a_tick() noexcept;
// The same, at once: the last that was measured.
inline uint64_t ticks_of(double nanoseconds) noexcept { return static_cast<uint64_t>(nanoseconds / nanoseconds_a_tick()); }

inline void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#else
  asm volatile("yield");
#endif
}

}  // namespace fastnn
