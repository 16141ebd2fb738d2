#include "network/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "ops/cost.h"

namespace fastnn::network {
namespace {

// A member that has fewer rows than this fills its tiles badly: columns are shared instead.
constexpr Index kRowsEach = 16;
// Columns that a member takes at least: a cache line or two, so that no two write one line.
constexpr Index kColumns = 16;
// Weights of more bytes are packed for their products, by each member a part.
constexpr Index kTogetherBytes = 512 * 1024;
// Dropout's masks come in groups of so many elements.
constexpr Index kMaskGroup = 64;

bool has_parameters(LayerKind kind) { return kind != LayerKind::activation && kind != LayerKind::dropout; }

template <class T>
T dropout_scale(const Layer<T>& layer) {
  return layer.inverted ? static_cast<T>(1 / (1 - layer.ratio)) : T(1);
}

template <class T>
bool same_shape(const Layer<T>& a, const Layer<T>& b) {
  return a.kind == b.kind && a.in == b.in && a.out == b.out && a.activation == b.activation &&
         a.keeps_gradients == b.keeps_gradients;
}

// f(first number of the part's run, run length) for each run of a part that is contiguous both in C and in rows of `width`
// numbers.
template <class T, class F>
void each_run(const ops::GemmPart<T>& part, Index width, F&& f) {
  if (part.c_row == width && part.cols == width) return f(part.c, part.row * width, part.rows * width);
  for (Index i = 0; i < part.rows; ++i) f(part.c + i * part.c_row, (part.row + i) * width + part.col, part.cols);
}

}  // namespace

// An activation's forward into `y`, or its backward by what it has saved, on parts of a product.
template <class T>
struct Plan<T>::Part {
  Activation kind;
  T alpha;
  Index width;
  T* y;
  const T* saved;

  static void forward(const void* context, const ops::GemmPart<T>& part) {
    const Part& at = *static_cast<const Part*>(context);
    each_run(part, at.width, [&](const T* c, Index i, Index n) { ops::activate(at.kind, c, at.y + i, n, at.alpha); });
  }
  static void backward(const void* context, const ops::GemmPart<T>& part) {
    const Part& at = *static_cast<const Part*>(context);
    each_run(part, at.width, [&](T* c, Index i, Index n) { ops::activation_gradient(at.kind, at.saved + i, c, c, n, at.alpha); });
  }
};

// The update of a parameter by parts of its gradient.
template <class T>
struct Plan<T>::Update {
  Optimizer kind;
  OptimizerStep<T> step;

  void run(const Parameter<T>& to, Index begin, Index n, const T* g) const {
    ops::update_run(kind, step, n, g, to.p + begin, to.s1 ? to.s1 + begin : nullptr, to.s2 ? to.s2 + begin : nullptr);
  }
};

template <class T>
void Plan<T>::prepare(const std::vector<Layer<T>>& layers, Index rows, int members, bool train, bool clip) {
  bool same = rows == rows_ && members == members_ && train == train_ && clip == clip_ && layers.size() == nodes_.size();
  for (std::size_t i = 0; same && i < layers.size(); ++i) same = same_shape(layers[i], nodes_[i].layer);
  if (same) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Layer<T> before = nodes_[i].layer;
      nodes_[i].layer = layers[i];
      if (layers[i].keeps_gradients) continue;
      nodes_[i].layer.weight.g = before.weight.g;
      nodes_[i].layer.bias.g = before.bias.g;
    }
    return;
  }
  rows_ = -1;  // until all is done
  members_ = members;
  train_ = train;
  clip_ = clip;
  outputs_ = layers.back().out;
  connect(layers);
  arena_.lay_out([&](auto&& take) {
    own_size_ = 0;
    place_activations(rows, take);
    place_products(rows, take);
    take(own_, own_size_ * members);
  });
  if (train && layers.front().kind == LayerKind::embedding) occurrences_.reserve(rows * layers.front().in);
  cost_ = estimate(rows);
  rows_ = rows;
}

