#include "ops/gemm.h"

#include <algorithm>
#include <cstring>

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
// The fewest rows read a large B once, a few of its whole rows at a time: tiles go down its columns, and took up to 1.2 times as
// long beyond the second-level cache, but 0.6 to 1.0 within it. Nor do they pack a B whose columns are contiguous.
constexpr Index kLongRowBytes = 1024;
// Where the inner dimension is shallow, storing C is what costs: in whole rows 292x662x3 took 0.83 of the tiles' time.
constexpr Index kShallowRowBytes = 256;
// A matrix-vector product too shallow for dot products is one row times a B whose columns are contiguous.
constexpr Index kDotDepth = 8;
// Few rows use a packed block up at once: a lower one is less far away then. 16x2048x2048 rises from 44 to 56 % of the peak,
// 32x2048x2048 would fall from 69 to 65.
constexpr Index kBriefRows = 28, kBriefDepth = 128;
// So few rows times a transposed B, where bits may depend on their number, are dot products along B's own rows: a step of
// 1024-2048-2048-1000 on one row fell from 7.2 ms to 5.9.
constexpr Index kDotRows = 8;
// B is read where it lies while it fits the second-level cache beside the rest. A larger one is packed where it is read often, or
// comes from far: unpacked, 32x512x784 reaches 93 % of the peak instead of 81, 128x768x512 95 instead of 90, but 1000x500x900 86
// instead of 89, 128x1000x1000 50 to 88 instead of 83, and 14x3000x2000 17 instead of 39. (256x512x784 gains as much as
// 128x768x512, but not in a training step, where the caches hold other things, too.)
// These are in second-level caches, of 1 MiB there.
constexpr double kSmall = 0.5, kNear = 2.5, kFar = 6;
Index cached(double times) { return static_cast<Index>(times * static_cast<double>(caches().second)); }
constexpr Index kNearRows = 128, kMiddleTiles = 3;
// Rows that lie a multiple of this apart fall into one set of the first-level cache and evict each other, and so do the
// columns of a transposed A that lie pages apart: they are packed where enough columns of C pay for it.
constexpr Index kSetBytes = 4096;
// Tiles of so few rows, all but AVX-512's, read B so often and use so little of each line of a transposed A that packing pays
// sooner: with AVX2 300x300x300 rises from 84 to 92 % of the peak, with A transposed from 77 to 91 %, and 32x512x784 from 66
// to 79. (With AVX-512 300x300x300 falls from 95 to 92; with AVX2 64x64x64 falls from 81 to 76 where A is packed.)
constexpr Index kLowTile = 6, kLowTiles = 2;
constexpr Index kLowRows = 96, kLowDepth = 16;           // of what a packed B is worth it
constexpr Index kLowColumns = 96, kLowAcrossDepth = 64;  // of what a packed, transposed A is
// Blocks of B that no second-level cache holds are packed once for the team, where C has rows enough. Smaller ones each member
// packs for itself: what another core has written comes at 5 GB/s, and 128x784x200 with B transposed took 1.12 times as long.
constexpr double kShared = 2;
constexpr Index kSharedRows = 256;
// A narrow C over a long inner dimension, the gradient of a small layer's weights over a large batch, has too little output to
// share: pieces of the inner dimension are shared instead.
constexpr Index kPiecesWidth = 128, kPiece = 1024, kMostPieces = 16;

template <class T>
Index round_up(Index n) {
  const Index lanes = kernels<T>().lanes;
  return (n + lanes - 1) / lanes * lanes;
}

template <class T>
Gemm<T> turned(const Gemm<T>& g) {
  Gemm<T> t{};
  t.a = g.b.transposed();
  t.b = g.a.transposed();
  t.c = g.c.transposed();
  return t;
}

template <class T>
Index pieces_of(const Gemm<T>& g, const GemmPlan& plan) {
  return plan.piece < g.b.rows ? (g.b.rows + plan.piece - 1) / plan.piece : 1;
}

// Whether a C that nobody keeps exists a tile's rows at a time only.
template <class T>
bool keeps_tile(const Gemm<T>& g, const GemmPlan& plan) {
  return g.transient && plan.form == GemmForm::tiles && pieces_of(g, plan) == 1;
}

template <class T>
GemmForm form_of(const Gemm<T>& g) {
  const Index m = g.a.rows, n = g.b.cols, k = g.b.rows, lanes = kernels<T>().lanes;
  const Index vectors = (n + lanes - 1) / lanes;
  if (g.by_batch && m <= kDotRows && k >= lanes && g.a.col_stride == 1 && g.b.row_stride == 1) return GemmForm::dots;
  if (2 * n > 3 * lanes || n == lanes || k < 2) return GemmForm::tiles;
  if (g.a.row_stride == 1 && g.a.col_stride != 1 && !g.bias)
    return m >= lanes && k >= 8 * vectors ? GemmForm::turned : GemmForm::tiles;
  // A row of tiles takes k steps a vector; a dot product k/lanes, and about 8 to combine its lanes.
  const bool dots = g.a.col_stride == 1 && n * (k + 8 * lanes) < k * lanes * vectors;
  return dots ? GemmForm::dots : GemmForm::tiles;
}

