#include "ops/rownorm.h"

#include "core/scratch.h"
#include "core/team.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"

namespace fastnn::ops {
namespace {

constexpr Index kLeast = 8, kBlock = 32, kBlocks = 64;  // rows worth claiming; in a block at least; blocks at most

template <class T>
RowNorm<T> rows_of(const RowNorm<T>& r, Index begin, Index end) {
  RowNorm<T> part = r;
  part.rows = end - begin;
  part.x += begin * r.cols;
  if (part.mean) part.mean += begin;
  part.rstd += begin;
  return part;
}

}  // namespace

template <class T>
void rownorm_forward(const RowNorm<T>& r, T eps, const T* beta, T* y) {
  const bool around = cost::leaves_caches<T>(2 * r.rows * r.cols);
  run_team(crew_for(cost::elements<T>(r.rows * r.cols, 2 * cost::kMove)), [&](Team& team) {
    team.each(r.rows, 1, kLeast, [&](Index begin, Index end) {
      kernels<T>().rownorm_forward(rows_of(r, begin, end), eps, beta, y + begin * r.cols, around);
    });
  });
}

template <class T>
void rownorm_backward(const RowNorm<T>& r, const T* dy, T* dgamma, T* dbeta, T* dx) {
  const Index block = r.rows > kBlock * kBlocks ? (r.rows + kBlocks - 1) / kBlocks : kBlock,
              blocks = (r.rows + block - 1) / block;
  const bool around = cost::leaves_caches<T>(3 * r.rows * r.cols);
  if (blocks <= 1) return kernels<T>().rownorm_backward(r, dy, dgamma, dbeta, dx, around);
  const Index width = (dbeta ? 2 : 1) * r.cols;
  T* const parts = scratch<T>(static_cast<std::size_t>(blocks * width));  // a row of sums a block
  run_team(crew_for(cost::elements<T>(r.rows * r.cols, 4 * cost::kMove)), [&](Team& team) {
    team.each(blocks, 1, [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        const Index begin = b * block, end = begin + block < r.rows ? begin + block : r.rows;
        T* sums = parts + b * width;
        kernels<T>().rownorm_backward(rows_of(r, begin, end), dy + begin * r.cols, sums, dbeta ? sums + r.cols : nullptr,
                                      dx + begin * r.cols, around);
      }
    });
    kernels<T>().column_sums(parts, width, blocks, r.cols, dgamma);
    if (dbeta) kernels<T>().column_sums(parts + r.cols, width, blocks, r.cols, dbeta);
  });
}

#define FASTNN_INSTANTIATE(T)                                        \
  template void rownorm_forward(const RowNorm<T>&, T, const T*, T*); \
  template void rownorm_backward(const RowNorm<T>&, const T*, T*, T*, T*);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::ops
