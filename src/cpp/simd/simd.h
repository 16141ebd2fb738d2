#pragma once
// One vocabulary for every ISA. A vector is 64 bytes: 16 floats, 8 doubles, 16 uint32 or 8 uint64, made of one, two or
// four registers, so that a reduction has the same lanes in the same order everywhere and a kernel is written once.
//
// A backend (avx512.h, avx2.h, neon.h, sse2.h) supplies what plain vector arithmetic cannot say: fma, max, min, sqrt, partial
// loads and stores, mask bits, wide products. Everything here is internal to its translation unit (anonymous namespace) and
// inlined.
//
// A file of long functions whose lanes never meet may define FASTNN_LONG_VECTORS first: a vector is then four registers of
// AVX-512 too, 256 bytes, which take turns where each step waits for the one before. What combines lanes refuses such vectors.
#include <cstdint>

#include "core/types.h"

#define FASTNN_INLINE static inline __attribute__((always_inline))
#if defined(__AVX512F__)
#define FASTNN_VECTOR_REGISTER "v"  // the name of a vector register in an asm statement
#elif defined(__x86_64__)
#define FASTNN_VECTOR_REGISTER "x"
#else
#define FASTNN_VECTOR_REGISTER "w"
#endif
#define FASTNN_LAMBDA __attribute__((always_inline))

namespace fastnn::FASTNN_TARGET { namespace {

#if defined(__AVX512F__)
#define FASTNN_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define FASTNN_REGISTER_BYTES 32
#else
#define FASTNN_REGISTER_BYTES 16
#endif

template <class T>
struct RegOf;
template <>
struct RegOf<float> {
  typedef float type __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
  typedef int32_t mask __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
};
template <>
struct RegOf<double> {
  typedef double type __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
  typedef int64_t mask __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
};
template <>
struct RegOf<uint32_t> {
  typedef uint32_t type __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
  typedef int32_t mask __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
};
template <>
struct RegOf<uint64_t> {
  typedef uint64_t type __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
  typedef int64_t mask __attribute__((vector_size(FASTNN_REGISTER_BYTES)));
};
template <class T>
struct QuarterOf;
template <>
struct QuarterOf<float> {
  typedef float type __attribute__((vector_size(16)));
};
template <>
struct QuarterOf<double> {
  typedef double type __attribute__((vector_size(16)));
};
template <class T>
using Quarter = typename QuarterOf<T>::type;  // a quarter of a vector
#if FASTNN_REGISTER_BYTES == 64
template <class T>
struct HalfRegOf;
template <>
struct HalfRegOf<float> {
  typedef float type __attribute__((vector_size(32)));
};
template <>
struct HalfRegOf<double> {
  typedef double type __attribute__((vector_size(32)));
};
#else
template <class T>
using HalfRegOf = RegOf<T>;
#endif
template <class T>
using HalfReg = typename HalfRegOf<T>::type;  // what half a vector is made of
template <class T>
using Reg = typename RegOf<T>::type;
template <class T>
using RegMask = typename RegOf<T>::mask;

}}  // namespace fastnn::FASTNN_TARGET

#if defined(__AVX512F__)
#include "simd/avx512.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#elif defined(__aarch64__)
#include "simd/neon.h"
#else
#include "simd/sse2.h"
#endif

namespace fastnn::FASTNN_TARGET { namespace {

#if defined(FASTNN_LONG_VECTORS) && FASTNN_REGISTER_BYTES == 64
constexpr int kVectorBytes = 256;
#else
constexpr int kVectorBytes = 64;
#endif
constexpr int kRegs = kVectorBytes / kRegisterBytes;  // registers a vector
static_assert(kRegisterBytes == FASTNN_REGISTER_BYTES);
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));  // numbers a vector
template <class T>
constexpr int kRegLanes = kRegisterBytes / static_cast<int>(sizeof(T));

#define FASTNN_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); ++i)
#define FASTNN_EACH_REG(i) FASTNN_EACH (i, kRegs)

template <class T>
struct Vec {
  Reg<T> r[kRegs];
};
template <class T>
struct Mask {
  RegMask<T> r[kRegs];
};

FASTNN_INLINE int clamp(int n, int high) { return n < 0 ? 0 : n > high ? high : n; }
FASTNN_INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }

// Which lanes an access touches: all of them, or the first n (1 <= n < kLanes; the others read as zero).
struct All {};
struct First {
  int n;
};

// Half a vector, for the last columns of a matrix. It has what a tile of a matrix product needs; V below is Vec<T> or Half<T>.
template <class T>
struct Half {
  HalfReg<T> r[kRegs > 1 ? kRegs / 2 : 1];
};
template <class V>
struct Parts;
template <class T>
struct Parts<Vec<T>> {
  using Number = T;
  using Register = Reg<T>;
  static constexpr int count = kRegs, lanes = kRegLanes<T>;
};
template <class T>
struct Parts<Half<T>> {
  using Number = T;
  using Register = HalfReg<T>;
  static constexpr int count = kRegs > 1 ? kRegs / 2 : 1, lanes = kLanes<T> / 2 / count;
};

