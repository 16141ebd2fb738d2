// Softmax and the terms of the losses, a row or a run of elements at a time.
#include "kernels/parts.h"
#include "simd/math.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// What becomes of some rows, a row a lane: most = max(x), total = sum of exp(x - most), inverse = 1/total, log_sum = log(total).
template <class T>
struct Rows {
  alignas(kVectorBytes) T most[kLanes<T>], total[kLanes<T>], inverse[kLanes<T>], log_sum[kLanes<T>];
};

// Rows that are taken together: each step goes over all of them, so that one row's reduction does not wait for another's, and the
// last one has a lane for each. (A row at a time, with the C library's logarithm, 128 x 100 took 12 us.) So many numbers stay in
// the second-level cache, and on the stack.
constexpr Index kNumbers = 4096;
template <class T>
FASTNN_INLINE Index rows_together(Index rows, Index cols) {
  return smaller(rows, cols < kNumbers ? smaller(kNumbers / cols, kLanes<T>) : 1);
}

// y = exp(x - most), and the rest but for 1/total in y. Of `far` matrices as many rows to come are asked for meanwhile (past the
// last one too: that reads nothing).
template <class T>
FASTNN_INLINE void exponentials(const T* x, Index x_row, Index rows, Index cols, T* y, Rows<T>& of, bool far = false) {
  const T lowest = -T(__builtin_inf());
  store(of.total, set1(T(1)));
  for (Index i = 0; i < rows; ++i) {
    Vec<T> top = set1(lowest);
    each_vector<T>(
        cols, [&](Index j, auto lanes) FASTNN_LAMBDA { top = max(top, only(load(x + i * x_row + j, lanes), lanes, lowest)); });
    of.most[i] = reduce_max(top);
  }
  for (Index i = 0; i < rows; ++i) {
    const Vec<T> shift = set1(of.most[i]);
    Vec<T> sum = set1(T(0));
    each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
      if (far) __builtin_prefetch(x + (rows + i) * x_row + j, 0, 1);
      const Vec<T> e = exp(load(x + i * x_row + j, lanes) - shift);
      sum = sum + only(e, lanes, T(0));
      store(y + i * cols + j, e, lanes);
    });
    of.total[i] = reduce_sum(sum);
  }
  const Vec<T> total = load(of.total);
  store(of.inverse, set1(T(1)) / total);
  store(of.log_sum, log_from_one(total));
}

// From row_max and log_sum, log softmax = x - row_max - log_sum. Where y is to go around the caches, the exponentials wait on the
// stack: 4096 x 1024 takes 0.65 times as long so.
template <class T>
void softmax(const T* x, Index x_row, Index rows, Index cols, T* y, T* row_max, T* log_sum, bool around) {
  Rows<T> of;
  alignas(kVectorBytes) T unscaled[kNumbers];
  around = around && at_line(y) && cols % kLanes<T> == 0 && cols <= kNumbers;
  for (Index begin = 0, n; begin < rows; begin += n, x += n * x_row, y += n * cols) {
    n = rows_together<T>(rows - begin, cols);
    T* e = around ? unscaled : y;
    exponentials(x, x_row, n, cols, e, of, around);
    for (Index i = 0; i < n; ++i) {
      const Vec<T> inverse = set1(of.inverse[i]);
      each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
        store(y + i * cols + j, load(e + i * cols + j, lanes) * inverse, lanes, around);
      });
      row_max[begin + i] = of.most[i];
      log_sum[begin + i] = of.log_sum[i];
    }
  }
  stream_end();
}

