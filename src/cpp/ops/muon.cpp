#include "ops/muon.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/parts.h"

namespace fastnn::ops {
namespace {

constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315, kEps = 1e-7;
constexpr Index kLineNumbers = 16;  // a cache line's, or two

Index whole_lines(Index n) { return (n + kLineNumbers - 1) / kLineNumbers * kLineNumbers; }
Index norm_pieces(Index size) { return (size + kNormPiece - 1) / kNormPiece; }

// The products of an iteration on x, its longer side down, and what they need.
template <class T>
struct Iteration {
  Gemm<T> gram, polynomial, product;  // x^T x; a I + b gram + c gram^2; x polynomial
  GemmPlan plans[3];
  GemmScratch size{};

  Iteration(Index longer, Index shorter) noexcept {
    const Matrix<const T> x{nullptr, longer, shorter, shorter, 1}, square{nullptr, shorter, shorter, shorter, 1};
    gram.a = x.transposed();
    gram.b = x;
    polynomial.a = polynomial.b = product.b = square;
    product.a = x;
    gram.c = polynomial.c = {nullptr, shorter, shorter, shorter, 1};
    product.c = {nullptr, longer, shorter, shorter, 1};
    gram.symmetric = polynomial.symmetric = true;
    const Gemm<T>* const all[] = {&gram, &polynomial, &product};
    for (int i = 0; i < 3; ++i) {
      plans[i] = plan_gemm(*all[i]);
      const GemmScratch needs = gemm_scratch(*all[i], plans[i]);
      size.shared = std::max(size.shared, whole_lines(needs.shared));
      size.own = std::max(size.own, whole_lines(needs.own));
    }
  }
};

// Makes the polynomial of its square, while a part of that is in cache.
template <class T>
void add_lower_powers(const void* context, const GemmPart<T>& part) {
  const Matrix<const T>& gram = *static_cast<const Matrix<const T>*>(context);
  for (Index i = 0; i < part.rows; ++i) {
    T* c = part.c + i * part.c_row;
    const Index row = part.row + i, diagonal = row - part.col;
    blend_run(gram.data + row * gram.row_stride + part.col, static_cast<T>(kB), static_cast<T>(kC), part.cols, c);
    if (0 <= diagonal && diagonal < part.cols) c[diagonal] += static_cast<T>(kA);
  }
}

}  // namespace

template <class T>
GemmScratch muon_scratch(Index rows, Index cols) noexcept {
  const Index longer = std::max(rows, cols), shorter = std::min(rows, cols);
  const GemmScratch products = Iteration<T>(longer, shorter).size;
  const Index norms = norm_pieces(rows * cols) * static_cast<Index>(sizeof(double) / sizeof(T));
  return {2 * whole_lines(rows * cols) + 2 * whole_lines(shorter * shorter) + whole_lines(norms) + products.shared, products.own};
}

template <class T>
double muon_cost(Index rows, Index cols, int iterations) noexcept {
  const Index longer = std::max(rows, cols), shorter = std::min(rows, cols);
  const double iteration = cost::gemm<T>(longer, shorter, shorter) * 1.5 + cost::gemm<T>(shorter, shorter, shorter) / 2;
  return iteration * iterations + cost::elements<T>(rows * cols, 6 * cost::kMove);
}

template <class T>
void muon_update(Team& team, const UpdateRule& rule, const MuonMatrix<T>& w, T* shared, T* own, Index own_size) noexcept {
  const Index rows = w.rows, cols = w.cols, size = rows * cols;
  if (size == 0) return;
  const bool wide = rows < cols;
  const Index longer = std::max(rows, cols), shorter = std::min(rows, cols), pieces = norm_pieces(size);
  Iteration<T> each(longer, shorter);
  T *x = shared, *next = x + whole_lines(size), *gram = next + whole_lines(size),
    *polynomial = gram + whole_lines(shorter * shorter);
  T* const norms_at = polynomial + whole_lines(shorter * shorter);
  double* const norms = reinterpret_cast<double*>(norms_at);
  T* const room = norms_at + whole_lines(pieces * static_cast<Index>(sizeof(double) / sizeof(T)));

  const double momentum = rule.muon.momentum, keep = rule.muon.nesterov ? momentum * momentum : momentum;
  team.each(pieces, 1, [&](Index begin, Index end) {
    for (Index piece = begin; piece < end; ++piece) {
      const Index at = piece * kNormPiece, n = std::min(kNormPiece, size - at);
      std::memcpy(next + at, w.m + at, static_cast<std::size_t>(n) * sizeof(T));
      blend_run(w.g + at, static_cast<T>(1 - keep), static_cast<T>(keep), n, next + at);
      norms[piece] = squares(next + at, n);
    }
  });
  double sum = 0;
  for (Index piece = 0; piece < pieces; ++piece) sum += norms[piece];
  if (!(sum <= static_cast<double>(std::numeric_limits<T>::max()))) {
    if (rule.lost) *rule.lost = true;
    return;
  }
  const T factor = static_cast<T>(1 / (std::sqrt(sum) + kEps));
  const Index grain = kLineNumbers, least = std::max<Index>(kLineNumbers, 4096 / cols);
  team.each(rows, grain, least, [&](Index begin, Index end) {
    const Index at = begin * cols, n = (end - begin) * cols;
    blend_run(w.g + at, static_cast<T>(1 - momentum), static_cast<T>(momentum), n, w.m + at);
    scale_run(next + at, factor, n, next + at);
    if (wide) kernels<T>().transpose({next + at, end - begin, cols, cols, 1}, x + begin, rows);
  });
  if (!wide) std::swap(x, next);

  const Matrix<const T> gram_of{gram, shorter, shorter, shorter, 1};
  each.gram.c.data = gram;
  each.polynomial.a = each.polynomial.b = gram_of;
  each.polynomial.c.data = polynomial;
  each.polynomial.finish = add_lower_powers<T>;
  each.polynomial.context = &gram_of;
  each.product.b.data = polynomial;
  for (int i = 0; i < w.iterations; ++i) {
    each.gram.a.data = each.gram.b.data = each.product.a.data = x;
    each.product.c.data = next;
    gemm(team, each.gram, each.plans[0], room, own, own_size);
    gemm(team, each.polynomial, each.plans[1], room, own, own_size);
    gemm(team, each.product, each.plans[2], room, own, own_size);
    std::swap(x, next);
  }

  const double ratio = static_cast<double>(cols) / static_cast<double>(rows);
  const T share = static_cast<T>(-rule.lr * std::sqrt(std::max(1.0, ratio))),
          rest = static_cast<T>(1 - rule.lr * rule.weight_decay);
  team.each(rows, grain, least, [&](Index begin, Index end) {
    const Index at = begin * cols, n = (end - begin) * cols;
    if (wide) kernels<T>().transpose({x + begin, cols, end - begin, rows, 1}, next + at, cols);
    blend_run((wide ? next : x) + at, share, rest, n, w.p + at);
  });
}

#define FASTNN_INSTANTIATE(T)                                  \
  template GemmScratch muon_scratch<T>(Index, Index) noexcept; \
  template double muon_cost<T>(Index, Index, int) noexcept;    \
  template void muon_update(Team&, const UpdateRule&, const MuonMatrix<T>&, T*, T*, Index) noexcept;
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