// What each layer is to its neighbours.
template <class T>
void Plan<T>::connect(const std::vector<Layer<T>>& layers) {
  nodes_.resize(layers.size());
  grain_ = 1;
  bool trainable = false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Node& node = nodes_[i];
    node = Node{};
    node.layer = layers[i];
    node.wants_dx = trainable;
    trainable = trainable || has_parameters(node.layer.kind);
    if (node.layer.kind == LayerKind::dropout) grain_ = std::max(grain_, kMaskGroup / std::gcd(node.layer.out, kMaskGroup));
    const bool after_affine = i > 0 && layers[i - 1].kind == LayerKind::affine;
    const bool before_affine = i + 1 < layers.size() && layers[i + 1].kind == LayerKind::affine;
    node.forward_fused = node.layer.kind == LayerKind::activation && after_affine;
    node.backward_fused = node.layer.kind == LayerKind::activation && before_affine;
  }
}

// Places for what flows through the layers, forward and back; element-wise ops work in place where nobody needs what was there.
template <class T>
template <class Take>
void Plan<T>::place_activations(Index rows, Take&& take) {
  const auto matrix = [&](T*& place, Index cols) { take(place, rows * cols); };
  enum class Needs { nothing, sign, value } needs = Needs::value;  // of the last output, by the backward of who made it
  T* before = nullptr;
  for (Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    const bool activation = layer.kind == LayerKind::activation, dropout = layer.kind == LayerKind::dropout;
    const bool from_output = activation && activation_uses_output(layer.activation);
    node.x = before;
    const bool in_place = (from_output && needs == Needs::nothing) || (dropout && needs != Needs::value);
    if (in_place)
      node.y = before;
    else
      matrix(node.y, layer.out);
    before = node.y;
    if (from_output) {
      const bool sign = layer.activation == Activation::relu || layer.activation == Activation::leaky_relu;
      needs = sign ? Needs::sign : Needs::value;
    } else if (!in_place) {
      needs = Needs::nothing;
    }
    if (layer.kind == LayerKind::batchnorm) {
      take(node.mean, layer.out);
      take(node.rstd, layer.out);
      take(node.var, layer.out);
      own_size_ = std::max(own_size_, (layer.out + kColumns - 1) / kColumns * kColumns);
      if (train_ && !layer.keeps_gradients) {
        take(node.layer.weight.g, layer.out);
        take(node.layer.bias.g, layer.out);
      }
    }
    if (layer.kind == LayerKind::affine && train_ && !layer.keeps_gradients) take(node.layer.bias.g, layer.out);
    if (dropout && train_) take(node.keep, (rows * layer.out + 7) / 8 + kMaskGroup);
    if (layer.kind == LayerKind::embedding && train_) matrix(node.values, layer.out);
  }
  matrix(predictions_, outputs_);
  take(losses_, rows);
  take(factors_, rows);
  if (train_) {
    T* dy;
    matrix(dy, outputs_);
    for (std::size_t i = nodes_.size(); i-- > 0;) {
      nodes_[i].dy = dy;
      if (nodes_[i].layer.kind == LayerKind::affine && nodes_[i].wants_dx) matrix(dy, nodes_[i].layer.in);
    }
  }
}

// Plans of the products and places for their scratch.
template <class T>
template <class Take>
void Plan<T>::place_products(Index rows, Take&& take) {
  const bool by_rows = rows >= kRowsEach * members_;
  Index norms = 0;
  for (Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    norms += (layer.weight.size + layer.bias.size + rows * layer.out) / ops::kNormPiece + 3;
    if (layer.kind != LayerKind::affine) continue;
    const auto scratch = [&](const ops::Gemm<T>& g, ops::GemmPlan& plan) {
      plan = ops::plan_gemm(g);
      const ops::GemmScratch size = ops::gemm_scratch(g, plan);
      own_size_ = std::max(own_size_, (size.own + kColumns - 1) / kColumns * kColumns);
      return size.shared;
    };
    node.together = layer.weight.size * static_cast<Index>(sizeof(T)) > kTogetherBytes;
    const Index share = by_rows && !node.together ? (rows + members_ - 1) / members_ : rows;
    const Matrix<const T> x{nullptr, share, layer.in, layer.in, 1}, dy{nullptr, share, layer.out, layer.out, 1};
    const Matrix<const T> w{nullptr, layer.in, layer.out, layer.out, 1};
    ops::Gemm<T> g{};
    g.a = x;
    g.b = w;
    g.c = {nullptr, share, layer.out, layer.out, 1};
    g.bias = layer.bias.p;
    take(node.shared_forward, scratch(g, node.forward));
    if (!train_) continue;
    g.bias = nullptr;
    g.a = dy;
    g.b = w.transposed();
    g.c = {nullptr, share, layer.in, layer.in, 1};
    g.by_batch = true;
    take(node.shared_dx, scratch(g, node.for_dx));
    g = weight_gradient(node, nullptr, rows);
    take(node.shared_dw, scratch(g, node.for_dw));
  }
  if (clip_) take(norms_, norms);
}