template <class V, class P = Parts<V>>
FASTNN_INLINE V set1_as(typename P::Number x) {
  V v;
  FASTNN_EACH (i, P::count) v.r[i] = x - typename P::Register{};
  return v;
}
template <class V, class P = Parts<V>>
FASTNN_INLINE V load_as(const typename P::Number* p, All = {}) {
  V v;
  FASTNN_EACH (i, P::count) __builtin_memcpy(&v.r[i], p + i * P::lanes, sizeof v.r[i]);
  return v;
}
template <class V, class P = Parts<V>>
FASTNN_INLINE V load_as(const typename P::Number* p, First lanes) {
  V v;
  FASTNN_EACH (i, P::count) load_first(p + i * P::lanes, clamp(lanes.n - i * P::lanes, P::lanes), v.r[i]);
  return v;
}
template <class V, class P = Parts<V>>
FASTNN_INLINE void store(typename P::Number* p, V v, All = {}) {
  FASTNN_EACH (i, P::count) __builtin_memcpy(p + i * P::lanes, &v.r[i], sizeof v.r[i]);
}
template <class V, class P = Parts<V>>
FASTNN_INLINE void store(typename P::Number* p, V v, First lanes) {
  FASTNN_EACH (i, P::count) store_first(p + i * P::lanes, v.r[i], clamp(lanes.n - i * P::lanes, P::lanes));
}
template <class V, class P = Parts<V>>
FASTNN_INLINE V fma(V a, V b, V c) {  // a*b + c, rounded once (twice on the baseline)
  V v;
  FASTNN_EACH (i, P::count) v.r[i] = fma(a.r[i], b.r[i], c.r[i]);
  return v;
}

template <class T>
FASTNN_INLINE Vec<T> set1(T x) {
  return set1_as<Vec<T>>(x);
}
template <class T, class Lanes = All>
FASTNN_INLINE Vec<T> load(const T* p, Lanes lanes = {}) {
  return load_as<Vec<T>>(p, lanes);
}

#define FASTNN_BINARY(name, expression)           \
  template <class T>                              \
  FASTNN_INLINE Vec<T> name(Vec<T> a, Vec<T> b) { \
    Vec<T> v;                                     \
    FASTNN_EACH_REG (i) v.r[i] = (expression);    \
    return v;                                     \
  }
FASTNN_BINARY(operator+, a.r[i] + b.r[i])
FASTNN_BINARY(operator-, a.r[i] - b.r[i])
FASTNN_BINARY(operator*, a.r[i] * b.r[i])
FASTNN_BINARY(operator/, a.r[i] / b.r[i])
FASTNN_BINARY(operator^, a.r[i] ^ b.r[i])
FASTNN_BINARY(max, max(a.r[i], b.r[i]))  // a > b ? a : b, so b where either is NaN
FASTNN_BINARY(min, min(a.r[i], b.r[i]))  // a < b ? a : b, so b where either is NaN
#undef FASTNN_BINARY

template <class T>
FASTNN_INLINE Vec<T> sqrt(Vec<T> a) {
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = sqrt(a.r[i]);
  return v;
}
template <class T>
FASTNN_INLINE Vec<T> abs(Vec<T> a) {
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = (Reg<T>)((RegMask<T>)a.r[i] & ~(RegMask<T>)(T(-0.0) - Reg<T>{}));
  return v;
}
// |magnitude| with the sign of x, for a magnitude that has none.
template <class T>
FASTNN_INLINE Vec<T> with_sign(Vec<T> magnitude, Vec<T> x) {
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = (Reg<T>)((RegMask<T>)magnitude.r[i] | ((RegMask<T>)x.r[i] & (RegMask<T>)(T(-0.0) - Reg<T>{})));
  return v;
}
template <class T>
FASTNN_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) {
  Mask<T> m;
  FASTNN_EACH_REG (i) m.r[i] = a.r[i] < b.r[i];
  return m;
}
template <class T>
FASTNN_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) {
  Mask<T> m;
  FASTNN_EACH_REG (i) m.r[i] = a.r[i] >= b.r[i];
  return m;
}
template <class T>
FASTNN_INLINE Vec<T> select(Mask<T> m, Vec<T> yes, Vec<T> no) {
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = m.r[i] ? yes.r[i] : no.r[i];
  return v;
}
// Bit i is lane i.
template <class T>
FASTNN_INLINE unsigned bits(Mask<T> m) {
  static_assert(kLanes<T> * sizeof(T) == 64);
  unsigned all = 0;
  FASTNN_EACH_REG (i) all |= mask_bits(m.r[i]) << (i * kRegLanes<T>);
  return all;
}
template <class T>
struct LaneBits;
template <>
struct LaneBits<float> {
  alignas(64) static constexpr int32_t value[16] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                    1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
};
template <>
struct LaneBits<double> {
  alignas(64) static constexpr int64_t value[8] = {1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7};
};
// The inverse of bits(): lane i is set where bit i is.
template <class T>
FASTNN_INLINE Mask<T> mask_from_bits(unsigned all) {
  static_assert(kLanes<T> * sizeof(T) == 64);
  using Lane = decltype(LaneBits<T>::value[0] + 0);
  Mask<T> m;
  FASTNN_EACH_REG (i) {
    RegMask<T> weights;
    __builtin_memcpy(&weights, LaneBits<T>::value + i * kRegLanes<T>, kRegisterBytes);
    m.r[i] = (weights & (static_cast<Lane>(all) - RegMask<T>{})) != 0;
  }
  return m;
}
// The products of the low halves of lanes, and the high halves moved low.
FASTNN_INLINE Vec<uint64_t> multiply_low(Vec<uint64_t> a, Vec<uint64_t> b) {
  Vec<uint64_t> v;
  FASTNN_EACH_REG (i) v.r[i] = multiply_low(a.r[i], b.r[i]);
  return v;
}
FASTNN_INLINE Vec<uint64_t> high_half(Vec<uint64_t> a) {
  Vec<uint64_t> v;
  FASTNN_EACH_REG (i) v.r[i] = a.r[i] >> 32;
  return v;
}
// The low halves of both: even[0], odd[0], even[1], ...
FASTNN_INLINE Vec<uint32_t> interleaved(Vec<uint64_t> even, Vec<uint64_t> odd) {
  Vec<uint32_t> v;
  FASTNN_EACH_REG (i) v.r[i] = (Reg<uint32_t>)((even.r[i] & uint64_t{0xffffffff}) | odd.r[i] << 32);
  return v;
}