// How a team shares C: `rows` x `columns` members, the split whose largest share, with what it packs, is the least work.
struct Grid {
  int rows, columns;
};
template <class T>
Grid grid_of(const Gemm<T>& g, const GemmPlan& plan, int members) {
  constexpr double kPackCost = 4;  // packing a number costs about as much as multiplying it with 4 vectors
  // Members that share columns write to the same lines of C and pages of B: 128x784x100 with B transposed, 1 % less work by
  // columns, took them 1/1.5 of one thread's time, by rows 1/1.9.
  constexpr double kColumnsCost = 1.03;
  Grid best{members, 1};
  double least = 0;
  for (int columns = 1; columns <= members; ++columns) {
    if (members % columns != 0) continue;
    const int rows = members / columns;
    const double m = static_cast<double>((g.c.rows + rows - 1) / rows);
    const double vectors = static_cast<double>((round_up<T>(g.c.cols) / kernels<T>().lanes + columns - 1) / columns);
    const double packing = (plan.pack_b && !plan.share_b ? kPackCost * vectors : 0) + (plan.pack_a ? kPackCost * m : 0);
    if (const double work = m * vectors + packing; columns == 1 || kColumnsCost * work < least) {
      least = work;
      best = {rows, columns};
    }
  }
  return best;
}

// Numbers of a panel of packed B, `lanes` wide. Panels pages apart would write to one set of the first-level cache: 64x2048 are
// packed in 0.83 of the time.
Index packed_panel(Index depth, Index lanes) { return (depth + 1) * lanes; }

Index whole_lines(Index n) { return (n + 15) / 16 * 16; }

// Numbers of the parts of a member's own scratch: a block of B, rows of A, and of a C that nobody keeps.
struct OwnScratch {
  Index b, a, c;
  Index all() const { return b + a + c; }
};
template <class T>
OwnScratch own_scratch(const Gemm<T>& g, const GemmPlan& plan) {
  if (plan.form == GemmForm::dots) return {g.b.row_stride == 1 ? 0 : whole_lines(g.b.rows * g.b.cols), 0, 0};
  const Index tile = kernels<T>().tile_rows, width = round_up<T>(plan.width);
  if (plan.by_rows) return {0, 0, g.transient ? kernels<T>().few * width : 0};
  return {plan.pack_b && !plan.share_b ? packed_panel(plan.depth, width) : 0,
          plan.pack_a ? whole_lines(plan.depth * kernels<T>().packed_rows) : 0, keeps_tile(g, plan) ? tile * width : 0};
}

// Numbers that all members share.
struct SharedScratch {
  Index c;  // C, where nobody keeps it but it does not come tile by tile
  Index t;  // C^T, of which each fills its rows' part
  Index pieces;
  Index b;  // a block of B, packed
  Index all() const { return c + t + pieces + b; }
};
template <class T>
SharedScratch shared_scratch(const Gemm<T>& g, const GemmPlan& plan) {
  const Index c = whole_lines(g.c.rows * g.c.cols), pieces = pieces_of(g, plan);
  return {g.transient && !keeps_tile(g, plan) ? c : 0, plan.form == GemmForm::turned ? c * pieces : 0,
          pieces > 1 ? c * pieces : 0, plan.share_b ? whole_lines(packed_panel(plan.depth, round_up<T>(plan.width))) : 0};
}

// Gives a part of C, in C's own coordinates, to whom it may concern.
template <class T>
void finish(const Gemm<T>& g, T* c, Index c_row, Index row, Index rows, Index col, Index cols) {
  if (g.finish) g.finish(g.context, {c, c_row, g.row + row, rows, g.col + col, cols});
}

// A few rows of C at a time.
template <class T>
void by_rows_part(const Gemm<T>& g, T* rows_of_c) noexcept {
  const Kernels<T>& k = kernels<T>();
  GemmBlock<T> block{};
  block.n = g.c.cols;
  block.k = g.b.rows;
  block.a_row = g.a.row_stride;
  block.a_col = g.a.col_stride;
  block.b = g.b.data;
  block.b_row = g.b.row_stride;
  block.b_vector = k.lanes * g.b.col_stride;
  block.c_row = g.transient ? g.c.cols : g.c.row_stride;
  block.bias = g.bias;
  for (Index i = 0; i < g.c.rows; i += k.few) {
    block.m = std::min<Index>(k.few, g.c.rows - i);
    block.a = g.a.data + i * g.a.row_stride;
    block.c = g.transient ? rows_of_c : g.c.data + i * g.c.row_stride;
    k.few_rows(block);
    finish(g, block.c, block.c_row, i, block.m, 0, block.n);
  }
}

