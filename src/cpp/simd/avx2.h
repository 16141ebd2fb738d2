#pragma once
// AVX2 + FMA: a vector is two 32-byte registers.
#include <immintrin.h>

#include "simd/x86.h"

namespace fastnn::FASTNN_TARGET { namespace {

constexpr int kRegisterBytes = 32;
constexpr int kRegisters = 16;
constexpr bool kFused = true;  // fma rounds once

FASTNN_INLINE Reg<float> fma(Reg<float> a, Reg<float> b, Reg<float> c) { return _mm256_fmadd_ps(a, b, c); }
FASTNN_INLINE Reg<double> fma(Reg<double> a, Reg<double> b, Reg<double> c) { return _mm256_fmadd_pd(a, b, c); }
FASTNN_INLINE Reg<float> max(Reg<float> a, Reg<float> b) { return _mm256_max_ps(a, b); }
FASTNN_INLINE Reg<double> max(Reg<double> a, Reg<double> b) { return _mm256_max_pd(a, b); }
FASTNN_INLINE Reg<float> min(Reg<float> a, Reg<float> b) { return _mm256_min_ps(a, b); }
FASTNN_INLINE Reg<double> min(Reg<double> a, Reg<double> b) { return _mm256_min_pd(a, b); }
FASTNN_INLINE Reg<float> sqrt(Reg<float> a) { return _mm256_sqrt_ps(a); }
FASTNN_INLINE Reg<double> sqrt(Reg<double> a) { return _mm256_sqrt_pd(a); }

// A window that slides over this table gives the first n lanes of a register.
alignas(64) constexpr int32_t kLaneWindow[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
FASTNN_INLINE __m256i first_lanes(int words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneWindow + 8 - words));
}
FASTNN_INLINE Reg<float> load_first(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
FASTNN_INLINE Reg<double> load_first(const double* p, int n) { return _mm256_maskload_pd(p, first_lanes(2 * n)); }
FASTNN_INLINE void store_first(float* p, Reg<float> v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
FASTNN_INLINE void store_first(double* p, Reg<double> v, int n) { _mm256_maskstore_pd(p, first_lanes(2 * n), v); }

FASTNN_INLINE unsigned mask_bits(RegMask<float> m) {
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(m)));
}
FASTNN_INLINE unsigned mask_bits(RegMask<double> m) {
  return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(m)));
}

// High and low halves of the 64-bit products of unsigned 32-bit lanes.
FASTNN_INLINE void multiply_wide(Reg<uint32_t> a, Reg<uint32_t> b, Reg<uint32_t>& high, Reg<uint32_t>& low) {
  const __m256i x = reinterpret_cast<__m256i>(a), y = reinterpret_cast<__m256i>(b);
  const __m256i even = _mm256_mul_epu32(x, y);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32));
  high = reinterpret_cast<Reg<uint32_t>>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
  low = a * b;
}

}}  // namespace fastnn::FASTNN_TARGET