// What one thread takes, in nanoseconds.
template <class T>
double Plan<T>::estimate(Index rows) const {
  double cost = cost::elements<T>(rows * outputs_, cost::kTranscendental) + static_cast<double>(rows) * cost::kRow;
  for (const Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    const Index numbers = rows * layer.out;
    if (layer.kind == LayerKind::affine) {
      const double product = cost::gemm<T>(rows, layer.out, layer.in);
      cost += std::max(product * (train_ ? 2 + node.wants_dx : 1), cost::elements<T>(layer.weight.size, cost::kWeight));
      if (train_) cost += cost::elements<T>(layer.weight.size, cost::kUpdate);
    } else if (layer.kind == LayerKind::dropout) {
      cost += cost::elements<T>(numbers, train_ ? cost::kRandom : cost::kMove);
    } else {
      cost += cost::elements<T>(numbers, train_ ? 4 * cost::kMove : cost::kMove);
    }
  }
  return cost;
}

template <class T>
ops::Gemm<T> Plan<T>::weight_gradient(const Node& node, const T* x, Index rows) const noexcept {
  ops::Gemm<T> g{};
  g.a = Matrix<const T>{x, rows, node.layer.in, node.layer.in, 1}.transposed();
  g.b = {node.dy, rows, node.layer.out, node.layer.out, 1};
  g.c = {node.layer.weight.g, node.layer.in, node.layer.out, node.layer.out, 1};
  g.transient = !node.layer.keeps_gradients;
  return g;
}

template <class T>
bool Plan<T>::by_rows(const Team& team) const noexcept {
  return rows_ >= kRowsEach * team.size;
}
template <class T>
typename Plan<T>::Range Plan<T>::rows_of(const Team& team) const noexcept {
  Range rows{0, 0};
  team.share(rows_, by_rows(team) ? grain_ : 1, [&](Index begin, Index end) { rows = {begin, end}; });
  return rows;
}
// A member's run of the numbers of a layer of `width` outputs: of its rows, or where columns are shared, any.
template <class T>
typename Plan<T>::Range Plan<T>::run_of(const Team& team, Index width) const noexcept {
  if (by_rows(team)) {
    const Range rows = rows_of(team);
    return {rows.begin * width, rows.end * width};
  }
  Range run{0, 0};
  team.share(rows_ * width, kMaskGroup, [&](Index begin, Index end) { run = {begin, end}; });
  return run;
}
// After an op whose output the other members need, unless each goes on with its own rows.
template <class T>
void Plan<T>::meet(Team& team) const noexcept {
  if (!by_rows(team)) team.barrier();
}

// A product of rows: of this member's, by itself, or of all, shared by rows and columns.
template <class T>
void Plan<T>::product(Team& team, const Node& node, ops::Gemm<T> g, const ops::GemmPlan& plan, T* shared) noexcept {
  T* own = own_ + own_size_ * team.rank;
  if (!by_rows(team)) return ops::gemm(team, g, plan, shared, own);
  if (node.together) {
    team.barrier();
    ops::gemm(team, g, plan, shared, own);
    return team.barrier();
  }
  const Range rows = rows_of(team);
  g.a.data += rows.begin * g.a.row_stride;
  g.c.data += rows.begin * g.c.row_stride;
  g.a.rows = g.c.rows = rows.end - rows.begin;
  g.row = rows.begin;
  Team alone(0, 1, nullptr);
  ops::gemm(alone, g, plan, shared, own);
}

