#include "network/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace fastnn::network {
namespace {

using Clock = std::chrono::steady_clock;

template <class T>
constexpr ops::Number kNumber = sizeof(T) == 4 ? ops::Number::f32 : ops::Number::f64;

// Prepares a plan for as many threads as its cost is worth at the moment.
template <class T>
Crew prepare_for_now(Plan<T>& plan, const std::vector<Layer<T>>& layers, Index rows, Use use, bool clip,
                     const Tree* tree = nullptr) {
  plan.prepare(layers, rows, plan.members(), use, clip, tree);
  const Crew crew = crew_for(plan.cost());
  if (crew.members != plan.members()) plan.prepare(layers, rows, crew.members, use, clip, tree);
  return crew;
}

template <class T>
bool lies_there(const ops::RowSource& x, double scale) {
  return x.type == kNumber<T> && scale == 1 && x.row_bytes == x.cols * static_cast<Index>(sizeof(T));
}

// f(begin, end), for a plan to call.
template <class T, class F>
typename Plan<T>::Feed feed_of(const F& f) {
  return {[](const void* context, Index begin, Index end) { (*static_cast<const F*>(context))(begin, end); }, &f};
}

}  // namespace

template <class T>
void Runner<T>::prepare(const std::vector<Layer<T>>& layers, const Steps& steps, bool clip, bool alone) {
  const Index rows = steps.rows, part = steps.part, pieces = steps.pieces;
  clip = clip || part < rows;
  const Tree* tree = pieces ? &tree_ : nullptr;
  const auto begin = [&](Index piece) { return begin_of_piece(piece, pieces, rows); };
  if (pieces) tree_.cut(pieces, 0, pieces, [&](Index i) { return begin(i + 1) - begin(i); });
  if (alone) {
    plan_.prepare(layers, part, 1, Use::step, clip, tree);
    crew_ = {1, plan_.cost(), false};
  } else {
    crew_ = prepare_for_now(plan_, layers, part, Use::step, clip, tree);
  }
  last_ = &plan_;
  cost_ = plan_.cost() * static_cast<double>(rows / part);
  if (rows % part == 0) return;
  rest_.prepare(layers, rows % part, crew_.members, Use::step, clip);
  cost_ += rest_.cost();
}

