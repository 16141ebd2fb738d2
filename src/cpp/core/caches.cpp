#include "core/caches.h"

#include <algorithm>
#include <cstdio>

namespace fastnn {
namespace {

// The size of the first processor's cache of some level, as Linux tells it: "1024K". (sysconf() multiplies the third by cores
// that do not share it: 320 MiB for 32 on a Zen 4 server.)
Index size_of_level(int level) noexcept {
  for (int index = 0; index < 8; ++index) {
    char path[96];
    const auto number = [&](const char* name, char& unit) {
      std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
      long long n = 0;
      if (std::FILE* file = std::fopen(path, "r")) {
        if (std::fscanf(file, "%lld%c", &n, &unit) < 1) n = 0;
        std::fclose(file);
      }
      return static_cast<Index>(n);
    };
    char unit = 0;
    if (number("level", unit) != level) continue;
    unit = 0;
    const Index size = number("size", unit);
    return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
  }
  return 0;
}

Caches find() noexcept {
  constexpr Index kKiB = 1 << 10, kMiB = 1 << 20;
  const Index second = size_of_level(2), third = size_of_level(3);
  return {second ? std::clamp(second, 128 * kKiB, 4 * kMiB) : kMiB, third ? std::clamp(third, 2 * kMiB, 256 * kMiB) : 32 * kMiB};
}

}  // namespace

const Caches& caches() noexcept {
  static const Caches found = find();
  return found;
}

}  // namespace fastnn
