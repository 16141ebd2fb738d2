#pragma once
// exp, expm1, tanh, logistic, logarithms and the normal distribution, on vectors, without branches or tables.
//
// Polynomials interpolate at Chebyshev nodes of the interval named (fitted at 50 digits; the error of the fit stands beside
// each). Subnormal results are flushed to zero by the mode kernels run in.
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET { namespace {

template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  static constexpr float log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // n*ln2_high is exact for |n| < 2^15
  static constexpr float round_magic = 12582912.0f;                           // 1.5 * 2^23
  static constexpr float exp_low = -87.33654f;                                // below, exp() is no normal number
  static constexpr float exp_zero = -87.5f;                                   // exp() is zero once it is flushed
  static constexpr float exp_huge = 88.3f;  // exp() is still finite, its reciprocal no normal number
  static constexpr int exponent_shift = 23, exponent_bias = 127;
  static constexpr float splitter = 4097.0f;  // 2^12 + 1
  // (expm1(r) - r) / r^2 on |r| <= ln2/2, relative to exp: 1.0e-8, to expm1: 2.3e-8
  static constexpr float expm1[] = {0.5f, 0.1666657703f, 0.04166655466f, 0.008363173075f, 0.001392617612f};
  // (atanh(s)/s - 1) / s^2 in s^2 on [0, 1/9], relative to atanh(s)/s: 4.0e-10
  static constexpr float atanh[] = {0.3333333366f, 0.1999985317f, 0.14296179f, 0.108532879f, 0.1161216461f};
  // exp(-v/2) = (even(v^2) - v odd(v^2)) / (even(v^2) + v odd(v^2)) on |v| <= ln2: Pade's approximant, relative error 5.9e-9,
  // times 1.7, with which top and bottom are numbers between 1.4 and 2 that round well
  static constexpr float exp_even[] = {1.7f, 0.0425f}, exp_odd[] = {0.425f, 0.00177083333f};
  // Q(a) exp(a^2/2) = 2^tail_shift over(a)/under(a) for 0 <= a <= tail_end, the last of under 1; Q is the upper tail of the
  // normal distribution. Relative: 6.1e-9, with the coefficients rounded 9.3e-9
  static constexpr float tail_end = 13.2f;  // beyond, Q is below the normal numbers
  static constexpr int tail_shift = 20;     // Q/over is a normal number
  static constexpr float tail_over[] = {4.76479547334e-5f, 4.14624772269e-5f, 1.72327464321e-5f, 3.79424637562e-6f,
                                        3.80466500671e-7f};
  static constexpr float tail_under[] = {99.9250032085f, 166.68176251f, 119.16964425f, 46.2777047437f, 9.97350484982f};
};
template <>
struct MathConstants<double> {
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;  // 32 + 53 bits of ln 2
  static constexpr double round_magic = 6755399441055744.0;                                             // 1.5 * 2^52
  static constexpr double exp_low = -708.396418532264, exp_zero = -708.6, exp_huge = 709.3;
  static constexpr int exponent_shift = 52, exponent_bias = 1023;
  static constexpr double splitter = 134217729.0;  // 2^27 + 1
  // 1.7e-17 and 3.7e-17
  static constexpr double expm1[] = {0.5000000000000001021,     0.1666666666666666745,   0.0416666666666241619,
                                     0.008333333333330064449,   0.001388888891719671908, 0.0001984126986304054527,
                                     0.00002480152132236869327, 2.755726848031002553e-6, 2.762007587998336659e-7,
                                     2.510037583256123366e-8};
  // 5.0e-18
  static constexpr double atanh[] = {0.33333333333333329281,  0.20000000000007291337,  0.14285714283554378581,
                                     0.11111111358713931495,  0.090908947180664290846, 0.076927850324793115517,
                                     0.066570721048274680752, 0.060005364047953562676, 0.044003692430723369411,
                                     0.080820228059717661105};
  // as for float: 2e-19 and 1.6e-18
  static constexpr double exp_even[] = {1.7, 0.048295454545454545455, 0.00013415404040404040404, 3.9926797739297739298e-8};
  static constexpr double exp_odd[] = {0.425, 0.003219696969696969697, 3.353851010101010101e-6};
  static constexpr double tail_end = 37.63;
  static constexpr int tail_shift = 60;
  static constexpr double tail_over[] = {8.0364183506587310108e-13, 1.326596747188324647e-12,  1.0858212714980939425e-12,
                                         5.6927657834542932493e-13, 2.0971589946844201028e-13, 5.6460441283532743031e-14,
                                         1.1234064297454843738e-14, 1.6330878430056790432e-15, 1.6660248563444516501e-16,
                                         1.0843995125052210411e-17, 3.4602726968614000824e-19};
  static constexpr double tail_under[] = {1853071.9072983079438, 4537461.3004406630894, 5197567.7513523413797,
                                          3683836.652427840385,  1799220.5717336076451, 637580.42590061390426,
                                          167824.46480799086996, 32945.307265555657196, 4750.873651577787378,
                                          482.472127278543683,   31.338556452250911892};
};

// c[0] + c[1] x + ... by Horner's rule; from eight terms on the even and the odd ones each, in two chains half as long: how long
// a chain the processor can look past is what bounds these functions, but each operation more counts too. (Two chains for all:
// GELU took 8 % longer.)
template <class T, int N>
FASTNN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  if constexpr (N < 8) {
    Vec<T> y = set1(c[N - 1]);
    _Pragma("GCC unroll 32") for (int i = N - 2; i >= 0; --i) y = fma(y, x, set1(c[i]));
    return y;
  } else {
    const Vec<T> square = x * x;
    Vec<T> last = set1(c[N - 1]), other = set1(c[N - 2]);
    _Pragma("GCC unroll 32") for (int i = N - 3; i >= 0; --i) {
      const Vec<T> next = fma(last, square, set1(c[i]));
      last = other;
      other = next;
    }
    return fma(last, x, other);
  }
}

