#pragma once
// NEON on aarch64: a vector is four 16-byte registers, of which there are 32.
#include <arm_neon.h>

namespace fastnn::FASTNN_TARGET { namespace {

constexpr int kRegisterBytes = 16;
constexpr int kRegisters = 32;
constexpr bool kFused = true;  // fma rounds once

// Reg<float> and float32x4_t are the same type to GCC and Clang but for its name; so are the others.
FASTNN_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) {
  return (Reg<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
FASTNN_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) {
  return (Reg<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
// As on x86, where either operand is NaN the second one is the result.
FASTNN_INLINE Reg<float> max(Reg<float> a, Reg<float> b) { return a > b ? a : b; }
FASTNN_INLINE Reg<double> max(Reg<double> a, Reg<double> b) { return a > b ? a : b; }
FASTNN_INLINE Reg<float> min(Reg<float> a, Reg<float> b) { return a < b ? a : b; }
FASTNN_INLINE Reg<double> min(Reg<double> a, Reg<double> b) { return a < b ? a : b; }
FASTNN_INLINE Reg<float> sqrt(Reg<float> a) { return (Reg<float>)vsqrtq_f32((float32x4_t)a); }
FASTNN_INLINE Reg<double> sqrt(Reg<double> a) { return (Reg<double>)vsqrtq_f64((float64x2_t)a); }

template <class T, class R>
FASTNN_INLINE void load_first(const T* p, int n, R& to) {
  R v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  to = v;
}
template <class T, class R>
FASTNN_INLINE void store_first(T* p, R v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

// Past the caches, where intrinsics can say so: here a plain store.
template <class T>
FASTNN_INLINE void stream(T* p, Reg<T> v) {
  __builtin_memcpy(p, &v, kRegisterBytes);
}
FASTNN_INLINE void stream_end() {}

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) {
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32((uint32x4_t)m, weights));
}
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) {
  const uint64x2_t weights = {1, 2};
  return static_cast<unsigned>(vaddvq_u64(vandq_u64((uint64x2_t)m, weights)));
}

// to[p*to_stride + j] = from[j*from_stride + p] for a square of kTransposeBlock numbers a side.
template <class T>
constexpr int kTransposeBlock = 16 / static_cast<int>(sizeof(T));
FASTNN_INLINE void transpose_block(const float* from, Index from_stride, float* to, Index to_stride) {
  const float32x4x2_t ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + from_stride));
  const float32x4x2_t cd = vtrnq_f32(vld1q_f32(from + 2 * from_stride), vld1q_f32(from + 3 * from_stride));
  vst1q_f32(to, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
  vst1q_f32(to + to_stride, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
  vst1q_f32(to + 2 * to_stride, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
  vst1q_f32(to + 3 * to_stride, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
}
FASTNN_INLINE void transpose_block(const double* from, Index from_stride, double* to, Index to_stride) {
  const float64x2_t a = vld1q_f64(from), b = vld1q_f64(from + from_stride);
  vst1q_f64(to, vzip1q_f64(a, b));
  vst1q_f64(to + to_stride, vzip2q_f64(a, b));
}

// A square of registers, row by row, becomes its columns.
FASTNN_INLINE void turn(Reg<float> (&r)[4]) {
  const float32x4x2_t ab = vtrnq_f32((float32x4_t)r[0], (float32x4_t)r[1]), cd = vtrnq_f32((float32x4_t)r[2], (float32x4_t)r[3]);
  r[0] = (Reg<float>)vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
  r[1] = (Reg<float>)vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
  r[2] = (Reg<float>)vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
  r[3] = (Reg<float>)vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}
FASTNN_INLINE void turn(Reg<double> (&r)[2]) {
  const float64x2_t a = (float64x2_t)r[0], b = (float64x2_t)r[1];
  r[0] = (Reg<double>)vzip1q_f64(a, b);
  r[1] = (Reg<double>)vzip2q_f64(a, b);
}

// to[p*kLanes + j] = from[j*from_stride + p] for the kLanes rows of a vector and p < kTransposeBlock.
template <class T>
FASTNN_INLINE void transpose_strip(const T* from, Index from_stride, T* to) {
  constexpr int S = kTransposeBlock<T>, L = 64 / static_cast<int>(sizeof(T));
  for (int j = 0; j < L; j += S) transpose_block(from + j * from_stride, from_stride, to + j, L);
}

// The products of the low halves of lanes.
FASTNN_INLINE Reg<uint64_t> multiply_low(Reg<uint64_t> a, Reg<uint64_t> b) {
  return (Reg<uint64_t>)(vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b)));
}

// Lane e of the result is the sum of row e's lanes, (0 + 2) + (1 + 3).
FASTNN_INLINE Quarter<float> sum_rows(const Quarter<float> (&row)[4]) {
  Quarter<float> sum;
  for (int e = 0; e < 4; ++e) sum[e] = (row[e][0] + row[e][2]) + (row[e][1] + row[e][3]);
  return sum;
}
FASTNN_INLINE Quarter<double> sum_rows(const Quarter<double> (&row)[2]) {
  return (Quarter<double>)vpaddq_f64((float64x2_t)row[0], (float64x2_t)row[1]);
}

// The lanes of a vector folded into a quarter by an operation: (q0 op q2) op (q1 op q3).
template <class Op>
FASTNN_INLINE Quarter<float> fold(const Reg<float> (&r)[4], Op op) {
  return op(op(r[0], r[2]), op(r[1], r[3]));
}
template <class Op>
FASTNN_INLINE Quarter<double> fold(const Reg<double> (&r)[4], Op op) {
  return op(op(r[0], r[2]), op(r[1], r[3]));
}

}}  // namespace fastnn::FASTNN_TARGET
