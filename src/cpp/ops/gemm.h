#pragma once
// C = A B (+ bias), any strides of A and B.
#include "core/team.h"
#include "ops/leaves.h"

namespace fastnn::ops {

// A part of C that is done: c(row + i, col + j) is at c[i*c_row + j].
template <class T>
struct GemmPart {
  T* c;
  Index c_row, row, rows, col, cols;
};

template <class T>
struct Gemm {
  Matrix<const T> a, b;
  Matrix<T> c;              // col_stride 1; may not overlap A or B
  const T* bias = nullptr;  // (c.cols,), added to each row
  // Called, where not null, once for every part of C, by the member that has made it, while it is in cache.
  void (*finish)(const void* context, const GemmPart<T>& part) = nullptr;
  const void* context = nullptr;
  bool by_batch = false;   // the bits of a row may depend on how many rows there are
  bool transient = false;  // nobody but `finish` wants C: c.data is null
  // C is its own transpose: what is below the diagonal is copied from above it, which halves the work. `finish`, which must keep
  // that so, sees what is on or right of the diagonal, and some of the rest. Not for gemm_rows and gemm_piece.
  bool symmetric = false;
  Index row = 0, col = 0;  // of c(0, 0), where this is part of a larger product
};

// How the product is computed. Which form it is, and so the bits, does not depend on the number of rows, unless by_batch.
enum class GemmForm {
  tiles,   // vectors run along the columns of C
  turned,  // tiles of C^T = B^T A^T, turned after: C has at most one and a half vectors of columns, and A is column-major
  dots,    // vectors run along the inner dimension: as few columns, and A is row-major
};
struct GemmPlan {
  GemmForm form;
  bool pack_a, pack_b;
  bool by_rows;        // the tiles' bits, but C is made a few whole rows at a time
  bool share_b;        // blocks of B are packed once for the whole team
  Index depth, width;  // of a block of B
  Index piece;         // of the inner dimension: each is a product of its own, and their sum is C
};
// `alone`: each part of the product is one thread's.
template <class T>
GemmPlan plan_gemm(const Gemm<T>& g, bool alone = false) noexcept;

// Numbers of scratch that gemm() needs: for the whole team, and for each member.
struct GemmScratch {
  Index shared, own;
  std::size_t of_team(int members) const noexcept { return static_cast<std::size_t>(shared + own * members); }
};
template <class T>
GemmScratch gemm_scratch(const Gemm<T>& g, const GemmPlan& plan) noexcept;

// A member's own scratch, and what it holds that another part of the same product may use again.
template <class T>
struct OwnRoom {
  T* data;
  const T* packed = nullptr;  // where the block of B begins that is packed
  Index col = 0, row = 0;     // and where in B: strides may be zero
};

// Rows [row, row_end) of the product, by one thread.
template <class T>
void gemm_rows(const Gemm<T>& g, const GemmPlan& plan, Index row, Index row_end, T* shared, OwnRoom<T>& own) noexcept;

// The whole product, by a team; member r's own scratch is at own + own_size*r. The bits of C depend neither on the team's size
// nor on the other rows.
template <class T>
void gemm(Team& team, const Gemm<T>& g, const GemmPlan& plan, T* shared, T* own, Index own_size) noexcept;
// The same with scratch for the whole team in one piece.
template <class T>
void gemm(Team& team, const Gemm<T>& g, const GemmPlan& plan, T* scratch) noexcept {
  const GemmScratch size = gemm_scratch(g, plan);
  gemm(team, g, plan, scratch, scratch + size.shared, size.own);
}

// How a product in one phase is cut: a share of rows and columns for each member, cut into pieces at the edges of its tiles.
struct GemmCut {
  int rows, columns;         // of shares
  Index row_cuts, col_cuts;  // of a share
  Index pieces() const noexcept { return rows * columns * row_cuts * col_cuts; }
};
// Rows that a product's tiles are made of.
template <class T>
Index tile_rows() noexcept;
template <class T>
GemmCut cut_gemm(const Gemm<T>& g, const GemmPlan& plan, int members) noexcept;
// Whether the product is one phase, so cut.
template <class T>
bool is_one_phase(const Gemm<T>& g, const GemmPlan& plan, const GemmCut& cut) noexcept;
// One piece of a product that is one phase. Between pieces of one product, the room stays as it is.
template <class T>
void gemm_piece(const Gemm<T>& g, const GemmPlan& plan, const GemmCut& cut, Index piece, T* shared, OwnRoom<T>& own) noexcept;

// The same where C is added up: of each leaf, rows of A^T and B, there is a product of its own. gemm_piece of these, which writes
// the roots' sums to c, c + root_stride, ... where c is not null, and calls `finish` where there is one root. `own` has room for
// tree_scratch() numbers.
template <class T>
void gemm_tree(const Gemm<T>& g, const Leaves& leaves, Index root_stride, const GemmCut& cut, Index piece, T* own) noexcept;
template <class T>
Index tree_scratch(const Gemm<T>& g, const Leaves& leaves) noexcept;
template <class T>
GemmCut cut_tree(const Gemm<T>& g, const Leaves& leaves, int members) noexcept;
// Into how many pieces a member's share of a phase is cut that has so many places to be cut at.
Index cuts_of(double nanoseconds, Index places) noexcept;

// Opens a team for one product. C may be row- or column-major. Throws std::bad_alloc before anything is written.
template <class T>
void matmul(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c);

}  // namespace fastnn::ops
