#pragma once
// Muon's update of a matrix as a whole (Jordan et al. 2024): the momentum with its singular values brought near one.
//   m = momentum m + (1 - momentum) g; u = momentum m + (1 - momentum) g where it looks ahead, else m; x = u/(|u| + 1e-7)
//   x = a x + b (x x^T) x + c (x x^T)^2 x, so many times over (Newton-Schulz; a = 3.4445, b = -4.7750, c = 2.0315)
//   p = (1 - lr weight_decay) p - lr sqrt(max(1, cols/rows)) x
// The inner products are those of the shorter side, and are made as triangles.
#include "core/team.h"
#include "ops/gemm.h"
#include "ops/optimizers.h"

namespace fastnn::ops {

// All contiguous; g may be p.
template <class T>
struct MuonMatrix {
  T* p;
  const T* g;
  T* m;
  Index rows, cols;
  int iterations;
};

// Numbers of scratch: for the whole team, and for each member.
template <class T>
GemmScratch muon_scratch(Index rows, Index cols) noexcept;
// What one thread takes, in nanoseconds.
template <class T>
double muon_cost(Index rows, Index cols, int iterations) noexcept;

// The bits do not depend on the team's size. Where the sum of the squares of u is infinite or no number, the matrix and its
// momentum stay as they are, and the rule's `lost` is set.
template <class T>
void muon_update(Team& team, const UpdateRule& rule, const MuonMatrix<T>& w, T* shared, T* own, Index own_size) noexcept;

}  // namespace fastnn::ops