// v in the lanes accessed, other in the rest.
template <class T>
FASTNN_INLINE Vec<T> only(Vec<T> v, All, T) {
  return v;
}
template <class T>
FASTNN_INLINE Vec<T> only(Vec<T> v, First lanes, T other) {
  return select(mask_from_bits<T>((1u << lanes.n) - 1u), v, set1(other));
}

// The sum of the quarters, as fold combines them.
template <class R, int N>
FASTNN_INLINE auto fold(const R (&r)[N]) {
  return fold(r, [](auto a, auto b) FASTNN_LAMBDA { return a + b; });
}

// Combines the lanes pairwise: (l, l + n/2), then halves of halves. The order is the same on every ISA.
template <class T>
FASTNN_INLINE T reduce_sum(Vec<T> v) {
  const Quarter<T> q = fold(v.r);
  if constexpr (kLanes<T> == 16)
    return (q[0] + q[2]) + (q[1] + q[3]);
  else
    return q[0] + q[1];
}
template <class T>
FASTNN_INLINE T reduce_max(Vec<T> v) {
  const auto greater = [](auto a, auto b) FASTNN_LAMBDA { return a > b ? a : b; };
  const Quarter<T> q = fold(v.r, greater);
  if constexpr (kLanes<T> == 16)
    return greater(greater(q[0], q[2]), greater(q[1], q[3]));
  else
    return greater(q[0], q[1]);
}

// Calls f(i, lanes) for i = 0, kLanes, 2*kLanes, ... below n: one body for the main loop and the tail.
template <class T, class F>
FASTNN_INLINE void each_vector(Index n, F&& f) {
  Index i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) f(i, All{});
  if (i < n) f(i, First{static_cast<int>(n - i)});
}

// The same, split so that whole vectors of `to` are whole cache lines, but for a first part of fewer lanes: a line written in two
// halves costs twice. Not for reductions, whose lanes must not depend on an address.
template <class T, class F>
FASTNN_INLINE void each_line(const T* to, Index n, F&& f) {
  const Index ahead = static_cast<Index>((0 - reinterpret_cast<uintptr_t>(to)) % kVectorBytes / sizeof(T));
  Index i = 0;
  for (Index part = smaller(ahead, n);; part = n - i) {
    if (part > 0) f(i, First{static_cast<int>(part)});
    i += part;
    for (; i + kLanes<T> <= n; i += kLanes<T>) f(i, All{});
    if (i == n) return;
  }
}

FASTNN_INLINE bool at_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0; }

// Stores at a line's beginning, past the caches where `around` says that the array is too large for them.
template <class T>
FASTNN_INLINE void store(T* p, Vec<T> v, All, bool around) {
  if (around)
    FASTNN_EACH_REG (i) stream(p + i * kRegLanes<T>, v.r[i]);
  else
    store(p, v);
}
template <class T>
FASTNN_INLINE void store(T* p, Vec<T> v, First lanes, bool) {
  store(p, v, lanes);
}

// The sum of f(i, lanes) over all lanes: vectors in T within a piece of 64, pieces in double, always in this order.
template <class T, class F>
FASTNN_INLINE double sum_pieces(Index n, F&& f) {
  constexpr Index kPiece = 64 * kLanes<T>;
  double total = 0;
  for (Index begin = 0; begin < n; begin += kPiece) {
    Vec<T> sum = set1(T(0));
    each_vector<T>(smaller(kPiece, n - begin),
                   [&](Index i, auto lanes) FASTNN_LAMBDA { sum = sum + only(f(begin + i, lanes), lanes, T(0)); });
    total += static_cast<double>(reduce_sum(sum));
  }
  return total;
}

}}  // namespace fastnn::FASTNN_TARGET