// to(j, i) = from(i, j) for i < rows and j < cols, which are at most kLanes; rows are from_row and to_row apart.
template <class T>
FASTNN_INLINE void turn(const T* from, Index from_row, Index rows, Index cols, T* to, Index to_row) {
  constexpr int S = kTransposeBlock<T>;
  Index i = 0;
  for (; i + S <= rows; i += S) {
    Index j = 0;
    for (; j + S <= cols; j += S) transpose_block(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
    for (; j < cols; ++j)
      for (Index r = i; r < i + S; ++r) to[j * to_row + r] = from[r * from_row + j];
  }
  for (; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) to[j * to_row + i] = from[i * from_row + j];
}

// Up to kLanes rows of up to kLanes columns, a row a lane, to the bits of the general way: 10 columns take 6 ns a row instead
// of 23.
template <class T>
void narrow_softmax_gradient(const T* x, Index x_row, Index rows, Index cols, const int64_t* labels, const T* factor, T* y, T* dx,
                             Index dx_row, double* losses) {
  constexpr int L = kLanes<T>;
  alignas(kVectorBytes) T column[L][L], slope[L][L];
  Rows<T> of;
  if (rows < L)
    for (Index j = 0; j < cols; ++j) store(column[j], set1(T(0)));
  turn(x, x_row, rows, cols, column[0], L);
  Vec<T> top = set1(-T(__builtin_inf()));
  for (Index j = 0; j < cols; ++j) top = max(top, load(column[j]));
  Vec<T> sum[L];
  for (Index j = 0; j < cols; ++j) {
    sum[j] = exp(load(column[j]) - top);
    store(column[j], sum[j]);
  }
  for (Index n = L / 2; n > 0; n /= 2)  // reduce_sum()'s order
    for (Index j = 0; j < n && j + n < cols; ++j) sum[j] = sum[j] + sum[j + n];
  const Vec<T> inverse = set1(T(1)) / sum[0];
  const Vec<T> f = rows < L ? load(factor, First{static_cast<int>(rows)}) : load(factor);
  store(of.most, top);
  store(of.log_sum, log_from_one(sum[0]));
  for (Index j = 0; j < cols; ++j) {
    const Vec<T> p = load(column[j]) * inverse;
    store(column[j], p);
    store(slope[j], p * f);
  }
  for (Index i = 0; i < rows; ++i) {
    const Index label = labels[i];
    losses[i] = static_cast<double>(of.most[i]) - static_cast<double>(x[i * x_row + label]) + static_cast<double>(of.log_sum[i]);
    slope[label][i] = (column[label][i] - T(1)) * factor[i];
  }
  turn(column[0], L, cols, rows, y, cols);
  turn(slope[0], L, cols, rows, dx, dx_row);
}

template <class T>
void softmax_gradient(const T* x, Index x_row, Index rows, Index cols, const int64_t* labels, const T* factor, T* y, T* dx,
                      Index dx_row, double* losses) {
  Rows<T> of;
  for (Index begin = 0, n; begin < rows; begin += n, x += n * x_row, y += n * cols, dx += n * dx_row) {
    n = rows_together<T>(rows - begin, cols);
    if (cols <= kLanes<T>) {
      narrow_softmax_gradient(x, x_row, n, cols, labels + begin, factor + begin, y, dx, dx_row, losses + begin);
      continue;
    }
    exponentials(x, x_row, n, cols, y, of);
    for (Index i = 0; i < n; ++i) {
      const Index label = labels[begin + i];
      losses[begin + i] =
          static_cast<double>(of.most[i]) - static_cast<double>(x[i * x_row + label]) + static_cast<double>(of.log_sum[i]);
      const Vec<T> inverse = set1(of.inverse[i]), f = set1(factor[begin + i]);
      T *row = y + i * cols, *slope = dx + i * dx_row;
      each_vector<T>(cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
        const Vec<T> p = load(row + j, lanes) * inverse;
        store(row + j, p, lanes);
        store(slope + j, p * f, lanes);
      });
      slope[label] = (row[label] - T(1)) * factor[begin + i];
    }
  }
}

// -sum t*log softmax(x); a label of zero adds nothing, even where x is -infinity.
template <class T>
double soft_label_loss(const T* x, const T* t, Index n, T row_max, T log_sum) {
  const Vec<T> shift = set1(row_max), log_total = set1(log_sum), zero = set1(T(0));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> label = load(t + i, lanes);
    return select(zero < label, label * ((shift - load(x + i, lanes)) + log_total), zero);
  });
}

// With e = exp(-|x|): y = 1/(1 + e) for x >= 0, e/(1 + e) below; the loss is max(x, 0) - x t + log1p(e).
template <class T>
double sigmoid_loss(const T* x, const T* t, Index n, T* y) {
  const Vec<T> zero = set1(T(0)), one = set1(T(1));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), e = exp(zero - abs(v));
    store(y + i, select(v < zero, e, one) / (one + e), lanes);
    return fma(zero - v, load(t + i, lanes), max(zero, v)) + log1p_unit(e);
  });
}

template <class T>
double squared_error(const T* x, const T* t, Index n) {
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> d = load(x + i, lanes) - load(t + i, lanes);
    return d * d;
  });
}

