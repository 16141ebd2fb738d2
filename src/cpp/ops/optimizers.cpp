#include "ops/optimizers.h"

#include <algorithm>
#include <cmath>

#include "core/scratch.h"
#include "dispatch/dispatch.h"
#include "ops/cost.h"
#include "ops/elementwise.h"
#include "ops/muon.h"

namespace fastnn::ops {
namespace {

constexpr Index kGrain = 1024;

}  // namespace

template <class T>
OptimizerStep<T> optimizer_step(const UpdateRule& r) noexcept {
  OptimizerStep<T> s{};
  const double lr = r.kind == Optimizer::muon ? r.lr * r.muon.others : r.lr;
  s.lr = static_cast<T>(lr);
  s.weight_decay = static_cast<T>(r.weight_decay);
  s.beta1 = static_cast<T>(r.beta1);
  s.beta2 = static_cast<T>(r.beta2);
  s.rest1 = static_cast<T>(1 - r.beta1);
  s.rest2 = static_cast<T>(1 - r.beta2);
  s.eps = static_cast<T>(r.eps);
  s.lost = r.lost;
  if (r.kind >= Optimizer::adam) {
    const double t = static_cast<double>(r.step);
    s.step1 = static_cast<T>(lr / (1 - std::pow(r.beta1, t)));
    s.rsqrt2 = static_cast<T>(1 / std::sqrt(1 - std::pow(r.beta2, t)));
  }
  return s;
}
UpdateRule with(UpdateRule rule, const Factors& factors) noexcept {
  rule.lr *= factors.lr;
  rule.weight_decay *= factors.decay;
  return rule;
}
template OptimizerStep<float> optimizer_step(const UpdateRule&) noexcept;
template OptimizerStep<double> optimizer_step(const UpdateRule&) noexcept;

namespace {

// Those that are updated one by one.
template <class T>
Index elements_of(const Update<T>& u) {
  return u.iterations ? 0 : u.size;
}
template <class T>
Index total_size(const std::vector<Update<T>>& updates) {
  Index n = 0;
  for (const Update<T>& u : updates) n += elements_of(u);
  return n;
}

// The numbers [begin, end) of all arrays laid end to end.
template <class T>
void update_range(const UpdateRule& rule, const std::vector<Update<T>>& updates, Index begin, Index end) {
  const OptimizerStep<T> common = optimizer_step<T>(rule);
  OptimizerStep<T> step = common;
  const auto kernel = kernels<T>().optimizers[static_cast<int>(rule.kind)];
  const auto run = [&](const Update<T>& u, Index at, Index n, const T* g) {
    kernel(step, n, g, u.p + at, u.s1 ? u.s1 + at : nullptr, u.s2 ? u.s2 + at : nullptr);
  };
  for (const Update<T>& u : updates) {
    const Index size = elements_of(u), first = std::max<Index>(begin, 0), last = std::min(end, size);
    if (first < last) {
      step = u.factors.none() ? common : optimizer_step<T>(with(rule, u.factors));
      if (!u.rows)
        run(u, first, last - first, u.g + first);
      else
        for (Index i = first; i < last;) {
          const Index row = i / u.dim, column = i % u.dim, n = std::min(u.dim - column, last - i);
          run(u, u.rows[row] * u.dim + column, n, u.g + i);
          i += n;
        }
    }
    begin -= size;
    end -= size;
  }
}

// The matrices, one after the other by the whole team.
template <class T>
GemmScratch matrices_scratch(const std::vector<Update<T>>& updates) {
  GemmScratch most{};
  for (const Update<T>& u : updates)
    if (u.iterations && u.size) {
      const GemmScratch size = muon_scratch<T>(u.size / u.dim, u.dim);
      most = {std::max(most.shared, size.shared), std::max(most.own, size.own)};
    }
  return most;
}
template <class T>
void update_matrices(Team& team, const UpdateRule& rule, const std::vector<Update<T>>& updates, void* scratch) {
  const GemmScratch size = matrices_scratch(updates);
  T* const shared = static_cast<T*>(scratch);
  for (const Update<T>& u : updates)
    if (u.iterations && u.size)
      muon_update(team, with(rule, u.factors), MuonMatrix<T>{u.p, u.g, u.s1, u.size / u.dim, u.dim, u.iterations}, shared,
                  shared + size.shared, size.own);
}
template <class T>
double cost_of(const std::vector<Update<T>>& updates) {
  double cost = cost::elements<T>(total_size(updates), cost::kUpdate);
  for (const Update<T>& u : updates)
    if (u.iterations && u.size) cost += muon_cost<T>(u.size / u.dim, u.dim, u.iterations);
  return cost;
}

}  // namespace

UpdateRoom room_for(const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64) {
  const Crew crew = crew_for(cost_of(f32) + cost_of(f64));
  const std::size_t bytes32 = matrices_scratch(f32).of_team(crew.members) * sizeof(float),
                    bytes64 = matrices_scratch(f64).of_team(crew.members) * sizeof(double), bytes = std::max(bytes32, bytes64);
  return {crew, bytes ? scratch_bytes(bytes) : nullptr};
}

void update(const UpdateRule& rule, const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64,
            const UpdateRoom& room) {
  run_team(room.crew, [&](Team& team) {
    team.each(total_size(f32), kGrain, [&](Index begin, Index end) { update_range(rule, f32, begin, end); });
    team.each(total_size(f64), kGrain, [&](Index begin, Index end) { update_range(rule, f64, begin, end); });
    update_matrices(team, rule, f32, room.scratch);
    update_matrices(team, rule, f64, room.scratch);
  });
}

namespace {

template <class T>
double largest(const std::vector<Update<T>>& updates) {
  double most = 0;
  for (const Update<T>& u : updates)
    for (Index i = 0; i < u.size; ++i) {
      const double size = std::fabs(static_cast<double>(u.g[i]));
      if (!(size <= most)) most = size;  // NaN stays
    }
  return most;
}
template <class T>
double scaled_squares(const std::vector<Update<T>>& updates, double factor) {
  double sum = 0;
  for (const Update<T>& u : updates)
    for (Index i = 0; i < u.size; ++i) sum += (static_cast<double>(u.g[i]) * factor) * (static_cast<double>(u.g[i]) * factor);
  return sum;
}

}  // namespace

double gradient_norm(const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64) {
  std::vector<Run> runs;
  runs.reserve(f32.size() + f64.size());
  for (const auto& u : f32) runs.push_back({u.g, nullptr, u.size});
  for (const auto& u : f64) runs.push_back({nullptr, u.g, u.size});
  const double squares = sum_of_squares(runs);
  if (!std::isinf(squares)) return std::sqrt(squares);
  const double a = largest(f32), b = largest(f64), most = a > b ? a : b;
  if (!std::isfinite(most)) return most;
  return most * std::sqrt(scaled_squares(f32, 1 / most) + scaled_squares(f64, 1 / most));
}

void scale_gradients(double factor, const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64) {
  for (const auto& u : f32) scale(u.g, static_cast<float>(factor), const_cast<float*>(u.g), u.size);
  for (const auto& u : f64) scale(u.g, factor, const_cast<double*>(u.g), u.size);
}

template <class T>
void blend(const std::vector<Pair<T>>& pairs, double share) {
  Index n = 0;
  for (const Pair<T>& p : pairs) n += p.size;
  const T take = static_cast<T>(share), rest = static_cast<T>(1 - share);
  run_team(crew_for(cost::elements<T>(n, cost::kMove)), [&](Team& team) {
    team.each(n, kGrain, [&](Index begin, Index end) {
      for (const Pair<T>& p : pairs) {
        const Index first = std::max<Index>(begin, 0), last = std::min(end, p.size);
        if (first < last) kernels<T>().blend(p.x + first, take, rest, last - first, p.y + first);
        begin -= p.size;
        end -= p.size;
      }
    });
  });
}
template void blend(const std::vector<Pair<float>>&, double);
template void blend(const std::vector<Pair<double>>&, double);

}  // namespace fastnn::ops
