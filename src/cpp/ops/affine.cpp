#include "ops/affine.h"

#include "core/scratch.h"
#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/gemm.h"

namespace fastnn::ops {

template <class T>
void affine_forward(const Matrix<const T>& x, const Matrix<const T>& w, const T* b, const Matrix<T>& y) {
  const Gemm<T> g{x, w, y, b};
  const int members = members_for(cost::gemm<T>(x.rows, w.cols, w.rows));
  const GemmPlan plan = plan_gemm(g);
  T* room = scratch<T>(gemm_scratch(g, plan).of_team(members));
  run_team(members, [&](Team& team) { gemm(team, g, plan, room); });
}

template <class T>
void affine_backward(const Matrix<const T>& x, const Matrix<const T>& w, const Matrix<const T>& dy, const Matrix<T>& dx,
                     const Matrix<T>& dw, T* db) {
  const Gemm<T> for_dx{dy, w.transposed(), dx}, for_dw{x.transposed(), dy, dw};
  const bool want_dx = dx.data != nullptr;
  const int members = members_for((want_dx ? 2 : 1) * cost::gemm<T>(x.rows, w.cols, w.rows));
  const GemmPlan plan_dx = plan_gemm(for_dx), plan_dw = plan_gemm(for_dw);
  const std::size_t room_dw = gemm_scratch(for_dw, plan_dw).of_team(members);
  const std::size_t room_dx = want_dx ? gemm_scratch(for_dx, plan_dx).of_team(members) : 0;
  T* room = scratch<T>(room_dw > room_dx ? room_dw : room_dx);
  run_team(members, [&](Team& team) {
    const Kernels<T>& k = kernels<T>();
    if (want_dx) gemm(team, for_dx, plan_dx, room);
    gemm(team, for_dw, plan_dw, room);
    team.each(dy.cols, k.lanes,
              [&](Index begin, Index end) { k.column_sums(dy.data + begin, dy.row_stride, dy.rows, end - begin, db + begin); });
  });
}

#define FASTNN_INSTANTIATE(T)                                                                                             \
  template void affine_forward(const Matrix<const T>&, const Matrix<const T>&, const T*, const Matrix<T>&);               \
  template void affine_backward(const Matrix<const T>&, const Matrix<const T>&, const Matrix<const T>&, const Matrix<T>&, \
                                const Matrix<T>&, T*);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