// r = x - t: r^2/2 within delta, then delta*(|r| - delta/2), whose slope is r held within delta (Huber 1964).
template <class T>
double huber(const T* x, const T* t, const T* numbers, T factor, Index n, T* y, T* dx) {
  const Vec<T> delta = set1(numbers[0]), half = set1(T(0.5)), f = set1(factor), zero = set1(T(0));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), r = v - load(t + i, lanes), a = abs(r), inner = min(delta, a);
    store(y + i, v, lanes);
    store(dx + i, min(delta, max(zero - delta, r)) * f, lanes);
    return inner * (a - half * inner);
  });
}
// |x - t|, whose slope is the sign.
template <class T>
double absolute(const T* x, const T* t, const T*, T factor, Index n, T* y, T* dx) {
  const Vec<T> f = set1(factor), zero = set1(T(0));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), r = v - load(t + i, lanes);
    store(y + i, v, lanes);
    store(dx + i, select(zero < r, f, select(r < zero, zero - f, r * f)), lanes);
    return abs(r);
  });
}
// r = t - x: q*r above, (q - 1)*r below (Koenker, Bassett 1978); slope -q or 1 - q.
template <class T>
double quantile(const T* x, const T* t, const T* numbers, T factor, Index n, T* y, T* dx) {
  const Vec<T> f = set1(factor), zero = set1(T(0)), one = set1(T(1));
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), r = load(t + i, lanes) - v, q = load(numbers + i, lanes);
    store(y + i, v, lanes);
    const Vec<T> share = select(zero < r, q, select(r < zero, q - one, r));
    store(dx + i, (zero - share) * f, lanes);
    return share * r;
  });
}
// y = exp(x), its deviance over 2: t log(t/y) - t + y; slope y - t.
template <class T>
double poisson(const T* x, const T* t, const T*, T factor, Index n, T* y, T* dx) {
  const Vec<T> f = set1(factor), zero = set1(T(0)), one = set1(T(1)), huge = set1(MathConstants<T>::exp_huge);
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> v = load(x + i, lanes), target = load(t + i, lanes);
    const Vec<T> mean = select(huge < v, set1(T(__builtin_inf())), exp(min(huge, v)));
    const Vec<T> size = log_from_one(max(one / target, target)), log = select(target < one, zero - size, size);
    store(y + i, mean, lanes);
    store(dx + i, (mean - target) * f, lanes);
    return (select(zero < target, target * log, zero) - fma(target, v, target)) + mean;
  });
}
// Means x and log-variances s = x[n...]: (s + (t - x)^2 exp(-s))/2; slopes -(t - x) exp(-s) and (1 - (t - x)^2 exp(-s))/2.
template <class T>
double gaussian(const T* x, const T* t, const T*, T factor, Index n, T* y, T* dx) {
  const Vec<T> f = set1(factor), half = set1(T(0.5)), zero = set1(T(0)), one = set1(T(1)),
               huge = set1(MathConstants<T>::exp_huge);
  return sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    const Vec<T> mean = load(x + i, lanes), s = load(x + n + i, lanes), r = mean - load(t + i, lanes);
    const Vec<T> less = zero - s, precision = select(huge < less, set1(T(__builtin_inf())), exp(min(huge, less)));
    const Vec<T> scaled = r * precision, square = scaled * r;
    store(y + i, mean, lanes);
    store(y + n + i, s, lanes);
    store(dx + i, scaled * f, lanes);
    store(dx + n + i, (half * (one - square)) * f, lanes);
    return half * (s + square);
  });
}

// With the target (1 - s) onehot + s/n: the loss has s*(x[label] - mean x) more, the slope s*(onehot - 1/n).
template <class T>
double smooth_label(const T* x, T s, Index label, T factor, Index n, T* dx) {
  const T each = s * factor / static_cast<T>(n);
  const Vec<T> less = set1(each);
  const double sum = sum_pieces<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    store(dx + i, load(dx + i, lanes) - less, lanes);
    return load(x + i, lanes);
  });
  dx[label] += s * factor;
  return static_cast<double>(s) * (static_cast<double>(x[label]) - sum / static_cast<double>(n));
}

template <class T>
void scaled_difference(const T* a, const T* b, T scale, Index n, T* y, bool around) {
  const Vec<T> s = set1(scale);
  each_line<T>(y, n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    store(y + i, (load(a + i, lanes) - load(b + i, lanes)) * s, lanes, around);
  });
  stream_end();
}

}  // namespace

template <class T>
void fill_losses(Kernels<T>& table) {
  table.softmax = softmax<T>;
  table.softmax_gradient = softmax_gradient<T>;
  table.soft_label_loss = soft_label_loss<T>;
  table.sigmoid_loss = sigmoid_loss<T>;
  table.squared_error = squared_error<T>;
  table.dense[static_cast<int>(Dense::huber)] = huber<T>;
  table.dense[static_cast<int>(Dense::absolute)] = absolute<T>;
  table.dense[static_cast<int>(Dense::quantile)] = quantile<T>;
  table.dense[static_cast<int>(Dense::poisson)] = poisson<T>;
  table.dense[static_cast<int>(Dense::gaussian)] = gaussian<T>;
  table.smooth_label = smooth_label<T>;
  table.scaled_difference = scaled_difference<T>;
}
template void fill_losses(Kernels<float>&);
template void fill_losses(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