// A block of B: rows [p, p + depth), columns [j, j + width).
struct BlockOfB {
  Index j, width, p, depth;
};

// C += (or =) A times a block of B, which is at `packed`, or where it lies if that is null.
template <class T>
void block_part(const Gemm<T>& g, const GemmPlan& plan, const BlockOfB& at, const T* packed, T* packed_a, T* tile_c) noexcept {
  const Kernels<T>& k = kernels<T>();
  const Index lanes = k.lanes;
  struct Columns {
    const Gemm<T>& g;
    Index c_row, col, cols;
  } columns{g, tile_c ? at.width : g.c.row_stride, at.j, at.width};
  GemmBlock<T> block{};
  block.m = g.c.rows;
  block.n = at.width;
  block.k = at.depth;
  block.a = g.a.data + at.p * g.a.col_stride;
  block.a_row = g.a.row_stride;
  block.a_col = g.a.col_stride;
  block.b_packed = packed != nullptr;
  block.b = packed ? packed : g.b.data + at.p * g.b.row_stride + at.j * g.b.col_stride;
  block.b_row = packed ? lanes : g.b.row_stride;
  block.b_vector = packed ? packed_panel(at.depth, lanes) : lanes;
  block.c = tile_c ? tile_c : g.c.data + at.j;
  block.c_row = columns.c_row;
  block.transient = tile_c != nullptr;
  block.bias = g.bias ? g.bias + at.j : nullptr;
  block.accumulate = at.p > 0;
  block.row_scratch = plan.pack_a ? packed_a : nullptr;
  if (g.finish && at.p + at.depth >= g.b.rows) {
    block.context = &columns;
    block.finish = [](const void* context, T* c, Index row, Index rows) {
      const Columns& here = *static_cast<const Columns*>(context);
      finish(here.g, c, here.c_row, row, rows, here.col, here.cols);
    };
  }
  k.gemm_block(block);
}

// f(block) for the blocks of B; once, too, where the inner dimension is empty: C is then the bias.
template <class T, class F>
void each_block(const Gemm<T>& g, const GemmPlan& plan, F&& f) {
  for (Index j = 0; j < g.c.cols; j += plan.width) {
    Index p = 0;
    do {
      f(BlockOfB{j, std::min(plan.width, g.c.cols - j), p, std::min(plan.depth, g.b.rows - p)});
      p += plan.depth;
    } while (p < g.b.rows);
  }
}

// Whether a room holds this block of B already; if not, it will.
template <class T>
bool holds(OwnRoom<T>& room, const T* b, Index col, Index row) {
  if (room.packed == b && room.col == col && room.row == row) return true;
  room.packed = b;
  room.col = col;
  room.row = row;
  return false;
}

template <class T>
void tiles_part(const Gemm<T>& g, const GemmPlan& plan, OwnRoom<T>& room) noexcept {
  const OwnScratch own = own_scratch(g, plan);
  T *packed_b = room.data, *packed_a = packed_b + own.b, *tile_c = own.c ? packed_a + own.a : nullptr;
  each_block(g, plan, [&](const BlockOfB& at) {
    const T* b = g.b.data + at.p * g.b.row_stride + at.j * g.b.col_stride;
    if (plan.pack_b && !holds(room, b, g.col + at.j, at.p)) {
      const Index panel = packed_panel(at.depth, kernels<T>().lanes);
      kernels<T>().pack_columns({b, at.depth, at.width, g.b.row_stride, g.b.col_stride}, packed_b, panel);
    }
    block_part(g, plan, at, plan.pack_b ? packed_b : nullptr, packed_a, tile_c);
  });
}

template <class T>
void turned_part(const Gemm<T>& g, const GemmPlan& plan, OwnRoom<T>& room, T* result) noexcept {
  Gemm<T> t = turned(g);
  t.c = {result, g.c.cols, g.c.rows, g.c.rows, 1};
  GemmPlan part = plan;
  if (!plan.pack_b) part.width = t.b.cols;
  tiles_part(t, part, room);
  kernels<T>().transpose({result, t.c.rows, t.c.cols, t.c.row_stride, 1}, g.c.data, g.c.row_stride);
}

template <class T>
void dots_part(const Gemm<T>& g, OwnRoom<T>& room) noexcept {
  const Kernels<T>& k = kernels<T>();
  DotRows<T> d{g.c.rows, g.c.cols,       g.b.rows, g.a.data,       g.a.row_stride,
               g.b.data, g.b.col_stride, g.c.data, g.c.row_stride, g.bias};
  if (g.b.row_stride == 1) return k.dot_rows(d);
  constexpr Index kAcrossRows = 8;
  if (g.c.rows <= kAcrossRows && g.b.col_stride == 1) {
    d.y_row = g.b.row_stride;
    return k.dot_across(d);
  }
  if (!holds(room, g.b.data, g.col, 0)) k.transpose(g.b, room.data, g.b.rows);
  d.y = room.data;
  d.y_row = g.b.rows;
  k.dot_rows(d);
}