template <class T>
void Plan<T>::forward(Team& team, const Batch<T>& batch, bool train, uint64_t step) noexcept {
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    const Layer<T>& layer = node.layer;
    const T* x = input(node, batch);
    const Range run = run_of(team, layer.out);
    switch (layer.kind) {
      case LayerKind::affine: {
        ops::Gemm<T> g{};
        g.a = {x, rows_, layer.in, layer.in, 1};
        g.b = {layer.weight.p, layer.in, layer.out, layer.out, 1};
        g.c = {node.y, rows_, layer.out, layer.out, 1};
        g.bias = layer.bias.p;
        Part part{};
        if (i + 1 < nodes_.size() && nodes_[i + 1].forward_fused) {
          const Node& next = nodes_[i + 1];
          part = {next.layer.activation, next.layer.alpha, layer.out, next.y, nullptr};
          g.finish = Part::forward;
          g.context = &part;
        }
        product(team, node, g, node.forward, node.shared_forward);
        break;
      }
      case LayerKind::activation:
        if (node.forward_fused) continue;
        ops::activate(layer.activation, x + run.begin, node.y + run.begin, run.end - run.begin, layer.alpha);
        break;
      case LayerKind::dropout:
        if (train) {
          const RandomStream stream{layer.seed, step, static_cast<uint32_t>(i)};
          ops::drop(stream, layer.ratio, dropout_scale(layer), run.begin, run.end - run.begin, x + run.begin, node.y + run.begin,
                    node.keep + run.begin / 8);
        } else {
          const T factor = layer.inverted ? T(1) : static_cast<T>(1 - layer.ratio);
          if (x != node.y || factor != T(1)) ops::scale_run(x + run.begin, factor, run.end - run.begin, node.y + run.begin);
        }
        break;
      case LayerKind::batchnorm:
        if (!train) {
          const Range rows = rows_of(team);
          ops::normalize_by_running(rows.end - rows.begin, layer.out, x + rows.begin * layer.out, layer.weight.p, layer.bias.p,
                                    layer.running_mean, layer.running_var, layer.eps, own_ + own_size_ * team.rank,
                                    node.y + rows.begin * layer.out);
          break;
        }
        team.barrier();
        team.share(layer.out, kColumns, [&](Index begin, Index end) {
          ops::normalize_by_batch(columns(node, x, begin, end), layer.weight.p, layer.bias.p, node.y);
        });
        team.barrier();
        continue;
      case LayerKind::embedding: {
        const Range rows = rows_of(team);
        const Index at = rows.begin * layer.in, n = rows.end * layer.in - at;
        const Matrix<const T> table{layer.weight.p, layer.vocabulary, layer.dim, layer.dim, 1};
        ops::copy_rows(table, batch.indices + at, n, node.y + at * layer.dim, false);
        break;
      }
    }
    meet(team);
  }
}

template <class T>
ops::NormColumns<T> Plan<T>::columns(const Node& node, const T* x, Index begin, Index end) const noexcept {
  return {rows_, begin, end, x, node.layer.out, node.mean, node.rstd, node.var, node.layer.eps};
}

template <class T>
void Plan<T>::loss(Team& team, const Batch<T>& batch, const Rule& rule) noexcept {
  const Range rows = rows_of(team);
  const Index n = outputs_, at = rows.begin * n;
  double factor = 1 / weight_sum(batch);
  if (rule.loss != Loss::softmax) factor *= (rule.loss == Loss::squared ? 2.0 : 1.0) / static_cast<double>(n);
  const Node& last = nodes_.back();
  const ops::LossRows<T> r{rows.end - rows.begin,
                           n,
                           last.y + at,
                           batch.labels ? batch.labels + rows.begin : nullptr,
                           batch.dense ? batch.dense + at : nullptr,
                           batch.weight ? batch.weight + rows.begin : nullptr,
                           factor,
                           predictions_ + at,
                           last.dy + at,
                           losses_ + rows.begin,
                           factors_ + rows.begin};
  switch (rule.loss) {
    case Loss::softmax:
      ops::softmax_rows(r);
      break;
    case Loss::sigmoid:
      ops::sigmoid_rows(r);
      break;
    case Loss::squared:
      ops::squared_rows(r);
      break;
  }
  if (nodes_.front().layer.kind == LayerKind::embedding && team.rank == 0)
    ops::occurrences_of(batch.indices, rows_ * nodes_.front().layer.in, occurrences_);
  meet(team);
}

template <class T>
double Plan<T>::weight_sum(const Batch<T>& batch) const noexcept {
  if (!batch.weight) return static_cast<double>(rows_);
  double sum = 0;
  for (Index i = 0; i < rows_; ++i) sum += batch.weight[i];
  return sum;
}