template <class T>
Done Runner<T>::run(const std::vector<Layer<T>>& layers, const Data& data, const Steps& steps, const Rule& rule) {
  const bool indices = layers.front().kind == LayerKind::embedding, parts = steps.part < steps.rows;
  const Index cols = layers.front().in, targets = rule.loss.targets(layers.back().out), rows = steps.rows, part = steps.part;
  const bool in_place = !data.order && !indices && lies_there<T>(data.x, data.scale);
  Index parameters = 0, statistics = 0;
  for (const Layer<T>& layer : layers) {
    parameters += layer.weight.size + layer.bias.size;
    if (layer.kind == LayerKind::batchnorm) statistics += 2 * layer.out;
  }
  arena_.lay_out([&](auto&& take) {
    take(x_, in_place || indices ? 0 : part * cols);
    take(indices_, indices ? part * cols : 0);
    take(labels_, data.labels ? part : 0);
    take(dense_, data.labels ? 0 : part * targets);
    take(weight_, data.weight ? part : 0);
    take(sums_, parts ? parameters : 0);
    take(statistics_, parts ? statistics : 0);
  });
  Batch<T> batch{};
  batch.indices = indices ? indices_ : nullptr;
  batch.labels = data.labels ? labels_ : nullptr;
  batch.dense = data.labels ? nullptr : dense_;
  batch.weight = data.weight ? weight_ : nullptr;
  batch.tree = steps.pieces ? &tree_ : nullptr;
  const auto row = [&](Index i) { return data.order ? data.order[i] : i; };
  // The weight of rows [first, first + n) of the order, which become the batch's.
  const auto weigh = [&](Index first, Index n) {
    if (!data.weight) return static_cast<double>(n);
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += weight_[i] = data.weight[row(first + i)];
    return sum;
  };
  // Running statistics, kept and brought back.
  const auto each_statistic = [&](auto&& f) {
    T* kept = statistics_;
    for (const Layer<T>& layer : layers) {
      if (layer.kind != LayerKind::batchnorm) continue;
      for (T* now : {layer.running_mean, layer.running_var}) {
        f(now, kept, static_cast<std::size_t>(layer.out) * sizeof(T));
        kept += layer.out;
      }
    }
  };

  Done done{0, 0, true, 0};
  const auto deadline = Clock::now() + std::chrono::duration<double>(steps.seconds);
  Crew crew = crew_;
  crew.nanoseconds = 0;
  run_team(crew, [&](Team& team) {
    Rule now = rule;
    for (Index s = 0; s < steps.count; ++s) {
      const Index begin = steps.first + s * rows, end = begin + rows;
      double weight = 0;
      Index last = begin;  // the last part that weighs anything
      for (Index first = begin; first < end; first += part) {
        const double own = weigh(first, std::min(part, end - first));
        if (own > 0) last = first;
        weight += own;
      }
      const bool enough = Clock::now() >= deadline;
      if (weight > 0) {
        now.step = rule.step + static_cast<uint64_t>(done.updates);
        now.update.step = rule.update.step + done.updates;
        if (const double* rates = steps.rates_of(done.updates)) {
          now.update.lr = rates[0];
          now.update.weight_decay = rates[1];
          plan_.set_ratios(rates + 2);
          rest_.set_ratios(rates + 2);
        }
        typename Plan<T>::Outcome outcome{0, true};
        typename Plan<T>::Share share{rule.per_row ? static_cast<double>(rows) : weight, sums_, true, false};
        if (parts) each_statistic([](const T* from, T* kept, std::size_t bytes) { std::memcpy(kept, from, bytes); });
        for (Index first = begin; first <= last && outcome.updated; first += part) {
          batch.rows = std::min(part, end - first);
          if (parts && weigh(first, batch.rows) == 0) continue;
          batch.part = static_cast<uint32_t>((first - begin) / part);
          batch.x = indices ? nullptr : in_place ? reinterpret_cast<const T*>(data.x.data + first * data.x.row_bytes) : x_;
          const auto feed = [&](Index from, Index to) {
            if (indices)
              ops::gather_indices(data.x, data.order, first + from, to - from, layers.front().vocabulary, indices_ + from * cols);
            else if (!in_place)
              ops::gather(data.x, data.order, first + from, to - from, static_cast<T>(data.scale), x_ + from * cols);
            if (!data.labels) return ops::gather(data.dense, data.order, first + from, to - from, T(1), dense_ + from * targets);
            for (Index i = from; i < to; ++i) labels_[i] = ops::within(data.labels[row(first + i)], targets);
          };
          if (!parts) {
            if (batch.tree && data.weight)
              tree_.weigh([&](Index i) {
                return std::any_of(weight_ + tree_.begin(i), weight_ + tree_.begin(i + 1), [](double w) { return w != 0; });
              });
            outcome = plan_.step(team, batch, now, feed_of<T>(feed));
            break;
          }
          Plan<T>& plan = batch.rows == part ? plan_ : rest_;
          share.last = first == last;
          const auto passed = plan.step_part(team, batch, now, feed_of<T>(feed), share);
          outcome = {outcome.loss + passed.loss, passed.updated};
          share.first = false;
          last_ = &plan;
        }
        if (!outcome.updated) {
          if (parts) each_statistic([](T* to, const T* kept, std::size_t bytes) { std::memcpy(to, kept, bytes); });
          done.finite = false;
          done.loss = outcome.loss;
          return;
        }
        steps.losses[done.updates++] = outcome.loss;
      }
      done.steps = s + 1;
      const bool lost = rule.update.lost && *rule.update.lost;
      if (!team.did(cost_) || enough || lost) return;
    }
  });
  return done;
}

template <class T>
bool Runner<T>::pieces(const std::vector<Layer<T>>& layers, const Data& data, const Rule& rule, const Pieces<T>& pieces) {
  const Index rows = pieces.tree->rows(), cols = layers.front().in, targets = rule.loss.targets(layers.back().out);
  crew_ = prepare_for_now(plan_, layers, rows, Use::step, false, pieces.tree);
  pieces.tree->weigh([&](Index i) { return pieces.counts[i] != 0; });
  last_ = &plan_;
  const bool in_place = lies_there<T>(data.x, data.scale);
  arena_.lay_out([&](auto&& take) {
    take(x_, in_place ? 0 : rows * cols);
    take(labels_, data.labels ? rows : 0);
    take(dense_, data.labels ? 0 : rows * targets);
  });
  Batch<T> batch{};
  batch.rows = rows;
  batch.x = in_place ? reinterpret_cast<const T*>(data.x.data) : x_;
  batch.labels = data.labels ? labels_ : nullptr;
  batch.dense = data.labels ? nullptr : dense_;
  batch.weight = data.weight;
  batch.tree = pieces.tree;
  batch.exchange = pieces.exchange;
  const auto feed = [&](Index from, Index to) {
    if (!in_place) ops::gather(data.x, nullptr, from, to - from, static_cast<T>(data.scale), x_ + from * cols);
    if (!data.labels) return ops::gather(data.dense, nullptr, from, to - from, T(1), dense_ + from * targets);
    for (Index r = from; r < to; ++r) labels_[r] = ops::within(data.labels[r], targets);
  };
  bool finite = true;
  run_team(crew_, [&](Team& team) {
    finite = plan_.pieces(team, batch, rule, feed_of<T>(feed), pieces.divisor, pieces.losses, pieces.room);
  });
  return finite;
}