// Rows [row, row_end) and columns [col, col_end) of the product.
template <class T>
Gemm<T> part_of(const Gemm<T>& g, Index row, Index row_end, Index col, Index col_end) {
  Gemm<T> part = g;
  part.a.data += row * g.a.row_stride;
  part.a.rows = part.c.rows = row_end - row;
  part.b.data += col * g.b.col_stride;
  part.b.cols = part.c.cols = col_end - col;
  if (g.c.data) part.c.data += row * g.c.row_stride + col;
  if (g.bias) part.bias += col;
  part.row += row;
  part.col += col;
  return part;
}

// A part of a product in one piece; `turned` has room for its part of C^T.
template <class T>
void compute(const Gemm<T>& g, const GemmPlan& plan, OwnRoom<T>& room, T* turned) noexcept {
  switch (plan.form) {
    case GemmForm::tiles:
      return plan.by_rows ? by_rows_part(g, room.data) : tiles_part(g, plan, room);
    case GemmForm::turned:
      turned_part(g, plan, room, turned);
      break;
    case GemmForm::dots:
      dots_part(g, room);
      break;
  }
  finish(g, g.c.data, g.c.row_stride, 0, g.c.rows, 0, g.c.cols);
}

constexpr Index kRowsEach = 64;  // of a piece that is not made of tiles

// Every piece of the inner dimension times every row is one line of work; once all are done, the pieces are added in order.
template <class T>
void compute_pieces(Team& team, const Gemm<T>& g, const GemmPlan& plan, T* own, Index own_size, T* turned, T* pieces) noexcept {
  const Index m = g.c.rows, n = g.c.cols, count = pieces_of(g, plan), room = whole_lines(m * n);
  const Index lines = count * m, cuts = team.size() * std::clamp<Index>(lines / team.size() / kRowsEach, 1, count);
  team.phase(cuts, [&](Member& member) {
    for (Index cut; (cut = member.next()) >= 0;) {
      const Index end = lines * (cut + 1) / cuts;
      for (Index i = lines * cut / cuts; i < end;) {
        const Index piece = i / m, row = i % m, row_end = std::min(m, row + end - i), p = piece * plan.piece;
        Gemm<T> part = g;
        part.finish = nullptr;
        part.transient = false;
        part.a.data += p * g.a.col_stride;
        part.b.data += p * g.b.row_stride;
        part.a.cols = part.b.rows = std::min(plan.piece, g.b.rows - p);
        part.c = {pieces + piece * room, m, n, n, 1};
        OwnRoom<T> mine{own + own_size * member.rank()};
        compute(part_of(part, row, row_end, 0, n), plan, mine, turned + piece * room + row * n);
        i += row_end - row;
      }
    }
  });
  team.each(m, 1, kRowsEach / 8, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      T* c = g.c.data + i * g.c.row_stride;
      kernels<T>().scale(pieces + i * n, T(1), n, c);
      for (Index piece = 1; piece < count; ++piece) kernels<T>().add(c, pieces + piece * room + i * n, n, c);
    }
    finish(g, g.c.data + begin * g.c.row_stride, g.c.row_stride, begin, end - begin, 0, n);
  });
}

// Rows that are made together.
template <class T>
Index row_unit(const GemmPlan& plan) {
  const Kernels<T>& k = kernels<T>();
  if (plan.form == GemmForm::tiles) return plan.by_rows ? k.few : plan.pack_a ? k.packed_rows : k.tile_rows;
  return plan.form == GemmForm::turned ? k.lanes : 8;
}

struct Span {
  Index begin, end;
};
// The rows of a piece: of a share, cut at its units. Those of tiles are as good as equal, as gemm_block's panels of rows are.
template <class T>
Span rows_of(Index n, const GemmPlan& plan, const GemmCut& cut, Index piece) {
  const Index share = piece / (cut.row_cuts * cut.col_cuts) / cut.columns, part = piece / cut.col_cuts % cut.row_cuts;
  const Index begin = n * share / cut.rows, size = n * (share + 1) / cut.rows - begin, unit = row_unit<T>(plan);
  const Index units = (size + unit - 1) / unit, first = units * part / cut.row_cuts, last = units * (part + 1) / cut.row_cuts;
  if (units == 0) return {begin, begin};
  if (plan.form == GemmForm::tiles && !plan.by_rows) return {begin + size * first / units, begin + size * last / units};
  return {begin + first * unit, begin + std::min(last * unit, size)};
}
template <class T>
Span columns_of(Index n, const GemmCut& cut, Index piece) {
  const Index share = piece / (cut.row_cuts * cut.col_cuts) % cut.columns, lanes = kernels<T>().lanes;
  const Index count = cut.columns * cut.col_cuts, at = share * cut.col_cuts + piece % cut.col_cuts;
  const Index vectors = (n + lanes - 1) / lanes, begin = std::min(vectors * at / count * lanes, n);
  return {begin, std::min(vectors * (at + 1) / count * lanes, n)};
}