// The weighted mean of the rows' losses, by every member alike.
template <class T>
double Plan<T>::total_loss(const Batch<T>& batch) const noexcept {
  double sum = 0;
  for (Index i = 0; i < rows_; ++i) sum += batch.weight ? batch.weight[i] * losses_[i] : losses_[i];
  return sum / weight_sum(batch);
}

template <class T>
void Plan<T>::backward(Team& team, const Batch<T>& batch) noexcept {
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    Node& node = nodes_[i];
    const Layer<T>& layer = node.layer;
    if (!node.wants_dx && layer.kind != LayerKind::batchnorm) return;
    const Range run = run_of(team, layer.out);
    T* dy = node.dy + run.begin;
    switch (layer.kind) {
      case LayerKind::affine: {
        ops::Gemm<T> g{};
        g.a = {node.dy, rows_, layer.out, layer.out, 1};
        g.b = Matrix<const T>{layer.weight.p, layer.in, layer.out, layer.out, 1}.transposed();
        g.c = {nodes_[i - 1].dy, rows_, layer.in, layer.in, 1};
        g.by_batch = true;
        Part part{};
        if (const Node& before = nodes_[i - 1]; before.backward_fused) {
          part = {before.layer.activation, before.layer.alpha, layer.in, nullptr, saved(before, batch)};
          g.finish = Part::backward;
          g.context = &part;
        }
        product(team, node, g, node.for_dx, node.shared_dx);
        break;
      }
      case LayerKind::activation:
        if (node.backward_fused) continue;
        ops::activation_gradient(layer.activation, saved(node, batch) + run.begin, dy, dy, run.end - run.begin, layer.alpha);
        break;
      case LayerKind::dropout:
        ops::drop_gradient(node.keep + run.begin / 8, dropout_scale(layer), run.end - run.begin, dy, dy);
        break;
      case LayerKind::batchnorm:
        if (by_rows(team)) team.barrier();
        team.share(layer.out, kColumns, [&](Index begin, Index end) {
          ops::normalize_gradient(columns(node, input(node, batch), begin, end), layer.weight.p, node.dy, layer.weight.g,
                                  layer.bias.g, node.wants_dx ? node.dy : nullptr);
        });
        team.barrier();
        continue;
      case LayerKind::embedding:
        return;
    }
    meet(team);
  }
}

template <class T>
void Plan<T>::gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept {
  for (Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    if (layer.kind == LayerKind::affine) {
      struct Target {
        const Update* update;
        const Parameter<T>& weight;
        Index width;
      } target{update, layer.weight, layer.out};
      ops::Gemm<T> g = weight_gradient(node, input(node, batch), rows_);
      if (update) {
        g.context = &target;
        // (Fetching the weights and the optimizer's state while the tile of their gradient is computed changed nothing.)
        g.finish = [](const void* context, const ops::GemmPart<T>& part) {
          const Target& to = *static_cast<const Target*>(context);
          each_run(part, to.width, [&](const T* c, Index i, Index n) { to.update->run(to.weight, i, n, c); });
        };
      }
      ops::gemm(team, g, node.for_dw, node.shared_dw, own_ + own_size_ * team.rank);
    }
    team.share(layer.bias.size, kColumns, [&](Index begin, Index end) {
      if (layer.kind == LayerKind::affine) ops::sum_columns(node.dy + begin, layer.out, rows_, end - begin, layer.bias.g + begin);
      if (!update) return;
      if (layer.kind == LayerKind::batchnorm) update_statistics(node, begin, end);
      update->run(layer.bias, begin, end - begin, layer.bias.g + begin);
      if (layer.kind == LayerKind::batchnorm) update->run(layer.weight, begin, end - begin, layer.weight.g + begin);
    });
    if (layer.kind == LayerKind::embedding)
      team.share(static_cast<Index>(occurrences_.rows.size()), 1, [&](Index begin, Index end) {
        ops::sum_rows(occurrences_, begin, end, node.dy, layer.dim, node.values, false);
        if (update) update_rows(node, begin, end, *update);
      });
  }
}

// The running statistics of some columns.
template <class T>
void Plan<T>::update_statistics(const Node& node, Index begin, Index end) const noexcept {
  const Layer<T>& layer = node.layer;
  ops::update_running(columns(node, nullptr, begin, end), layer.momentum, layer.running_mean, layer.running_var);
}

