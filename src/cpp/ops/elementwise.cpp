#include "ops/elementwise.h"

#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/parts.h"

namespace fastnn::ops {
namespace {

constexpr Index kGrain = 64;    // whole cache lines of either type, whole groups of random words
constexpr Index kLeast = 2048;  // elements that are worth claiming

template <class T, class F>
void each(Index n, double cost_each, F&& f) {
  run_team(members_for(cost::elements<T>(n, cost_each)), [&](Team& team) { team.each(n, kGrain, kLeast, f); });
}

double cost_of(Activation kind) {
  return kind == Activation::relu || kind == Activation::leaky_relu ? cost::kMove : cost::kTranscendental;
}

}  // namespace

template <class T>
void activation_forward(Activation kind, const T* x, T* y, Index n, T alpha) {
  const auto kernel = kernels<T>().activations[static_cast<int>(kind)].forward;
  const bool around = cost::leaves_caches<T>(2 * n);
  each<T>(n, cost_of(kind), [&](Index begin, Index end) { kernel(x + begin, y + begin, end - begin, alpha, around); });
}

template <class T>
void activation_backward(Activation kind, const T* x, const T* y, const T* dy, T* dx, Index n, T alpha) {
  const auto kernel = kernels<T>().activations[static_cast<int>(kind)].backward;
  const bool from_output = activation_uses_output(kind), around = cost::leaves_caches<T>(3 * n);
  each<T>(n, from_output ? cost::kMove : cost::kTranscendental, [&](Index begin, Index end) {
    kernel(from_output ? nullptr : x + begin, from_output ? y + begin : nullptr, dy + begin, dx + begin, end - begin, alpha,
           around);
  });
}

template <class T>
void dropout_forward(const RandomStream& stream, double ratio, T scale, const T* x, T* y, uint8_t* keep, Index n) {
  const uint32_t threshold = drop_threshold(ratio);
  const bool around = cost::leaves_caches<T>(2 * n);
  each<T>(n, cost::kRandom, [&](Index begin, Index end) {
    kernels<T>().dropout_forward(stream, threshold, scale, begin, end - begin, x + begin, y + begin, keep + begin / 8, around);
  });
}

template <class T>
void dropout_backward(const uint8_t* keep, T scale, const T* dy, T* dx, Index n) {
  const bool around = cost::leaves_caches<T>(2 * n);
  each<T>(n, cost::kMove, [&](Index begin, Index end) {
    kernels<T>().dropout_backward(keep + begin / 8, scale, end - begin, dy + begin, dx + begin, around);
  });
}

template <class T>
void scale(const T* x, T factor, T* y, Index n) {
  each<T>(n, cost::kMove, [&](Index begin, Index end) { kernels<T>().scale(x + begin, factor, end - begin, y + begin); });
}

double sum_of_squares(const std::vector<Run>& runs) {
  constexpr Index kPiece = 1 << 14;
  Index pieces = 0, total = 0;
  for (const Run& r : runs) {
    pieces += (r.size + kPiece - 1) / kPiece;
    total += r.size;
  }
  std::vector<double> sums(static_cast<std::size_t>(pieces));
  run_team(members_for(cost::elements<float>(total, cost::kMove)), [&](Team& team) {
    team.each(pieces, 1, [&](Index begin, Index end) {
      Index piece = 0;
      for (const Run& r : runs)
        for (Index at = 0; at < r.size; at += kPiece, ++piece) {
          if (piece < begin || piece >= end) continue;
          const Index size = r.size - at < kPiece ? r.size - at : kPiece;
          sums[static_cast<std::size_t>(piece)] =
              r.f32 ? kernels<float>().sum_of_squares(r.f32 + at, size) : kernels<double>().sum_of_squares(r.f64 + at, size);
        }
    });
  });
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

#define FASTNN_INSTANTIATE(T)                                                                   \
  template void activation_forward(Activation, const T*, T*, Index, T);                         \
  template void activation_backward(Activation, const T*, const T*, const T*, T*, Index, T);    \
  template void dropout_forward(const RandomStream&, double, T, const T*, T*, uint8_t*, Index); \
  template void dropout_backward(const uint8_t*, T, const T*, T*, Index);                       \
  template void scale(const T*, T, T*, Index);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