// One block of B after the other, of which each member packs the columns that it needs, or all pack all.
template <class T>
void block_by_block(Team& team, const Gemm<T>& g, const GemmPlan& plan, T* shared, T* own, Index own_size) noexcept {
  const Index lanes = kernels<T>().lanes;
  const OwnScratch size = own_scratch(g, plan);
  each_block(g, plan, [&](const BlockOfB& at) {
    const T* b = g.b.data + at.p * g.b.row_stride + at.j * g.b.col_stride;
    const Index panel = packed_panel(at.depth, lanes);
    const auto pack = [&](Index begin, Index end, T* to) {
      const Matrix<const T> columns{b + begin * g.b.col_stride, at.depth, end - begin, g.b.row_stride, g.b.col_stride};
      kernels<T>().pack_columns(columns, to, panel);
    };
    if (plan.share_b)
      team.each(at.width, lanes, 4 * lanes, [&](Index begin, Index end) { pack(begin, end, shared + begin / lanes * panel); });
    Gemm<T> block = g;  // whose shares are cut
    block.c.cols = block.b.cols = at.width;
    block.b.rows = at.depth;
    const GemmCut cut = cut_gemm(block, plan, team.size());
    team.phase(cut.pieces(), [&](Member& member) {
      T *packed = own + own_size * member.rank(), *packed_a = packed + size.b, *tile_c = size.c ? packed_a + size.a : nullptr;
      Index holds = -1;  // the first column of what is packed
      for (Index i; (i = member.next()) >= 0;) {
        const Span row = rows_of<T>(g.c.rows, plan, cut, i), col = columns_of<T>(at.width, cut, i);
        if (row.begin == row.end || col.begin == col.end) continue;
        if (!plan.share_b && holds != col.begin) pack(holds = col.begin, col.end, packed);
        const Gemm<T> part = part_of(g, row.begin, row.end, at.j + col.begin, at.j + col.end);
        const T* b_part = plan.share_b ? shared + col.begin / lanes * panel : packed;
        block_part(part, plan, {0, col.end - col.begin, at.p, at.depth}, b_part, packed_a, tile_c);
      }
    });
  });
}

// What is below the diagonal of a square matrix, from above it.
template <class T>
void mirror(Team& team, const Matrix<T>& c) noexcept {
  const Index lanes = kernels<T>().lanes;
  team.each(c.rows, lanes, [&](Index begin, Index end) {
    for (Index i = begin; i < end; i += lanes) {
      const Matrix<const T> above{c.data + i, i, std::min(lanes, c.rows - i), c.row_stride, 1};
      kernels<T>().transpose(above, c.data + i * c.row_stride, c.row_stride);
    }
  });
}

// A few rows, from the vector of columns on that holds their diagonal.
constexpr Index kTriangleRows = 16;
template <class T>
void triangle(Team& team, const Gemm<T>& g, const GemmPlan& plan, T* packed, T* own, Index own_size) noexcept {
  const Index n = g.c.rows, lanes = kernels<T>().lanes, panels = (n + kTriangleRows - 1) / kTriangleRows;
  each_block(g, plan, [&](const BlockOfB& at) {
    const T* b = g.b.data + at.p * g.b.row_stride + at.j * g.b.col_stride;
    const Index panel = packed_panel(at.depth, lanes);
    if (plan.pack_b)
      team.each(at.width, lanes, 4 * lanes, [&](Index begin, Index end) {
        const Matrix<const T> columns{b + begin * g.b.col_stride, at.depth, end - begin, g.b.row_stride, g.b.col_stride};
        kernels<T>().pack_columns(columns, packed + begin / lanes * panel, panel);
      });
    team.phase(panels, [&](Member& member) {
      T* packed_a = own + own_size * member.rank();
      for (Index i; (i = member.next()) >= 0;) {
        const Index row = i * kTriangleRows, row_end = std::min(row + kTriangleRows, n),
                    col = std::max(at.j, row / lanes * lanes);
        if (col >= at.j + at.width) continue;
        const T* b_part = plan.pack_b ? packed + (col - at.j) / lanes * panel : nullptr;
        block_part(part_of(g, row, row_end, col, at.j + at.width), plan, {0, at.j + at.width - col, at.p, at.depth}, b_part,
                   packed_a, static_cast<T*>(nullptr));
      }
    });
  });
  mirror(team, g.c);
}

// Whether it pays to pack a B of contiguous rows.
template <class T>
bool packs_rows(const Gemm<T>& g, Index depth) {
  const Index rows = g.c.rows, tile = kernels<T>().tile_rows, size = sizeof(T), bytes = depth * g.b.cols * size;
  const bool low = tile <= kLowTile;
  if (bytes <= cached(kSmall)) return low && rows >= kLowRows && depth >= kLowDepth;
  if (g.b.row_stride * size % kSetBytes == 0) return true;  // 8x2048x2048: 42 % of the peak instead of 14
  const Index most = bytes > cached(kFar) ? 0 : low ? kLowTiles * tile : bytes > cached(kNear) ? kMiddleTiles * tile : kNearRows;
  return rows > most;
}

}  // namespace