// Rows of an embedding's table, by the distinct indices that have occurred.
template <class T>
void Plan<T>::update_rows(const Node& node, Index begin, Index end, const Update& update) const noexcept {
  const Index dim = node.layer.dim;
  for (Index r = begin; r < end; ++r)
    update.run(node.layer.weight, occurrences_.rows[static_cast<std::size_t>(r)] * dim, dim, node.values + r * dim);
}

// Calls f(the parameter, its gradient, its size) for every dense parameter and, with the values of its rows, an embedding's.
template <class T>
template <class F>
void Plan<T>::each_gradient(F&& f) const {
  for (const Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    if (layer.kind == LayerKind::embedding)
      f(node, layer.weight, node.values, static_cast<Index>(occurrences_.rows.size()) * layer.dim);
    else if (layer.weight.size)
      f(node, layer.weight, layer.weight.g, layer.weight.size);
    if (layer.bias.size) f(node, layer.bias, layer.bias.g, layer.bias.size);
  }
}

// Scales all gradients to the rule's norm where theirs is larger, and updates; returns whether it has.
template <class T>
bool Plan<T>::clip_and_update(Team& team, const Rule& rule, const Update& update) noexcept {
  team.barrier();
  const auto each_piece = [&](auto&& f) {
    Index piece = 0;
    each_gradient([&](const Node&, const Parameter<T>&, const T* g, Index size) {
      for (Index at = 0; at < size; at += ops::kNormPiece, ++piece) f(piece, g + at, std::min(ops::kNormPiece, size - at));
    });
    return piece;
  };
  const Index pieces = each_piece([](Index, const T*, Index) {});
  team.share(pieces, 1, [&](Index begin, Index end) {
    each_piece([&](Index piece, const T* g, Index n) {
      if (begin <= piece && piece < end) norms_[piece] = ops::squares(g, n);
    });
  });
  team.barrier();
  double sum = 0;
  for (Index piece = 0; piece < pieces; ++piece) sum += norms_[piece];
  const double norm = std::sqrt(sum);
  if (rule.stop_at_nonfinite && !std::isfinite(norm)) return false;
  const T factor = norm > rule.clip_norm ? static_cast<T>(rule.clip_norm / norm) : T(1);
  for (const Node& node : nodes_)
    if (node.layer.kind == LayerKind::batchnorm)
      team.share(node.layer.out, kColumns, [&](Index begin, Index end) { update_statistics(node, begin, end); });
  each_gradient([&](const Node& node, const Parameter<T>& to, T* g, Index size) {
    const bool rows = node.layer.kind == LayerKind::embedding;
    team.share(rows ? size / node.layer.dim : size, rows ? 1 : kMaskGroup, [&](Index begin, Index end) {
      const Index each = rows ? node.layer.dim : 1;
      if (factor != T(1)) ops::scale_run(g + begin * each, factor, (end - begin) * each, g + begin * each);
      if (rows)
        update_rows(node, begin, end, update);
      else
        update.run(to, begin, end - begin, g + begin);
    });
  });
  return true;
}

template <class T>
typename Plan<T>::Outcome Plan<T>::step(Team& team, const Batch<T>& batch, const Rule& rule) noexcept {
  forward(team, batch, true, rule.step);
  loss(team, batch, rule);
  backward(team, batch);
  team.barrier();
  const double value = total_loss(batch);
  bool updated = !rule.stop_at_nonfinite || std::isfinite(value);
  if (updated) {
    const Update update{rule.update.kind, ops::optimizer_step<T>(rule.update)};
    gradients(team, batch, clip_ ? nullptr : &update);
    if (clip_) updated = clip_and_update(team, rule, update);
  }
  team.barrier();
  return {value, updated};
}

template <class T>
void Plan<T>::infer(Team& team, const Batch<T>& batch, T* out) noexcept {
  forward(team, batch, false, 0);
  const Range run = run_of(team, outputs_);
  std::memcpy(out + run.begin, nodes_.back().y + run.begin, static_cast<std::size_t>(run.end - run.begin) * sizeof(T));
  team.barrier();
}

template class Plan<float>;
template class Plan<double>;

}  // namespace fastnn::network
