#pragma once
// The order in which an epoch visits the rows of a data set: a function of (seed, epoch) alone.
#include "core/types.h"

namespace fastnn::ops {

// Row i draws the 64-bit key w[2i] * 2^32 + w[2i + 1] of the Philox words w of (seed, step = epoch, stream 2^32 - 1), and the
// rows are sorted by their keys. n is at most 2^33. Throws std::bad_alloc.
void permutation(uint64_t seed, uint64_t epoch, Index n, int64_t* order);

}  // namespace fastnn::ops