template <class T>
GemmPlan plan_gemm(const Gemm<T>& given, bool alone) noexcept {
  GemmPlan plan{};
  plan.form = form_of(given);
  const Index k = given.b.rows, size = sizeof(T);
  const bool pieces =
      given.a.row_stride == 1 && given.a.col_stride != 1 && given.b.cols <= kPiecesWidth && k >= 2 * kPiece && !given.bias;
  plan.piece = pieces ? std::max(kPiece, (k / kMostPieces + 63) / 64 * 64) : k;
  const Gemm<T> g = plan.form == GemmForm::turned ? turned(given) : given;
  const Index n = g.b.cols;
  const bool large = plan.piece * n * size > cached(kSmall), few = g.c.rows <= kernels<T>().few;
  const bool shallow = k <= kernels<T>().shallow && n * size >= kShallowRowBytes;
  plan.by_rows = plan.form == GemmForm::tiles && !pieces && k > 0 &&
                 (g.b.col_stride == 1 ? (few && large && n * size >= kLongRowBytes) || shallow : few && g.b.row_stride == 1);
  plan.pack_b = !plan.by_rows && (g.b.col_stride == 1 || n == 1 ? packs_rows(g, plan.piece) : true);
  const bool low = kernels<T>().tile_rows <= kLowTile;
  const bool across = g.a.row_stride == 1;
  const bool conflict = across ? g.a.col_stride * size >= kSetBytes / 2 : g.a.row_stride * size % kSetBytes == 0;
  plan.pack_a = (conflict && n * size >= kSetBytes / 2 && k > 16) || (low && across && n >= kLowColumns && k >= kLowAcrossDepth);
  const bool brief = plan.pack_b && g.c.rows <= kBriefRows;
  plan.depth = std::min(plan.piece, brief ? kBriefDepth : kDepth);
  plan.width = plan.pack_b ? std::min<Index>(round_up<T>(n), kWidthBytes / size) : n;
  if (given.transient && plan.form == GemmForm::tiles && !pieces) {  // a tile's rows of C are made at once
    plan.depth = k;
    if (plan.pack_b) plan.width = std::min(plan.width, round_up<T>(kDepth * kWidthBytes / size / std::max<Index>(k, 1)));
  }
  const bool far = std::min(plan.depth, k) * plan.width * size >= cached(kShared), tall = g.c.rows >= kSharedRows;
  plan.share_b = !alone && plan.pack_b && plan.form == GemmForm::tiles && !pieces && ((tall && far) || given.symmetric);
  return plan;
}

template <class T>
GemmScratch gemm_scratch(const Gemm<T>& g, const GemmPlan& plan) noexcept {
  return {shared_scratch(g, plan).all(), own_scratch(g, plan).all()};
}

Index cuts_of(double nanoseconds, Index places) noexcept {
  // Pieces cost their calls and the edges of their tiles: 1 % of a step of 784-100x4-10 where its shares are cut in 4, 0.2 %
  // in 2.
  constexpr double kPiece = 100e3, kWhole = 20e3;
  constexpr Index kFewest = 2, kMost = 64;
  if (nanoseconds < kWhole || places < 2) return 1;
  return std::min(std::clamp(static_cast<Index>(nanoseconds / kPiece), kFewest, kMost), places);
}

template <class T>
Index tile_rows() noexcept {
  return kernels<T>().tile_rows;
}
template <class T>
GemmCut cut_gemm(const Gemm<T>& g, const GemmPlan& plan, int members) noexcept {
  if (members == 1) return {1, 1, 1, 1};
  const bool few = (plan.by_rows && g.c.rows <= kernels<T>().few) || (plan.form == GemmForm::dots && g.c.rows <= kDotRows);
  const Grid grid = few ? Grid{1, members} : plan.form == GemmForm::tiles ? grid_of(g, plan, members) : Grid{members, 1};
  const auto units = [](Index n, Index shares, Index unit) { return ((n + shares - 1) / shares + unit - 1) / unit; };
  // Long pieces of B's rows are foreseen by the hardware: cut at 4 vectors, 16x2048x2048 took 1.15 times as long.
  const Index wide = g.b.col_stride == 1 ? 32 : 4;
  const Index down = units(g.c.rows, grid.rows, row_unit<T>(plan)),
              across = units(g.c.cols, grid.columns, wide * kernels<T>().lanes);
  const double share = cost::gemm<T>(g.c.rows, g.c.cols, g.b.rows) / members;
  if (few || down == 1) return {grid.rows, grid.columns, 1, cuts_of(share, across)};
  return {grid.rows, grid.columns, cuts_of(share, down), 1};
}

