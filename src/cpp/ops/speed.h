#pragma once
// How fast a core of this machine is with the kernels in use, as against the one that the costs were measured on.
namespace fastnn {

struct Speed {
  double flop, number;  // the time of a fused multiply-add, and of arithmetic on a number: 1 on a Zen 4 core with AVX-512
};
// Measured when it is first asked for, and for other kernels again, in a fifth of a millisecond.
const Speed& speed() noexcept;

}  // namespace fastnn
