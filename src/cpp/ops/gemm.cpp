#include "ops/gemm.h"

#include <algorithm>

#include "core/scratch.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"

namespace fastnn::ops {
namespace {

// Blocks of B that are packed: kDepth rows of kWidthBytes, 4 MB. They stream from the third-level cache at 5 bytes a cycle while
// rows of A stay nearer. A depth of 256 reads and writes C twice as often: 1024^3 fell from 91 % of the peak to 87 %. A width
// that fits the second level packs A four times as often: 2048^3 fell from 91 % to 86 %.
constexpr Index kDepth = 512;
constexpr Index kWidthBytes = 8192;
// The fewest rows read B once, and where it lies, a few of its rows at a time along all columns: down the columns 1x2048x2048
// took 2.5 times NumPy's time, so 1.2.
constexpr Index kRunningRows = 4, kRunningDepth = 8;
// Few rows use a packed block up at once: it is made small enough to be in the first-level cache still.
constexpr Index kBriefRows = 28, kBriefDepth = 128, kBriefWidthBytes = 256;
// B is read where it lies while it fits the second-level cache beside the rest.
constexpr Index kUnpackedBytes = 512 * 1024;
// Rows of A that lie a multiple of this apart fall into one set of the first-level cache and evict each other, and so do the
// columns of a transposed A that lie pages apart: they are packed where enough columns of C pay for it.
constexpr Index kSetBytes = 4096;

// How the product is computed. Which of tiles and dots it is, and so the bits, does not depend on the number of rows.
enum class Form {
  tiles,   // vectors run along the columns of C
  turned,  // tiles of C^T = B^T A^T, turned after: C has at most one and a half vectors of columns, and A is column-major
  dots,    // vectors run along the inner dimension: as few columns, and A is row-major
};
struct Plan {
  Form form;
  bool pack_a, pack_b;
  Index depth, width;  // of a block of B
};

template <class T>
Index round_up(Index n) {
  const Index lanes = kernels<T>().lanes;
  return (n + lanes - 1) / lanes * lanes;
}

template <class T>
Gemm<T> turned(const Gemm<T>& g) {
  return {g.b.transposed(), g.a.transposed(), g.c.transposed()};
}

template <class T>
Form form_of(const Gemm<T>& g) {
  const Index m = g.a.rows, n = g.b.cols, k = g.b.rows, lanes = kernels<T>().lanes;
  const Index vectors = (n + lanes - 1) / lanes;
  if (2 * n > 3 * lanes || n == lanes || k < 2) return Form::tiles;
  if (g.a.row_stride == 1 && g.a.col_stride != 1 && !g.bias) return m >= lanes && k >= 8 * vectors ? Form::turned : Form::tiles;
  // A row of tiles takes k steps a vector; a dot product k/lanes, and about 8 to combine its lanes.
  const bool dots = g.a.col_stride == 1 && n * (k + 8 * lanes) < k * lanes * vectors;
  return dots ? Form::dots : Form::tiles;
}

template <class T>
Plan plan_of(const Gemm<T>& given) {
  Plan plan{};
  plan.form = form_of(given);
  const Gemm<T> g = plan.form == Form::turned ? turned(given) : given;
  const Index n = g.b.cols, k = g.b.rows, size = sizeof(T);
  plan.pack_b = (g.b.col_stride != 1 && n > 1) || (k * n * size > kUnpackedBytes && g.c.rows >= 16);
  const bool conflict = g.a.row_stride == 1 ? g.a.col_stride * size >= kSetBytes / 2 : g.a.row_stride * size % kSetBytes == 0;
  plan.pack_a = conflict && n * size >= kSetBytes / 2 && k > 16;
  const bool brief = plan.pack_b && g.c.rows <= kBriefRows;
  plan.depth = std::min(k, brief ? kBriefDepth : kDepth);
  if (!plan.pack_b && g.c.rows <= kRunningRows && k * n * size > kUnpackedBytes) plan.depth = std::min(k, kRunningDepth);
  plan.width = plan.pack_b ? std::min<Index>(round_up<T>(n), (brief ? kBriefWidthBytes : kWidthBytes) / size) : n;
  return plan;
}

// How a team shares C: `rows` x `columns` members, the split whose largest share, with what it packs, is the least work.
struct Grid {
  int rows, columns;
};
template <class T>
Grid grid_of(const Gemm<T>& g, const Plan& plan, int members) {
  constexpr double kPackCost = 4;  // packing a number costs about as much as multiplying it with 4 vectors
  Grid best{members, 1};
  double least = 0;
  for (int columns = 1; columns <= members; ++columns) {
    if (members % columns != 0) continue;
    const int rows = members / columns;
    const double m = static_cast<double>((g.c.rows + rows - 1) / rows);
    const double vectors = static_cast<double>((round_up<T>(g.c.cols) / kernels<T>().lanes + columns - 1) / columns);
    const double work = m * vectors + (plan.pack_b ? kPackCost * vectors : 0) + (plan.pack_a ? kPackCost * m : 0);
    if (columns == 1 || work < least) {
      least = work;
      best = {rows, columns};
    }
  }
  return best;
}

template <class T>
Index tiles_scratch(const Plan& plan) {
  const Index packed_b = plan.pack_b ? plan.depth * round_up<T>(plan.width) : 0;
  const Index packed_a = plan.pack_a ? plan.depth * kernels<T>().tile_rows : 0;
  return (packed_b + packed_a + 15) / 16 * 16;
}

// Numbers that each member needs for itself, and those that all share: C^T, of which each fills its rows' part.
template <class T>
Index own_scratch(const Gemm<T>& g, const Plan& plan) {
  if (plan.form != Form::dots) return tiles_scratch<T>(plan);
  return g.b.row_stride == 1 ? 0 : (g.b.rows * g.b.cols + 15) / 16 * 16;
}
template <class T>
Index shared_scratch(const Gemm<T>& g, const Plan& plan) {
  return plan.form == Form::turned ? (g.a.rows * g.b.cols + 15) / 16 * 16 : 0;
}

template <class T>
void tiles_part(const Gemm<T>& g, const Plan& plan, T* scratch) noexcept {
  const Kernels<T>& k = kernels<T>();
  const Index lanes = k.lanes;
  T* packed_b = scratch;
  T* packed_a = scratch + (plan.pack_b ? plan.depth * round_up<T>(plan.width) : 0);
  for (Index j = 0; j < g.c.cols; j += plan.width) {
    const Index width = std::min(plan.width, g.c.cols - j);
    Index p = 0;
    do {  // once, too, where the inner dimension is empty: C is then the bias
      const Index depth = std::min(plan.depth, g.b.rows - p);
      const T* b = g.b.data + p * g.b.row_stride + j * g.b.col_stride;
      GemmBlock<T> block{};
      block.m = g.c.rows;
      block.n = width;
      block.k = depth;
      block.a = g.a.data + p * g.a.col_stride;
      block.a_row = g.a.row_stride;
      block.a_col = g.a.col_stride;
      block.b_packed = plan.pack_b;
      if (plan.pack_b) {
        k.pack_columns({b, depth, width, g.b.row_stride, g.b.col_stride}, packed_b);
        block.b = packed_b;
        block.b_row = lanes;
        block.b_vector = depth * lanes;
      } else {
        block.b = b;
        block.b_row = g.b.row_stride;
        block.b_vector = lanes;
      }
      block.c = g.c.data + j;
      block.c_row = g.c.row_stride;
      block.bias = g.bias ? g.bias + j : nullptr;
      block.accumulate = p > 0;
      block.row_scratch = plan.pack_a ? packed_a : nullptr;
      k.gemm_block(block);
      p += plan.depth;
    } while (p < g.b.rows);
  }
}

template <class T>
void turned_part(const Gemm<T>& g, const Plan& plan, T* scratch, T* result) noexcept {
  Gemm<T> t = turned(g);
  t.c = {result, g.c.cols, g.c.rows, g.c.rows, 1};
  Plan part = plan;
  if (!plan.pack_b) part.width = t.b.cols;
  tiles_part(t, part, scratch);
  kernels<T>().transpose({result, t.c.rows, t.c.cols, t.c.row_stride, 1}, g.c.data, g.c.row_stride);
}

template <class T>
void dots_part(const Gemm<T>& g, T* scratch) noexcept {
  const Kernels<T>& k = kernels<T>();
  DotRows<T> d{g.c.rows, g.c.cols,       g.b.rows, g.a.data,       g.a.row_stride,
               g.b.data, g.b.col_stride, g.c.data, g.c.row_stride, g.bias};
  if (g.b.row_stride == 1) return k.dot_rows(d);
  constexpr Index kFewRows = 8;
  if (g.c.rows <= kFewRows && g.b.col_stride == 1) {
    d.y_row = g.b.row_stride;
    return k.dot_across(d);
  }
  k.transpose(g.b, scratch, g.b.rows);
  d.y = scratch;
  d.y_row = g.b.rows;
  k.dot_rows(d);
}

}  // namespace

template <class T>
std::size_t gemm_scratch(const Gemm<T>& g, int members) noexcept {
  const Plan plan = plan_of(g);
  return static_cast<std::size_t>(shared_scratch(g, plan) + own_scratch(g, plan) * members);
}

template <class T>
void gemm(const Team& team, const Gemm<T>& g, T* scratch) noexcept {
  if (g.c.rows == 0 || g.c.cols == 0) return;
  const Plan plan = plan_of(g);
  const Grid grid = plan.form == Form::tiles ? grid_of(g, plan, team.size) : Grid{team.size, 1};
  T* own = scratch + shared_scratch(g, plan) + own_scratch(g, plan) * team.rank;
  const Team rows(team.rank / grid.columns, grid.rows, nullptr), columns(team.rank % grid.columns, grid.columns, nullptr);
  rows.share(g.c.rows, 1, [&](Index row, Index row_end) {
    columns.share(g.c.cols, kernels<T>().lanes, [&](Index col, Index col_end) {
      Gemm<T> part = g;
      part.a.data += row * g.a.row_stride;
      part.a.rows = part.c.rows = row_end - row;
      part.b.data += col * g.b.col_stride;
      part.b.cols = part.c.cols = col_end - col;
      part.c.data += row * g.c.row_stride + col;
      if (g.bias) part.bias += col;
      switch (plan.form) {
        case Form::tiles:
          return tiles_part(part, plan, own);
        case Form::turned:
          return turned_part(part, plan, own, scratch + row * g.c.cols);
        case Form::dots:
          return dots_part(part, own);
      }
    });
  });
}

template <class T>
void matmul(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c) {
  const bool column_major = c.col_stride != 1 && c.cols > 1;  // C^T = B^T A^T is then row-major
  const Gemm<T> g = column_major ? Gemm<T>{b.transposed(), a.transposed(), c.transposed()} : Gemm<T>{a, b, c};
  const int members = members_for(cost::gemm<T>(c.rows, c.cols, a.cols));
  T* room = scratch<T>(gemm_scratch(g, members));
  run_team(members, [&](Team& team) { gemm(team, g, room); });
}

#define FASTNN_INSTANTIATE(T)                                      \
  template std::size_t gemm_scratch(const Gemm<T>&, int) noexcept; \
  template void gemm(const Team&, const Gemm<T>&, T*) noexcept;    \
  template void matmul(const Matrix<const T>&, const Matrix<const T>&, const Matrix<T>&);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