template <class T>
bool is_one_phase(const Gemm<T>& g, const GemmPlan& plan, const GemmCut& cut) noexcept {
  const bool blocks = plan.pack_b && plan.form == GemmForm::tiles && (plan.depth < g.b.rows || plan.width < g.c.cols);
  return !plan.share_b && pieces_of(g, plan) == 1 && !(blocks && cut.rows * cut.row_cuts > 1);
}

template <class T>
void gemm_rows(const Gemm<T>& given, const GemmPlan& plan, Index row, Index row_end, T* scratch, OwnRoom<T>& own) noexcept {
  Gemm<T> g = given;
  const SharedScratch shared = shared_scratch(g, plan);
  if (shared.c) g.c = {scratch, g.c.rows, g.c.cols, g.c.cols, 1};
  compute(part_of(g, row, row_end, 0, g.c.cols), plan, own, scratch + shared.c + row * g.c.cols);
}

template <class T>
void gemm_piece(const Gemm<T>& given, const GemmPlan& plan, const GemmCut& cut, Index piece, T* scratch,
                OwnRoom<T>& own) noexcept {
  if (cut.pieces() == 1) return gemm_rows(given, plan, 0, given.c.rows, scratch, own);
  Gemm<T> g = given;
  const SharedScratch shared = shared_scratch(g, plan);
  if (shared.c) g.c = {scratch, g.c.rows, g.c.cols, g.c.cols, 1};
  const Span row = rows_of<T>(g.c.rows, plan, cut, piece), col = columns_of<T>(g.c.cols, cut, piece);
  if (row.begin == row.end || col.begin == col.end) return;
  compute(part_of(g, row.begin, row.end, col.begin, col.end), plan, own, scratch + shared.c + row.begin * g.c.cols);
}

namespace {

// A part of C that is added up at once: its rooms stay near. With 16384 numbers a step of 784-512-512-10 in 8 pieces takes 1.05
// and 1.08 times as long as without (one thread, two), with 8192 1.04 and 1.03 (Emerald Rapids).
constexpr Index kTreeColumns = 512, kTreeNumbers = 8192;
template <class T>
Index tree_part_rows(Index cols) {
  const Index tile = kernels<T>().tile_rows;
  return std::max(tile, kTreeNumbers / std::max<Index>(cols, 32) / tile * tile);
}
template <class T>
Index tree_part_size() {
  return std::max(kTreeNumbers, kernels<T>().tile_rows * kTreeColumns);
}

template <class T>
Gemm<T> leaf_of(const Gemm<T>& g, Index begin, Index end) {
  Gemm<T> leaf = g;
  leaf.a.data += begin * g.a.col_stride;
  leaf.b.data += begin * g.b.row_stride;
  leaf.a.cols = leaf.b.rows = end - begin;
  leaf.transient = false;
  leaf.finish = nullptr;
  return leaf;
}

}  // namespace

template <class T>
GemmCut cut_tree(const Gemm<T>& g, const Leaves& leaves, int members) noexcept {
  return cut_gemm(g, plan_gemm(leaf_of(g, leaves.data->begin, leaves.data->end), true), members);
}

template <class T>
Index tree_scratch(const Gemm<T>& g, const Leaves& leaves) noexcept {
  Index own = 0;
  for (const Leaf& leaf : leaves) {
    const Gemm<T> one = leaf_of(g, leaf.begin, leaf.end);
    own = std::max(own, own_scratch(one, plan_gemm(one, true)).all());
  }
  return whole_lines(own) + (leaves.rooms + 2) * tree_part_size<T>();  // one for what is turned, one for a part of a leaf
}

