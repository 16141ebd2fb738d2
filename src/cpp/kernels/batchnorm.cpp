// Batch normalization (Ioffe & Szegedy 2015) by columns, and the sums of columns. A column's rows are taken in groups of kGroup
// that stay in the first-level cache; a group's sums are added to the total, which bounds rounding and fixes the order.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

constexpr Index kGroup = 32;

// Calls f(j, lanes, count) for strips of 4 vectors (count constant 4, all lanes), then single vectors.
template <class T, class F>
FASTNN_INLINE void each_strip(Index cols, F&& f) {
  Index j = 0;
  for (; j + 4 * kLanes<T> <= cols; j += 4 * kLanes<T>) f(j, All{}, Width<4>{});
  each_vector<T>(cols - j, [&](Index i, auto lanes) FASTNN_LAMBDA { f(j + i, lanes, Width<1>{}); });
}

// sums[v] = sum over rows of term(row, v) for the NV vectors of a strip.
template <class T, int NV, class F>
FASTNN_INLINE void sum_rows(Index rows, Vec<T> (&sums)[NV], F&& term) {
  FASTNN_EACH (v, NV) sums[v] = set1(T(0));
  for (Index i = 0; i < rows; ++i)
    FASTNN_EACH (v, NV) sums[v] = sums[v] + term(i, v);
}

template <class T>
void column_sums(const T* x, Index x_row, Index rows, Index cols, T* sums) {
  each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA { store(sums + j, set1(T(0)), lanes); });
  for (Index i = 0; i < rows; i += kGroup, x += kGroup * x_row) {
    const Index group = smaller(kGroup, rows - i);
    each_strip<T>(cols, [&](Index j, auto lanes, auto width) FASTNN_LAMBDA {
      constexpr int NV = decltype(width)::value;
      Vec<T> part[NV];
      sum_rows(group, part, [&](Index r, int v) FASTNN_LAMBDA { return load(x + r * x_row + j + v * kLanes<T>, lanes); });
      FASTNN_EACH (v, NV) {
        T* at = sums + j + v * kLanes<T>;
        store(at, load(at, lanes) + part[v], lanes);
      }
    });
  }
}

// Chan, Golub & LeVeque 1979: with d = mean_b - mean_a, mean = mean_a + d*n_b/n and M2 = M2_a + M2_b + d^2*n_a*n_b/n.
template <class T>
void statistics(const T* x, Index x_row, Index rows, Index cols, T* mean, T* var) {
  for (Index i = 0; i < rows; i += kGroup, x += kGroup * x_row) {
    const Index group = smaller(kGroup, rows - i);
    const Vec<T> inverse = set1(T(1) / T(group)), share = set1(T(group) / T(i + group)),
                 weight = set1(T(i) * (T(group) / T(i + group)));
    const Vec<T> final_scale = set1(i + group == rows ? T(1) / T(rows) : T(1));
    each_strip<T>(cols, [&](Index j, auto lanes, auto width) FASTNN_LAMBDA {
      constexpr int NV = decltype(width)::value;
      const T* from = x + j;
      Vec<T> m[NV], m2[NV];
      sum_rows(group, m, [&](Index r, int v) FASTNN_LAMBDA { return load(from + r * x_row + v * kLanes<T>, lanes); });
      FASTNN_EACH (v, NV) m[v] = m[v] * inverse;
      sum_rows(group, m2, [&](Index r, int v) FASTNN_LAMBDA {
        const Vec<T> d = load(from + r * x_row + v * kLanes<T>, lanes) - m[v];
        return d * d;
      });
      FASTNN_EACH (v, NV) {
        T *mean_at = mean + j + v * kLanes<T>, *var_at = var + j + v * kLanes<T>;
        if (i > 0) {
          const Vec<T> before = load(mean_at, lanes), d = m[v] - before;
          m[v] = fma(d, share, before);
          m2[v] = load(var_at, lanes) + fma(d * d, weight, m2[v]);
        }
        store(mean_at, m[v], lanes);
        store(var_at, m2[v] * final_scale, lanes);
      }
    });
  }
}

template <class T>
void forward(const BatchNormColumns<T>& c, const T* gamma, const T* beta, T* y, Index y_row) {
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * load(c.rstd + j, lanes);
      store(y + i * y_row + j, fma(xhat, load(gamma + j, lanes), load(beta + j, lanes)), lanes);
    });
}

template <class T>
void parameter_gradients(const BatchNormColumns<T>& c, const T* dy, Index dy_row, T* dgamma, T* dbeta) {
  each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
    store(dgamma + j, set1(T(0)), lanes);
    store(dbeta + j, set1(T(0)), lanes);
  });
  for (Index i = 0; i < c.rows; i += kGroup) {
    const Index group = smaller(kGroup, c.rows - i);
    const T *x = c.x + i * c.x_row, *d = dy + i * dy_row;
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> mean = load(c.mean + j, lanes), rstd = load(c.rstd + j, lanes);
      Vec<T> sum = set1(T(0)), product = set1(T(0));
      for (Index r = 0; r < group; ++r) {
        const Vec<T> g = load(d + r * dy_row + j, lanes);
        sum = sum + g;
        product = fma(g, (load(x + r * c.x_row + j, lanes) - mean) * rstd, product);
      }
      store(dbeta + j, load(dbeta + j, lanes) + sum, lanes);
      store(dgamma + j, load(dgamma + j, lanes) + product, lanes);
    });
  }
}

template <class T>
void input_gradient(const BatchNormColumns<T>& c, const T* gamma, const T* dgamma, const T* dbeta, T per_row, const T* dy,
                    Index dy_row, T* dx, Index dx_row) {
  const Vec<T> share = set1(per_row);
  for (Index i = 0; i < c.rows; ++i)
    each_vector<T>(c.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      const Vec<T> rstd = load(c.rstd + j, lanes);
      const Vec<T> xhat = (load(c.x + i * c.x_row + j, lanes) - load(c.mean + j, lanes)) * rstd;
      const Vec<T> common = fma(xhat, load(dgamma + j, lanes), load(dbeta + j, lanes)) * share;
      store(dx + i * dx_row + j, load(gamma + j, lanes) * rstd * (load(dy + i * dy_row + j, lanes) - common), lanes);
    });
}

}  // namespace

template <class T>
void fill_batchnorm(Kernels<T>& table) {
  table.column_sums = column_sums<T>;
  table.batchnorm_statistics = statistics<T>;
  table.batchnorm_forward = forward<T>;
  table.batchnorm_parameter_gradients = parameter_gradients<T>;
  table.batchnorm_input_gradient = input_gradient<T>;
}
template void fill_batchnorm(Kernels<float>&);
template void fill_batchnorm(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
