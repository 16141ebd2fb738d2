// In-place updates of parameters p by their gradient, one pass. g = gradient + weight_decay*p unless said otherwise; s1, s2 are
// the state. An element whose state would be infinite, as g^2 overflows, is left as it is: it would never move again.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

template <class T>
struct Step {  // OptimizerStep in vectors
  static constexpr T kLeast =
      sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__);  // what is smaller would be flushed, and 0/0 is not a number
  Vec<T> lr, weight_decay, beta1, beta2, rest1, rest2, eps, step1, rsqrt2, decay;
  explicit inline __attribute__((always_inline)) Step(const OptimizerStep<T>& s)
      : lr(set1(s.lr)),
        weight_decay(set1(s.weight_decay)),
        beta1(set1(s.beta1)),
        beta2(set1(s.beta2)),
        rest1(set1(s.rest1)),
        rest2(set1(s.rest2)),
        eps(set1(s.eps < kLeast ? kLeast : s.eps)),
        step1(set1(s.step1)),
        rsqrt2(set1(s.rsqrt2)),
        decay(set1(T(1) - s.lr * s.weight_decay)) {}
};

// p -= lr g
template <class T>
struct Sgd {
  static constexpr bool kDecoupled = false, kSquares = false;
  static constexpr int kStates = 0;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>&, Vec<T>&) { p = p - c.lr * g; }
};
// v = beta1 v - lr g; p += v  (Polyak 1964)
template <class T>
struct Momentum {
  static constexpr bool kDecoupled = false, kSquares = false;
  static constexpr int kStates = 1;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>& v, Vec<T>&) {
    v = c.beta1 * v - c.lr * g;
    p = p + v;
  }
};
// v' = beta1 v - lr g; p += beta1 v' - lr g  (Sutskever et al. 2013, in the form of Bengio et al. 2012)
template <class T>
struct Nesterov {
  static constexpr bool kDecoupled = false, kSquares = false;
  static constexpr int kStates = 1;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>& v, Vec<T>&) {
    const Vec<T> step = c.lr * g;
    v = c.beta1 * v - step;
    p = p + (c.beta1 * v - step);
  }
};
// h += g^2; p -= lr g/(sqrt(h) + eps)  (Duchi et al. 2011)
template <class T>
struct AdaGrad {
  static constexpr bool kDecoupled = false, kSquares = true;
  static constexpr int kStates = 1;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>& h, Vec<T>&) {
    h = fma(g, g, h);
    p = p - c.lr * g / (sqrt(h) + c.eps);
  }
};
// h = beta1 h + (1 - beta1) g^2; p -= lr g/(sqrt(h) + eps)  (Tieleman & Hinton 2012)
template <class T>
struct RmsProp {
  static constexpr bool kDecoupled = false, kSquares = true;
  static constexpr int kStates = 1;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>& h, Vec<T>&) {
    h = fma(c.beta1, h, c.rest1 * (g * g));
    p = p - c.lr * g / (sqrt(h) + c.eps);
  }
};
// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; p -= step1 m/(sqrt(v) rsqrt2 + eps)  (Kingma & Ba 2015, Algorithm
// 1)
// (With AVX-512 the square root by its approximation of 14 bits and two steps, beside the division: half the time of both alone,
// but 0.87 to 1.12 of that of an update, 0.97 to 1.05 of a step.)
template <class T>
struct Adam {
  static constexpr bool kDecoupled = false, kSquares = true;
  static constexpr int kStates = 2;
  FASTNN_INLINE void apply(const Step<T>& c, Vec<T> g, Vec<T>& p, Vec<T>& m, Vec<T>& v) {
    m = fma(c.beta1, m, c.rest1 * g);
    v = fma(c.beta2, v, c.rest2 * (g * g));
    p = p - c.step1 * m / fma(sqrt(v), c.rsqrt2, c.eps);
  }
};
// p *= 1 - lr*weight_decay, then Adam with g = gradient  (Loshchilov & Hutter 2019)
template <class T>
struct AdamW : Adam<T> {
  static constexpr bool kDecoupled = true;
};

template <class T, template <class> class F>
void update(const OptimizerStep<T>& coefficients, Index n, const T* gradient, T* parameters, T* s1, T* s2) {
  const Step<T> c(coefficients);
  const Vec<T> infinity = set1(T(__builtin_inf()));
  each_vector<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    Vec<T> p = load(parameters + i, lanes), g = load(gradient + i, lanes), a = set1(T(0)), b = a;
    if constexpr (F<T>::kStates > 0) a = load(s1 + i, lanes);
    if constexpr (F<T>::kStates > 1) b = load(s2 + i, lanes);
    const Vec<T> old_p = p, old_a = a, old_b = b;
    if constexpr (F<T>::kDecoupled)
      p = p * c.decay;
    else
      g = fma(c.weight_decay, p, g);
    F<T>::apply(c, g, p, a, b);
    if constexpr (F<T>::kSquares) {
      const Mask<T> lost = (F<T>::kStates > 1 ? b : a) >= infinity;
      if (__builtin_expect(bits(lost) != 0, 0)) {
        p = select(lost, old_p, p);
        a = select(lost, old_a, a);
        b = select(lost, old_b, b);
        if (coefficients.lost) __atomic_store_n(coefficients.lost, true, __ATOMIC_RELAXED);
      }
    }
    store(parameters + i, p, lanes);
    if constexpr (F<T>::kStates > 0) store(s1 + i, a, lanes);
    if constexpr (F<T>::kStates > 1) store(s2 + i, b, lanes);
  });
}

template <Optimizer kind, template <class> class F, class T>
void fill(Kernels<T>& table) {
  table.optimizers[static_cast<int>(kind)] = update<T, F>;
}

}  // namespace

template <class T>
void fill_optimizers(Kernels<T>& table) {
  fill<Optimizer::sgd, Sgd>(table);
  fill<Optimizer::momentum, Momentum>(table);
  fill<Optimizer::nesterov, Nesterov>(table);
  fill<Optimizer::adagrad, AdaGrad>(table);
  fill<Optimizer::rmsprop, RmsProp>(table);
  fill<Optimizer::adam, Adam>(table);
  fill<Optimizer::adamw, AdamW>(table);
  fill<Optimizer::muon, AdamW>(table);  // of all but the matrices, see ops/muon.h
}
template void fill_optimizers(Kernels<float>&);
template void fill_optimizers(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
