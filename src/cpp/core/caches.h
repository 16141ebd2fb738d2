#pragma once
// The data caches of a processor.
#include "core/types.h"

namespace fastnn {

struct Caches {
  Index second, third;  // bytes; of a core, and of the cores that share one
};
// As the system says, or those of a common server where it does not.
const Caches& caches() noexcept;

}  // namespace fastnn
