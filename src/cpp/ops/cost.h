#pragma once
// What work costs one thread, in nanoseconds: the figures behind the choice of a number of threads. Rounded from measurements on
// a Zen 4 core with AVX-512 (117 GFLOP/s, float32, data in the second-level cache), and scaled by what this machine is as against
// it; the choice only needs them within a factor of two.
#include "core/caches.h"
#include "core/types.h"
#include "ops/speed.h"

namespace fastnn::cost {

template <class T>
constexpr double kPerByte = sizeof(T) / 4.0;  // double costs twice float everywhere

constexpr double kFlop = 0.01;           // matrix multiply
constexpr double kMove = 0.06;           // a number read, a little arithmetic, a number written
constexpr double kTranscendental = 0.4;  // exp, tanh, erf, logarithm
constexpr double kRandom = 0.25;         // a random word
constexpr double kUpdate = 0.3;          // an optimizer's update of a parameter
constexpr double kWeight = 0.07;         // a weight read from the third-level cache for a product of few rows
constexpr double kRow = 15.0;            // a row's reduction to one number

// Whether an op that reads and writes so many numbers has its output leave the caches before anyone can read it: then stores had
// better go around them, as a plain store reads the line first. On a Zen 4 core that shares 32 MiB, ReLU backward of 16 MiB took
// 1.8 ms with plain stores and 1.1 ms so; of 8 MiB 0.44 and 0.36, forward of 8 MiB 0.24 and 0.32 ms.
template <class T>
bool leaves_caches(Index numbers) {
  return numbers * static_cast<Index>(sizeof(T)) > caches().third / 4 * 3;
}

template <class T>
double gemm(Index m, Index n, Index k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) * kFlop * kPerByte<T> * speed().flop;
}
template <class T>
double elements(Index n, double each) {
  return static_cast<double>(n) * each * kPerByte<T> * speed().number;
}
inline double rows(Index n) { return static_cast<double>(n) * kRow * speed().number; }

}  // namespace fastnn::cost