template <class T>
void gemm_tree(const Gemm<T>& g, const Leaves& leaves, Index root_stride, const GemmCut& cut, Index piece, T* own) noexcept {
  const Kernels<T>& k = kernels<T>();
  const Index room = tree_part_size<T>(), count = cut.pieces();
  T *turned = own, *rooms = own + room, *rest = rooms + (leaves.rooms + 1) * room;
  GemmPlan plan = plan_gemm(leaf_of(g, leaves.data->begin, leaves.data->end), true);
  Index planned = leaves.data->end - leaves.data->begin;
  Span row{0, g.c.rows}, col{0, g.c.cols};
  if (count > 1) {
    row = rows_of<T>(g.c.rows, plan, cut, piece);
    col = columns_of<T>(g.c.cols, cut, piece);
  }
  for (Index j = col.begin; j < col.end; j += kTreeColumns) {
    const Index j_end = std::min(j + kTreeColumns, col.end), cols = j_end - j, step = tree_part_rows<T>(cols);
    for (Index i = row.begin; i < row.end; i += step) {
      const Index i_end = std::min(i + step, row.end), rows = i_end - i, size = rows * cols;
      const auto add = [&](int left, int right) { k.add(rooms + left * room, rooms + right * room, size, rooms + left * room); };
      const auto product = [&](Index begin, Index end, int to) {
        Gemm<T> part = leaf_of(g, begin, end);
        part.c = {nullptr, g.c.rows, g.c.cols, cols, 1};
        part = part_of(part, i, i_end, j, j_end);
        part.c.data = rooms + to * room;
        OwnRoom<T> mine{rest};
        compute(part, plan, mine, turned);
      };
      add_up(
          leaves,
          [&](const Leaf& leaf, int to) {
            if (leaf.end - leaf.begin != planned) {
              planned = leaf.end - leaf.begin;
              plan = plan_gemm(leaf_of(g, leaf.begin, leaf.end), true);
            }
            const Index each = std::min(plan.piece, planned);
            product(leaf.begin, leaf.begin + each, to);
            for (Index at = leaf.begin + each; at < leaf.end; at += each) {
              product(at, std::min(at + each, leaf.end), to + 1);
              add(to, to + 1);
            }
          },
          add);
      for (int root = 0; root < leaves.roots && g.c.data; ++root)
        for (Index r = 0; r < rows; ++r)
          std::memcpy(g.c.data + root * root_stride + (i + r) * g.c.row_stride + j, rooms + root * room + r * cols,
                      static_cast<std::size_t>(cols) * sizeof(T));
      if (leaves.roots == 1) finish(g, rooms, cols, i, rows, j, cols);
    }
  }
}

template <class T>
void gemm(Team& team, const Gemm<T>& given, const GemmPlan& plan, T* scratch, T* own, Index own_size) noexcept {
  if (given.c.rows == 0 || given.c.cols == 0) return;
  if (given.symmetric && plan.form == GemmForm::tiles && !plan.by_rows && pieces_of(given, plan) == 1)
    return triangle(team, given, plan, scratch, own, own_size);
  const GemmCut cut = cut_gemm(given, plan, team.size());
  if (is_one_phase(given, plan, cut))
    return team.phase(cut.pieces(), [&](Member& member) {
      OwnRoom<T> mine{own + own_size * member.rank()};
      for (Index i; (i = member.next()) >= 0;) gemm_piece(given, plan, cut, i, scratch, mine);
    });
  Gemm<T> g = given;
  const SharedScratch shared = shared_scratch(g, plan);
  T *turned = scratch + shared.c, *pieces = turned + shared.t;
  if (shared.c) g.c = {scratch, g.c.rows, g.c.cols, g.c.cols, 1};
  if (shared.pieces) return compute_pieces(team, g, plan, own, own_size, turned, pieces);
  block_by_block(team, g, plan, pieces, own, own_size);
}

template <class T>
void matmul(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c) {
  // C^T = B^T A^T is row-major where C is column-major; and a column that is too shallow for dot products is a row that is not.
  const bool column = c.cols == 1 && c.row_stride == 1 && a.cols < kDotDepth;
  const bool turn = (c.col_stride != 1 && c.cols > 1) || column;
  Gemm<T> g{};
  g.a = turn ? b.transposed() : a;
  g.b = turn ? a.transposed() : b;
  g.c = turn ? c.transposed() : c;
  g.c.col_stride = 1;
  g.by_batch = true;
  const Crew crew = crew_for(cost::gemm<T>(c.rows, c.cols, a.cols));
  const GemmPlan plan = plan_gemm(g);
  T* room = scratch<T>(gemm_scratch(g, plan).of_team(crew.members));
  run_team(crew, [&](Team& team) { gemm(team, g, plan, room); });
}

#define FASTNN_INSTANTIATE(T)                                                                                 \
  template GemmPlan plan_gemm(const Gemm<T>&, bool) noexcept;                                                 \
  template void gemm_rows(const Gemm<T>&, const GemmPlan&, Index, Index, T*, OwnRoom<T>&) noexcept;           \
  template GemmScratch gemm_scratch(const Gemm<T>&, const GemmPlan&) noexcept;                                \
  template Index tile_rows<T>() noexcept;                                                                     \
  template bool is_one_phase(const Gemm<T>&, const GemmPlan&, const GemmCut&) noexcept;                       \
  template GemmCut cut_gemm(const Gemm<T>&, const GemmPlan&, int) noexcept;                                   \
  template void gemm_tree(const Gemm<T>&, const Leaves&, Index, const GemmCut&, Index, T*) noexcept;          \
  template Index tree_scratch(const Gemm<T>&, const Leaves&) noexcept;                                        \
  template GemmCut cut_tree(const Gemm<T>&, const Leaves&, int) noexcept;                                     \
  template void gemm_piece(const Gemm<T>&, const GemmPlan&, const GemmCut&, Index, T*, OwnRoom<T>&) noexcept; \
  template void gemm(Team&, const Gemm<T>&, const GemmPlan&, T*, T*, Index) noexcept;                         \
  template void matmul(const Matrix<const T>&, const Matrix<const T>&, const Matrix<T>&);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
