#include "core/clock.h"

#include <chrono>

namespace fastnn {
namespace {

double measure() noexcept {
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  const uint64_t first = ticks();
  auto now = begun;
  while (now - begun < std::chrono::microseconds(200)) now = Clock::now();
  const uint64_t passed = ticks() - first;
  return std::chrono::duration<double, std::nano>(now - begun).count() / static_cast<double>(passed ? passed : 1);
}

}  // namespace

double nanoseconds_a_tick() noexcept {
  static const double tick = measure();
  return tick;
}

}  // namespace fastnn