// c[0] + c[1] x + ... + x^N, the 1 left out of c
template <class T, int N>
FASTNN_INLINE Vec<T> monic(Vec<T> x, const T (&c)[N]) {
  Vec<T> y = x + set1(c[N - 1]);
  _Pragma("GCC unroll 32") for (int i = N - 2; i >= 0; --i) y = fma(y, x, set1(c[i]));
  return y;
}

// The integer nearest to x, as C::round_magic + n: n is in the low bits too.
template <class T>
FASTNN_INLINE Vec<T> nearest(Vec<T> x, T scale) {
  return fma(x, set1(scale), set1(MathConstants<T>::round_magic));
}
// 2^n with a normal result, for magic = C::round_magic + n.
template <class T>
FASTNN_INLINE Vec<T> power_of_two(Vec<T> magic) {
  using C = MathConstants<T>;
  Vec<T> v;
  FASTNN_EACH_REG (i) v.r[i] = (Reg<T>)(((RegMask<T>)magic.r[i] + C::exponent_bias) << C::exponent_shift);
  return v;
}

// x = n ln2 + r, |r| <= ln2/2; returns r, and scale = 2^n.
template <class T>
FASTNN_INLINE Vec<T> reduced(Vec<T> x, Vec<T>& scale) {
  using C = MathConstants<T>;
  const Vec<T> magic = nearest(x, C::log2e), n = magic - set1(C::round_magic);
  scale = power_of_two(magic);
  return fma(n, set1(-C::ln2_low), fma(n, set1(-C::ln2_high), x));
}
// exp(r) for |r| <= ln2/2
template <class T>
FASTNN_INLINE Vec<T> reduced_exp(Vec<T> r) {
  return fma(fma(polynomial(r, MathConstants<T>::expm1), r, set1(T(1))), r, set1(T(1)));
}

// exp(x) for x <= 40; zero below exp_low, NaN for NaN.
template <class T>
FASTNN_INLINE Vec<T> exp(Vec<T> x) {
  Vec<T> scale;
  const Vec<T> r = reduced(max(set1(MathConstants<T>::exp_zero), x), scale);
  return reduced_exp(r) * scale;
}

// expm1(x) for -40 <= x <= 40.
template <class T>
FASTNN_INLINE Vec<T> expm1(Vec<T> x) {
  Vec<T> scale;
  const Vec<T> r = reduced(x, scale);
  return fma(fma(r * r, polynomial(r, MathConstants<T>::expm1), r), scale, scale - set1(T(1)));
}

// tanh(x) = t/(t + 2), t = expm1(2|x|), with the sign of x. Beyond |x| = 20 it is 1 in double.
template <class T>
FASTNN_INLINE Vec<T> tanh(Vec<T> x) {
  const Vec<T> t = expm1(min(set1(T(40)), abs(x) + abs(x)));
  return with_sign(t / (t + set1(T(2))), x);
}