template <class T>
void Halves<T>::prepare(const std::vector<Layer<T>>& layers, Index rows, bool clip) {
  batch_ = {};
  clip_ = clip;
  prepare_for_now(plan_, layers, rows, Use::halves, clip);
  batch_.rows = rows;
}

// A team of at most as many as the plan has room for.
template <class T>
Crew Halves<T>::crew_for_half(double nanoseconds) const noexcept {
  Crew crew = crew_for(nanoseconds);
  crew.members = std::min(crew.members, plan_.members());
  return crew;
}

template <class T>
void Halves<T>::forward(const std::vector<Layer<T>>& layers, const ops::RowSource& x, const int64_t* order, Index first,
                        double scale, uint64_t step, T* out) {
  const Index rows = batch_.rows;
  const bool indices = layers.front().kind == LayerKind::embedding, in_place = !order && !indices && lies_there<T>(x, scale);
  arena_.lay_out([&](auto&& take) {
    take(x_, in_place || indices ? 0 : rows * x.cols);
    take(indices_, indices ? rows * x.cols : 0);
  });
  batch_.x = indices ? nullptr : in_place ? reinterpret_cast<const T*>(x.data + first * x.row_bytes) : x_;
  batch_.indices = indices ? indices_ : nullptr;
  const auto feed = [&](Index begin, Index end) {
    if (indices)
      ops::gather_indices(x, order, first + begin, end - begin, layers.front().vocabulary, indices_ + begin * x.cols);
    else if (!in_place)
      ops::gather(x, order, first + begin, end - begin, static_cast<T>(scale), x_ + begin * x.cols);
  };
  run_team(crew_for_half(plan_.forward_cost()), [&](Team& team) { plan_.forward(team, batch_, step, feed_of<T>(feed), out); });
}

template <class T>
void Halves<T>::backward(const std::vector<Layer<T>>& layers, const T* dout, bool parameters, T* dx) {
  renew(layers);
  run_team(crew_for_half(plan_.cost() - plan_.forward_cost()),
           [&](Team& team) { plan_.backward(team, batch_, dout, parameters, dx); });
}

template <class T>
bool Halves<T>::finish(const std::vector<Layer<T>>& layers, const T* dout, const Rule& rule) {
  renew(layers);
  bool updated = false;
  run_team(crew_for_half(plan_.cost() - plan_.forward_cost()),
           [&](Team& team) { updated = plan_.finish(team, batch_, dout, rule); });
  return updated;
}

template <class T>
void Predictor<T>::prepare(const std::vector<Layer<T>>& layers, const ops::RowSource& x, Index n, double scale) {
  const bool indices = layers.front().kind == LayerKind::embedding;
  const Index rows = std::min(kRows, n);
  in_place_ = !indices && lies_there<T>(x, scale);
  arena_.lay_out([&](auto&& take) {
    take(x_, indices || in_place_ ? 0 : rows * x.cols);
    take(indices_, indices ? rows * x.cols : 0);
  });
  crew_ = prepare_for_now(plan_, layers, rows, Use::infer, false);
  cost_ = plan_.cost() * static_cast<double>(n) / static_cast<double>(rows);
}

template <class T>
void Predictor<T>::run(const std::vector<Layer<T>>& layers, const ops::RowSource& x, Index n, double scale, T* out) {
  for (Index first = 0; first < n; first += kRows) {
    Batch<T> batch{};
    batch.rows = std::min(kRows, n - first);
    batch.indices = indices_;
    batch.x = in_place_ ? reinterpret_cast<const T*>(x.data + first * x.row_bytes) : x_;
    const auto feed = [&](Index begin, Index end) {
      if (in_place_) return;
      if (layers.front().kind != LayerKind::embedding)
        return ops::gather(x, nullptr, first + begin, end - begin, static_cast<T>(scale), x_ + begin * x.cols);
      ops::gather_indices(x, nullptr, first + begin, end - begin, layers.front().vocabulary, indices_ + begin * x.cols);
    };
    if (first > 0) crew_ = prepare_for_now(plan_, layers, batch.rows, Use::infer, false);
    run_team(crew_, [&](Team& team) { plan_.infer(team, batch, feed_of<T>(feed), out + first * plan_.outputs()); });
  }
}

template class Runner<float>;
template class Runner<double>;
template class Halves<float>;
template class Halves<double>;
template class Predictor<float>;
template class Predictor<double>;

}  // namespace fastnn::network
