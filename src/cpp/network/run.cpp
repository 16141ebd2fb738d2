#include "network/run.h"

#include <chrono>
#include <cmath>

namespace fastnn::network {
namespace {

using Clock = std::chrono::steady_clock;

template <class T>
constexpr ops::Number kNumber = sizeof(T) == 4 ? ops::Number::f32 : ops::Number::f64;

}  // namespace

template <class T>
int members_of(Plan<T>& plan, const std::vector<Layer<T>>& layers, Index rows, bool train, bool clip) {
  plan.prepare(layers, rows, plan.members(), train, clip);
  const int members = members_for(plan.cost());
  if (members != plan.members()) plan.prepare(layers, rows, members, train, clip);
  return members;
}

template <class T>
void Runner<T>::prepare(const std::vector<Layer<T>>& layers, Index rows, bool clip) {
  members_of(plan_, layers, rows, true, clip);
}

template <class T>
Done Runner<T>::run(const std::vector<Layer<T>>& layers, const Data& data, const Steps& steps, const Rule& rule) {
  int members = plan_.members();
  const bool team = members > 1;
  if (team && pace_.one_is_better(steps.rows, plan_.cost())) members = 1;
  const bool indices = layers.front().kind == LayerKind::embedding;
  const Index cols = layers.front().in, outputs = layers.back().out, rows = steps.rows;
  const bool in_place = !data.order && !indices && data.x.type == kNumber<T> && data.scale == 1 &&
                        data.x.row_bytes == cols * static_cast<Index>(sizeof(T));
  arena_.lay_out([&](auto&& take) {
    take(x_, in_place || indices ? 0 : rows * cols);
    take(indices_, indices ? rows * cols : 0);
    take(labels_, data.labels ? rows : 0);
    take(dense_, data.labels ? 0 : rows * outputs);
    take(weight_, data.weight ? rows : 0);
  });
  Batch<T> batch{};
  batch.rows = rows;
  batch.x = indices ? nullptr : x_;
  batch.indices = indices ? indices_ : nullptr;
  batch.labels = data.labels ? labels_ : nullptr;
  batch.dense = data.labels ? nullptr : dense_;
  batch.weight = data.weight ? weight_ : nullptr;

  Done done{0, 0, true, 0};
  bool enough[2] = {false, false};  // written by the first member before the others read it, by turns
  const auto begun = Clock::now();
  const auto deadline = begun + std::chrono::duration<double>(steps.seconds);
  run_team(members, [&](Team& team) {
    Index updates = 0;
    const auto row = [&](Index i) { return data.order ? data.order[i] : i; };
    for (Index s = 0; s < steps.count; ++s) {
      const Index first = steps.first + s * rows;
      Batch<T> mine = batch;
      if (in_place) mine.x = reinterpret_cast<const T*>(data.x.data + first * data.x.row_bytes);
      double weight = 1;
      if (data.weight) {
        weight = 0;
        for (Index i = 0; i < rows; ++i) weight += data.weight[row(first + i)];
      }
      if (team.rank == 0) enough[s & 1] = Clock::now() >= deadline;
      typename Plan<T>::Outcome outcome{0, true};
      if (weight > 0) {
        const auto [begin, end] = plan_.rows_of(team);
        if (!in_place && !indices)
          ops::gather(data.x, data.order, first + begin, end - begin, static_cast<T>(data.scale), x_ + begin * cols);
        if (indices)
          ops::gather_indices(data.x, data.order, first + begin, end - begin, layers.front().vocabulary, indices_ + begin * cols);
        for (Index i = begin; i < end; ++i) {
          if (data.labels) labels_[i] = ops::within(data.labels[row(first + i)], outputs);
          if (data.weight) weight_[i] = data.weight[row(first + i)];
        }
        if (!data.labels) ops::gather(data.dense, data.order, first + begin, end - begin, T(1), dense_ + begin * outputs);
        // Weights and indices are read by all; the rest, each for itself.
        if (!plan_.by_rows(team) || data.weight || indices) team.barrier();
        Rule now = rule;
        now.step += static_cast<uint64_t>(updates);
        now.update.step += updates;
        if (steps.rates) now.update.lr = steps.rates[updates];
        outcome = plan_.step(team, mine, now);
      } else {
        team.barrier();
      }
      if (team.rank == 0) {
        if (!outcome.updated) {
          done.finite = false;
          done.loss = outcome.loss;
        } else {
          done.steps = s + 1;
          if (weight > 0) steps.losses[updates] = outcome.loss;
          done.updates = updates + (weight > 0);
        }
      }
      if (!outcome.updated) return;
      updates += weight > 0;
      if (enough[s & 1]) return;
    }
  });
  if (team && done.updates > 0)
    pace_.took(rows, members == 1,
               std::chrono::duration<double, std::nano>(Clock::now() - begun).count() / static_cast<double>(done.updates));
  return done;
}

#define FASTNN_INSTANTIATE(T) \
  template class Runner<T>;   \
  template int members_of(Plan<T>&, const std::vector<Layer<T>>&, Index, bool, bool);
FASTNN_INSTANTIATE(float)
FASTNN_INSTANTIATE(double)

}  // namespace fastnn::network