// 1/(1 + exp(-x)); zero where that is no normal number.
template <class T>
FASTNN_INLINE Vec<T> logistic(Vec<T> x) {
  using C = MathConstants<T>;
  Vec<T> scale;
  const Vec<T> r = reduced(min(set1(C::exp_huge), max(set1(C::exp_low), set1(T(0)) - x)), scale);
  return set1(T(1)) / fma(reduced_exp(r), scale, set1(T(1)));
}

// log(1 + u) for 0 <= u <= 1, as 2 atanh(s), s = u/(2 + u).
template <class T>
FASTNN_INLINE Vec<T> log1p_unit(Vec<T> u) {
  const Vec<T> s = u / (u + set1(T(2))), w = s * s, twice = s + s;
  return fma(twice * w, polynomial(w, MathConstants<T>::atanh), twice);
}

// log(x) for x >= 1: x = 2^n m, sqrt(1/2) <= m < sqrt(2), log m = 2 atanh(s), s = (m - 1)/(m + 1).
template <class T>
FASTNN_INLINE Vec<T> log_from_one(Vec<T> x) {
  using C = MathConstants<T>;
  const Vec<T> one = set1(T(1)), low = set1(T(0.70710678118654752440)), magic = set1(C::round_magic);
  Vec<T> n, m;
  FASTNN_EACH_REG (i) {
    const RegMask<T> whole = ((RegMask<T>)x.r[i] - (RegMask<T>)low.r[i]) >> C::exponent_shift;
    n.r[i] = (Reg<T>)((RegMask<T>)magic.r[i] + whole) - magic.r[i];
    m.r[i] = (Reg<T>)((RegMask<T>)x.r[i] - (whole << C::exponent_shift));
  }
  const Vec<T> s = (m - one) / (m + one), w = s * s, twice = s + s;
  const Vec<T> log_m = fma(twice * w, polynomial(w, C::atanh), twice);
  const Vec<T> y = fma(n, set1(C::ln2_high), fma(n, set1(C::ln2_low), log_m));
  return select(x < set1(T(__builtin_inf())), y, x);
}

// a^2 + b, where square is a^2 rounded and b about as large, of the other sign.
template <class T>
FASTNN_INLINE Vec<T> square_plus(Vec<T> a, Vec<T> square, Vec<T> b) {
  if constexpr (kFused) return fma(a, a, b);
  // Dekker 1971: a = high + low, the products of which are exact.
  const Vec<T> c = a * set1(MathConstants<T>::splitter), high = c - (c - a), low = a - high;
  const Vec<T> rest = ((high * high - square) + (high + high) * low) + low * low;
  return (square + b) + rest;
}

// The normal distribution at 0 <= a <= tail_end: its upper tail 0.5 erfc(a/sqrt 2) and density exp(-a^2/2)/sqrt(2 pi), both zero
// at the end. NaN may give any number. All quotients share one division. (Polynomials in 1/(a + c), for Q exp(a^2/2) and exp(),
// took 1.15 times as long. The tail as 2^s, s = log2(Q exp(a^2/2)) - a^2 log2(e)/2 by a polynomial in a, has no division; forward
// took as long as with those, and backward, which needs a second power, 1.4 times.)
template <class T>
FASTNN_INLINE Vec<T> normal_tail(Vec<T> a, Vec<T>& density) {
  using C = MathConstants<T>;
  constexpr T zero = C::round_magic + C::tail_shift, shift = T(1) / (int64_t{1} << C::tail_shift);
  const Vec<T> square = a * a, magic = fma(square, set1(T(-0.5) * C::log2e), set1(zero)), n = magic - set1(zero);
  const Vec<T> v = fma(n, set1(2 * C::ln2_low), square_plus(a, square, n * set1(2 * C::ln2_high)));  // a^2 + n 2 ln2
  const Vec<T> w = v * v, even = polynomial(w, C::exp_even), odd = v * polynomial(w, C::exp_odd);
  Vec<T> top = even - odd;
  FASTNN_EACH_REG (i)  // top*2^(n + tail_shift)
    top.r[i] = (Reg<T>)((RegMask<T>)top.r[i] + ((RegMask<T>)magic.r[i] << C::exponent_shift));
  const Vec<T> under = monic(a, C::tail_under), quotient = top / ((even + odd) * under);
  density = quotient * under * set1(shift * T(0.398942280401432677940));
  return quotient * polynomial(a, C::tail_over);
}

}}  // namespace fastnn::FASTNN_TARGET
