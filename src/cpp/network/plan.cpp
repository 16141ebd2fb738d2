#include "network/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "ops/cost.h"
#include "ops/muon.h"

namespace fastnn::network {
namespace {

// A member that has fewer rows than this fills its tiles badly: columns are shared instead.
constexpr Index kRowsEach = 16;
// Columns that a member takes at least: a cache line or two, so that no two write one line.
constexpr Index kColumns = 16;
// Weights of more bytes are packed for their products, by each member a part.
constexpr Index kTogetherBytes = 512 * 1024;
// Columns of batch normalization, and numbers, that are worth claiming.
constexpr Index kColumnsEach = 64, kNumbersEach = 2048;
// Rows whose sums for normalization by rows are made together.
constexpr Index kNormRows = 16;
using ops::kMaskGroup;

template <class T>
T dropout_scale(const Layer<T>& layer) {
  return layer.inverted ? static_cast<T>(1 / (1 - layer.ratio)) : T(1);
}

template <class T>
bool same_shape(const Layer<T>& a, const Layer<T>& b) {
  return a.kind == b.kind && a.in == b.in && a.out == b.out && a.activation == b.activation &&
         a.weight.iterations == b.weight.iterations && a.keeps_gradients == b.keeps_gradients &&
         a.weight.frozen == b.weight.frozen && a.bias.frozen == b.bias.frozen;
}

// The number, in the whole batch, of the first row at hand.
template <class T>
Index first_row(const Batch<T>& batch) {
  return batch.tree ? batch.tree->begin(batch.tree->first()) : 0;
}

// f(first number of the part's run, run length) for each run of a part that is contiguous both in C and in rows of `width`
// numbers.
template <class T, class F>
void each_run(const ops::GemmPart<T>& part, Index width, F&& f) {
  if (part.c_row == width && part.cols == width) return f(part.c, part.row * width, part.rows * width);
  for (Index i = 0; i < part.rows; ++i) f(part.c + i * part.c_row, (part.row + i) * width + part.col, part.cols);
}

}  // namespace

// An activation's forward into `y`, or its backward by what it has saved, on parts of a product; or what is added to them.
template <class T>
struct Plan<T>::Part {
  Activation kind;
  T alpha;
  Index width;
  T* y;
  const T* saved;

  static void add(const void* context, const ops::GemmPart<T>& part) {
    const Part& at = *static_cast<const Part*>(context);
    each_run(part, at.width, [&](const T* c, Index i, Index n) { ops::add_run(c, at.saved + i, n, at.y + i); });
  }

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
  const OptimizerStep<T>* steps;
  const Plan& plan;

  void run(const Parameter<T>& to, Index begin, Index n, const T* g) const {
    step(to, begin, n, g);
    if (to.average) plan.blend(to.p + begin, to.average + begin, n);
  }
  void step(const Parameter<T>& to, Index begin, Index n, const T* g) const {
    ops::update_run(kind, steps[to.factors], n, g, to.p + begin, to.s1 ? to.s1 + begin : nullptr,
                    to.s2 ? to.s2 + begin : nullptr);
  }
};

template <class T>
void Plan<T>::prepare(const std::vector<Layer<T>>& layers, Index rows, int members, Use use, bool clip, const Tree* tree) {
  bool same = rows == rows_ && members == members_ && use == use_ && clip == clip_ && layers.size() == nodes_.size() &&
              (tree ? in_pieces_ && shape_ == *tree : !in_pieces_);
  for (std::size_t i = 0; same && i < layers.size(); ++i) same = same_shape(layers[i], nodes_[i].layer);
  if (same) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      Layer<T>& layer = nodes_[i].layer;
      T *const weight = layer.weight.g, *const bias = layer.bias.g;
      layer = layers[i];
      if (layer.keeps_gradients) continue;
      layer.weight.g = weight;
      layer.bias.g = bias;
    }
    return;
  }
  rows_ = -1;  // until all is done
  members_ = members;
  use_ = use;
  train_ = use != Use::infer;
  clip_ = clip;
  in_pieces_ = tree != nullptr;
  if (tree) shape_ = *tree;
  outputs_ = layers.back().out;
  connect(layers);
  blocks_.clear();
  if (train_ && std::any_of(nodes_.begin(), nodes_.end(), [](const Node& node) { return normalizes_rows(node.layer.kind); })) {
    const auto cut = [&](Index begin, Index end) {
      for (; begin < end; begin += kNormRows) blocks_.push_back(begin);
    };
    if (tree)
      for (Index p = tree->first(); p < tree->last(); ++p)
        cut(tree->begin(p) - tree->begin(tree->first()), tree->begin(p + 1) - tree->begin(tree->first()));
    else
      cut(0, rows);
    blocks_.push_back(rows);
  }
  arena_.lay_out([&](auto&& take) {
    own_size_ = 0;
    place_activations(rows, take);
    place_products(rows, take);
    take(own_, own_size_ * members);
  });
  steps_.reserve(2 * layers.size() + 1);
  loss_numbers_.reserve(static_cast<std::size_t>(outputs_) + 1);
  if (train_ && layers.front().kind == LayerKind::embedding) occurrences_.reserve(rows * layers.front().in);
  forward_cost_ = estimate(rows, false);
  cost_ = train_ ? estimate(rows, true) : forward_cost_;
  rows_ = rows;
}

// What each layer is to its neighbours.
template <class T>
void Plan<T>::connect(const std::vector<Layer<T>>& layers) {
  nodes_.resize(layers.size());
  grain_ = 1;
  bool trainable = false;
  std::vector<std::size_t> open;  // blocks
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Node& node = nodes_[i];
    node = Node{};
    node.layer = layers[i];
    node.wants_dx = trainable;
    node.together = layers[i].weight.size * static_cast<Index>(sizeof(T)) > kTogetherBytes;
    trainable = trainable || node.layer.learns();
    if (node.layer.kind == LayerKind::dropout) grain_ = std::max(grain_, kMaskGroup / std::gcd(node.layer.out, kMaskGroup));
    if (normalizes_rows(node.layer.kind)) grain_ = std::max(grain_, kNormRows);
    if (node.layer.kind == LayerKind::residual) open.push_back(i);
    if (node.layer.kind == LayerKind::sum) {
      node.begin = open.back();
      open.pop_back();
    }
    const bool after_affine = i > 0 && layers[i - 1].kind == LayerKind::affine;
    const bool before_affine = i + 1 < layers.size() && layers[i + 1].kind == LayerKind::affine;
    // (Batch normalization, activation and dropout are not one pass: of a step of 784-100x5-10, 400 us, all three together take
    // 45, and the reads and writes that would go 4.)
    node.forward_fused = after_affine && (node.layer.kind == LayerKind::activation || node.layer.kind == LayerKind::sum);
    node.backward_fused = node.layer.kind == LayerKind::activation && before_affine;
  }
  ops_.clear();
  ops_.push_back({Act::feed, 0});
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    if (!nodes_[i].forward_fused && nodes_[i].layer.kind != LayerKind::residual) ops_.push_back({Act::forward, i});
  const std::size_t last = nodes_.size() - 1;
  ops_.push_back({use_ == Use::step ? Act::loss : Act::output, last});
  turn_ = ops_.size();
  if (use_ == Use::halves) ops_.push_back({Act::gradient, last});
  needed_ = ops_.size();
  first_ = last;
  for (std::size_t i = nodes_.size(); train_ && i-- > 0;) {
    const Node& node = nodes_[i];
    const bool norm = node.layer.kind == LayerKind::batchnorm || normalizes_rows(node.layer.kind);
    const bool needed = node.wants_dx || (norm && node.layer.learns());
    if (node.layer.learns()) first_ = i;
    if (node.layer.kind == LayerKind::embedding || (use_ == Use::step && !needed)) break;
    if (!node.backward_fused && !shares_gradient(i)) ops_.push_back({Act::backward, i});
    if (needed) needed_ = ops_.size();
  }
  row_phases_ = 0;
  for (std::size_t i = 0; i < ops_.size(); ++i) row_phases_ += takes_rows(ops_[i]) && (i == 0 || !takes_rows(ops_[i - 1]));
  tasks_.reserve(2 * nodes_.size());
}

template <class T>
void Plan<T>::set_ratios(const double* ratios) noexcept {
  for (Node& node : nodes_)
    if (node.layer.kind == LayerKind::dropout) node.layer.ratio = *ratios++;
}

// Whether a sum's gradient goes back into its block as it lies there: an affine layer leaves it for the end of the way around.
template <class T>
bool Plan<T>::shares_gradient(std::size_t i) const noexcept {
  return nodes_[i].layer.kind == LayerKind::sum && nodes_[i - 1].layer.kind == LayerKind::affine;
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
    const bool block = layer.kind == LayerKind::residual, sum = layer.kind == LayerKind::sum;
    const bool in_place = block || ((from_output || sum) && needs == Needs::nothing) || (dropout && needs != Needs::value);
    if (in_place)
      node.y = before;
    else
      matrix(node.y, layer.out);
    before = node.y;
    if (from_output) {
      const bool sign = layer.activation == Activation::relu || layer.activation == Activation::leaky_relu;
      needs = sign ? Needs::sign : Needs::value;
    } else if (block) {
      needs = Needs::value;
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
      if (train_ && (use_ == Use::halves || layer.weight.frozen || layer.bias.frozen)) {
        take(node.dgamma, layer.out);
        take(node.dbeta, layer.out);
      }
    }
    if (normalizes_rows(layer.kind)) {
      if (layer.kind == LayerKind::layernorm) take(node.mean, rows);
      take(node.rstd, rows);
      if (train_) take(node.sums, static_cast<Index>(blocks_.size() - 1) * 2 * layer.out);
      if (train_ && !layer.keeps_gradients) {
        take(node.layer.weight.g, layer.out);
        take(node.layer.bias.g, layer.bias.size);
      }
    }
    if (layer.kind == LayerKind::affine && train_ && !layer.keeps_gradients) take(node.layer.bias.g, layer.out);
    if (in_pieces_) {
      const bool norm = layer.kind == LayerKind::batchnorm;
      if (norm) take(node.by_piece, shape_.count() * 2 * layer.out);
      if (norm || layer.bias.size || normalizes_rows(layer.kind))
        take(node.rooms, std::max(shape_.own().rooms, shape_.all().rooms) * 2 * layer.out);
    }
    if (dropout && train_) take(node.keep, (rows * layer.out + 7) / 8 + kMaskGroup);
    if (layer.kind == LayerKind::embedding && train_) matrix(node.values, layer.out);
  }
  matrix(predictions_, outputs_);
  take(losses_, rows);
  take(factors_, rows);
  if (train_) {
    // What goes around them must outlast the gradient that the first parameters pass on.
    const auto is_block = [](const Node& node) { return node.layer.kind == LayerKind::residual; };
    const bool blocks_first = std::any_of(nodes_.begin(), nodes_.begin() + static_cast<std::ptrdiff_t>(first_), is_block);
    T* dy;
    matrix(dy, outputs_);
    for (std::size_t i = nodes_.size(); i-- > 0;) {
      Node& node = nodes_[i];
      node.dy = dy;
      if (node.layer.kind == LayerKind::sum) {
        nodes_[node.begin].whole = dy;
        if (!shares_gradient(i)) matrix(dy, node.layer.out);
      }
      if (node.layer.kind == LayerKind::affine && (node.wants_dx || (blocks_first && i == first_))) matrix(dy, node.layer.in);
    }
  }
}

// Plans of the products and places for their scratch.
template <class T>
template <class Take>
void Plan<T>::place_products(Index rows, Take&& take) {
  by_rows_ = members_ == 1 || rows >= kRowsEach * members_;
  Index norms = 0, matrix = 0;
  for (Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    norms += (layer.weight.size + layer.bias.size + rows * layer.out) / ops::kNormPiece + 3;
    if (layer.kind != LayerKind::affine) continue;
    const auto scratch = [&](const ops::Gemm<T>& g, ops::GemmPlan& plan, bool alone) {
      plan = ops::plan_gemm(g, alone);
      const ops::GemmScratch size = ops::gemm_scratch(g, plan);
      own_size_ = std::max(own_size_, (size.own + kColumns - 1) / kColumns * kColumns);
      return size.shared;
    };
    const bool pieces = by_rows_ && !node.together;
    const Index share = pieces ? (rows + members_ - 1) / members_ : rows;
    const Matrix<const T> x{nullptr, share, layer.in, layer.in, 1}, dy{nullptr, share, layer.out, layer.out, 1};
    const Matrix<const T> w{nullptr, layer.in, layer.out, layer.out, 1};
    ops::Gemm<T> g{};
    g.a = x;
    g.b = w;
    g.c = {nullptr, share, layer.out, layer.out, 1};
    g.bias = layer.bias.p;
    take(node.shared_forward, scratch(g, node.forward, pieces));
    if (!train_) continue;
    g.bias = nullptr;
    g.a = dy;
    g.b = w.transposed();
    g.c = {nullptr, share, layer.in, layer.in, 1};
    g.by_batch = !in_pieces_;
    take(node.shared_dx, scratch(g, node.for_dx, pieces));
    g = weight_gradient(node, nullptr, rows);
    if (in_pieces_)
      own_size_ = std::max(own_size_, (ops::tree_scratch(g, shape_.own()) + kColumns - 1) / kColumns * kColumns);
    else
      take(node.shared_dw, scratch(g, node.for_dw, false));
    if (layer.weight.iterations) {
      const ops::GemmScratch size = ops::muon_scratch<T>(layer.in, layer.out);
      own_size_ = std::max(own_size_, size.own);
      matrix = std::max(matrix, size.shared);
    }
  }
  take(matrix_, matrix);
  if (clip_) take(norms_, norms);
}

// What one thread takes, in nanoseconds.
template <class T>
double Plan<T>::estimate(Index rows, bool backward) const {
  double cost = cost::elements<T>(rows * outputs_, cost::kTranscendental) + cost::rows(rows);
  for (const Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    const Index numbers = rows * layer.out;
    if (layer.kind == LayerKind::affine) {
      const double product = cost::gemm<T>(rows, layer.out, layer.in);
      cost += std::max(product * (backward ? 2 + node.wants_dx : 1), cost::elements<T>(layer.weight.size, cost::kWeight));
      if (backward && layer.weight.iterations)
        cost += ops::muon_cost<T>(layer.in, layer.out, layer.weight.iterations);
      else if (backward)
        cost += cost::elements<T>(layer.weight.size, cost::kUpdate);
    } else if (layer.kind == LayerKind::dropout) {
      cost += cost::elements<T>(numbers, train_ ? cost::kRandom : cost::kMove);
    } else {
      cost += cost::elements<T>(numbers, backward ? 4 * cost::kMove : cost::kMove);
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
ops::Gemm<T> Plan<T>::forward_product(const Node& node, const T* x) const noexcept {
  const Layer<T>& layer = node.layer;
  ops::Gemm<T> g{};
  g.a = {x, rows_, layer.in, layer.in, 1};
  g.b = {layer.weight.p, layer.in, layer.out, layer.out, 1};
  g.c = {node.y, rows_, layer.out, layer.out, 1};
  g.bias = layer.bias.p;
  return g;
}
template <class T>
ops::Gemm<T> Plan<T>::input_gradient(const Node& node, T* dx, bool by_batch) const noexcept {
  const Layer<T>& layer = node.layer;
  ops::Gemm<T> g{};
  g.a = {node.dy, rows_, layer.out, layer.out, 1};
  g.b = Matrix<const T>{layer.weight.p, layer.in, layer.out, layer.out, 1}.transposed();
  g.c = {dx, rows_, layer.in, layer.in, 1};
  g.by_batch = by_batch;
  return g;
}

template <class T>
bool Plan<T>::takes_rows(const Op& op) const noexcept {
  if (op.act != Act::forward && op.act != Act::backward) return true;
  const Node& node = nodes_[op.node];
  if (node.layer.kind == LayerKind::batchnorm) return !train_;
  return node.layer.kind != LayerKind::affine || !node.together;
}
template <class T>
Index Plan<T>::row_cuts(const Team& team) const noexcept {
  if (team.size() == 1) return 1;
  const Index share = (rows_ + team.size() - 1) / team.size(), least = std::max(grain_, ops::tile_rows<T>());
  return ops::cuts_of(cost_ / 2 / row_phases_ / team.size(), (share + least - 1) / least);
}
// Each share of the rows is cut where its tiles are.
template <class T>
typename Plan<T>::Range Plan<T>::rows_of_piece(Index piece, Index shares, Index cuts) const noexcept {
  if (shares == 1) return {0, rows_};
  const Index units = (rows_ + grain_ - 1) / grain_, share = piece / cuts, part = piece % cuts, tile = ops::tile_rows<T>();
  const Index begin = units * share / shares, size = units * (share + 1) / shares - begin;
  const Index tiles = std::max(cuts, (size * grain_ + tile - 1) / tile);
  const auto at = [&](Index cut) { return to_block(std::min((begin + size * (tiles * cut / cuts) / tiles) * grain_, rows_)); };
  return {at(part), at(part + 1)};
}

template <class T>
Index Plan<T>::block_at(Index row) const noexcept {
  return std::lower_bound(blocks_.begin(), blocks_.end(), row) - blocks_.begin();
}

// Goes through the ops: as many as can be on pieces of rows, the others one by one.
template <class T>
void Plan<T>::walk(Team& team, const Pass& pass, std::size_t begin, std::size_t stop) noexcept {
  const std::vector<Op>& ops = ops_;
  for (std::size_t i = begin; i < stop;) {
    std::size_t end = i;
    while (by_rows_ && end < stop && takes_rows(ops[end])) ++end;
    if (end == i) {
      apply_together(team, ops[i++], pass);
      continue;
    }
    const Index cuts = row_cuts(team);
    team.phase(team.size() * cuts, [&](Member& member) {
      for (Index piece; (piece = member.next()) >= 0;) {
        const Range range = rows_of_piece(piece, team.size(), cuts);
        if (range.begin == range.end) continue;
        for (std::size_t op = i; op < end; ++op) {
          const Index width = nodes_[ops[op].node].layer.out;
          apply(ops[op], pass, range, {range.begin * width, range.end * width}, member.rank());
        }
      }
    });
    i = end;
  }
}

// Calls f(product, its plan, scratch that all share) for an affine layer's op, with the activation that is
// fused.
template <class T>
template <class F>
void Plan<T>::with_part(const Op& op, const Pass& pass, F&& f) noexcept {
  Node& node = nodes_[op.node];
  Part part{};
  if (op.act == Act::forward) {
    ops::Gemm<T> g = forward_product(node, input(node, pass.batch));
    if (op.node + 1 < nodes_.size() && nodes_[op.node + 1].forward_fused) {
      const Node& next = nodes_[op.node + 1];
      const bool sum = next.layer.kind == LayerKind::sum;
      part = {next.layer.activation, next.layer.alpha, node.layer.out, next.y, sum ? led_around(next, pass.batch) : nullptr};
      g.finish = sum ? Part::add : Part::forward;
      g.context = &part;
    }
    return f(g, node.forward, node.shared_forward);
  }
  ops::Gemm<T> g = input_gradient(node, dx_of(op.node), !pass.batch.tree);
  if (op.node > 0 && nodes_[op.node - 1].backward_fused) {
    const Node& before = nodes_[op.node - 1];
    part = {before.layer.activation, before.layer.alpha, node.layer.in, nullptr, saved(before, pass.batch)};
    g.finish = Part::backward;
    g.context = &part;
  }
  f(g, node.for_dx, node.shared_dx);
}

// An op that is not on pieces of rows: on columns, or on whatever the team makes of it.
template <class T>
void Plan<T>::apply_together(Team& team, const Op& op, const Pass& pass) noexcept {
  const Node& node = nodes_[op.node];
  const Layer<T>& layer = node.layer;
  if (op.act == Act::forward || op.act == Act::backward) {
    switch (layer.kind) {
      case LayerKind::affine:
        return with_part(op, pass, [&](const ops::Gemm<T>& g, const ops::GemmPlan& plan, T* shared) {
          ops::gemm(team, g, plan, shared, own_, own_size_);
        });
      case LayerKind::batchnorm:
        if (!pass.train) break;
        if (pass.batch.tree && op.act == Act::forward) return normalize_pieces(team, node, pass);
        if (pass.batch.tree) return pieces_gradient(team, node, pass, node.wants_dx ? node.dy : dx_of(op.node));
        return team.each(layer.out, kColumns, kColumnsEach, [&](Index begin, Index end) {
          const auto of = columns(node, input(node, pass.batch), begin, end);
          if (op.act == Act::forward)
            ops::normalize_by_batch(of, layer.weight.p, layer.bias.p, node.y);
          else
            ops::normalize_gradient(
                of, layer.weight.p, node.dy, pass.parameters && !layer.weight.frozen ? layer.weight.g : node.dgamma,
                pass.parameters && !layer.bias.frozen ? layer.bias.g : node.dbeta, node.wants_dx ? node.dy : dx_of(op.node));
        });
      case LayerKind::layernorm:
      case LayerKind::rmsnorm:
        return team.each(rows_, kNormRows, [&](Index begin, Index end) {
          if (const Range rows{to_block(begin), to_block(end)}; rows.begin < rows.end) apply(op, pass, rows, {0, 0}, 0);
        });
      case LayerKind::activation:
      case LayerKind::dropout:
      case LayerKind::residual:
      case LayerKind::sum:
        return team.each(rows_ * layer.out, kMaskGroup, kNumbersEach,
                         [&](Index begin, Index end) { apply(op, pass, {0, rows_}, {begin, end}, 0); });
      case LayerKind::embedding:
        break;
    }
  }
  const Index pieces = std::min<Index>(rows_, team.size());
  team.phase(pieces, [&](Member& member) {
    for (Index i; (i = member.next()) >= 0;)
      apply(op, pass, {rows_ * i / pieces, rows_ * (i + 1) / pieces}, {0, 0}, member.rank());
  });
}

template <class T>
void Plan<T>::apply(const Op& op, const Pass& pass, Range rows, Range numbers, int rank) noexcept {
  Node& node = nodes_[op.node];
  const Layer<T>& layer = node.layer;
  const T* x = input(node, pass.batch);
  const Index n = numbers.end - numbers.begin;
  const auto affine = [&] {
    with_part(op, pass, [&](const ops::Gemm<T>& g, const ops::GemmPlan& plan, T*) {
      ops::OwnRoom<T> own{own_ + own_size_ * rank};
      ops::gemm_rows(g, plan, rows.begin, rows.end, static_cast<T*>(nullptr), own);
    });
  };
  switch (op.act) {
    case Act::feed:
      if (pass.feed.rows) pass.feed.rows(pass.feed.context, rows.begin, rows.end);
      return;
    case Act::loss:
      return loss(pass, rows);
    case Act::output:
      std::memcpy(pass.out + rows.begin * outputs_, nodes_.back().y + rows.begin * outputs_,
                  static_cast<std::size_t>((rows.end - rows.begin) * outputs_) * sizeof(T));
      return;
    case Act::gradient:
      std::memcpy(node.dy + rows.begin * outputs_, pass.dout + rows.begin * outputs_,
                  static_cast<std::size_t>((rows.end - rows.begin) * outputs_) * sizeof(T));
      return;
    case Act::forward:
      switch (layer.kind) {
        case LayerKind::affine:
          return affine();
        case LayerKind::activation:
          return ops::activate(layer.activation, x + numbers.begin, node.y + numbers.begin, n, layer.alpha);
        case LayerKind::dropout:
          if (pass.train) {
            const RandomStream stream{layer.seed, layer.step + pass.step, layer.stream + (pass.batch.part << 16)};
            const Index first = first_row(pass.batch) * layer.out;
            ops::drop(stream, layer.ratio, dropout_scale(layer), first + numbers.begin, n, x + numbers.begin,
                      node.y + numbers.begin, node.keep, first);
          } else {
            const T factor = layer.inverted ? T(1) : static_cast<T>(1 - layer.ratio);
            if (x != node.y || factor != T(1)) ops::scale_run(x + numbers.begin, factor, n, node.y + numbers.begin);
          }
          return;
        case LayerKind::batchnorm:
          return ops::normalize_by_running(rows.end - rows.begin, layer.out, x + rows.begin * layer.out, layer.weight.p,
                                           layer.bias.p, layer.running_mean, layer.running_var, layer.eps,
                                           own_ + own_size_ * rank, node.y + rows.begin * layer.out);
        case LayerKind::layernorm:
        case LayerKind::rmsnorm:
          return ops::normalize_rows(rows_to_normalize(node, x, rows), layer.eps, layer.bias.p, node.y + rows.begin * layer.out);
        case LayerKind::embedding: {
          const Index at = rows.begin * layer.in;
          const Matrix<const T> table{layer.weight.p, layer.vocabulary, layer.dim, layer.dim, 1};
          return ops::copy_rows(table, pass.batch.indices + at, rows.end * layer.in - at, node.y + at * layer.dim, false);
        }
        case LayerKind::sum:
          return ops::add_run(led_around(node, pass.batch) + numbers.begin, x + numbers.begin, n, node.y + numbers.begin);
        case LayerKind::residual:
          return;
      }
      return;
    case Act::backward: {
      T* dy = node.dy + numbers.begin;
      switch (layer.kind) {
        case LayerKind::affine:
          return affine();
        case LayerKind::activation:
          return ops::activation_gradient(layer.activation, saved(node, pass.batch) + numbers.begin, dy, dy, n, layer.alpha);
        case LayerKind::dropout:
          return ops::drop_gradient(node.keep, first_row(pass.batch) * layer.out, dropout_scale(layer),
                                    first_row(pass.batch) * layer.out + numbers.begin, n, dy, dy);
        case LayerKind::layernorm:
        case LayerKind::rmsnorm:
          return rows_gradient(node, x, rows, node.wants_dx ? node.dy : dx_of(op.node));
        case LayerKind::sum:
          std::memcpy(nodes_[op.node - 1].dy + numbers.begin, dy, static_cast<std::size_t>(n) * sizeof(T));
          return;
        case LayerKind::residual:
          return ops::add_run(node.whole + numbers.begin, dy, n, dy);
        case LayerKind::batchnorm:
        case LayerKind::embedding:
          return;
      }
    }
  }
}

template <class T>
ops::NormColumns<T> Plan<T>::columns(const Node& node, const T* x, Index begin, Index end) const noexcept {
  return {rows_, begin, end, x, node.layer.out, node.mean, node.rstd, node.var, node.layer.eps};
}

template <class T>
RowNorm<T> Plan<T>::rows_to_normalize(const Node& node, const T* x, Range rows) const noexcept {
  const Layer<T>& layer = node.layer;
  return {rows.end - rows.begin,  layer.out,     x + rows.begin * layer.out, node.mean ? node.mean + rows.begin : nullptr,
          node.rstd + rows.begin, layer.weight.p};
}
// By blocks, so that their sums do not depend on who has which rows.
template <class T>
void Plan<T>::rows_gradient(const Node& node, const T* x, Range rows, T* dx) const noexcept {
  const Index cols = node.layer.out;
  for (auto i = static_cast<std::size_t>(block_at(rows.begin)); blocks_[i] < rows.end; ++i) {
    const Index begin = blocks_[i];
    T* sums = node.sums + static_cast<Index>(i) * 2 * cols;
    ops::normalize_rows_gradient(rows_to_normalize(node, x, {begin, blocks_[i + 1]}), node.dy + begin * cols, sums,
                                 node.mean ? sums + cols : nullptr, dx ? dx + begin * cols : nullptr);
  }
}

template <class T>
template <class F>
void Plan<T>::make_sums(Team& team, const Node& node, const Batch<T>& batch, F&& of_piece) noexcept {
  const Tree& tree = *batch.tree;
  const Index cols = node.layer.out;
  const T* x = input(node, batch);
  team.each(cols, kColumns, kColumnsEach, [&](Index begin, Index end) {
    for (Index p = tree.first(); p < tree.last(); ++p) {
      const Index row = tree.begin(p) - tree.begin(tree.first());
      ops::NormColumns<T> piece = columns(node, x + row * cols, begin, end);
      piece.rows = tree.begin(p + 1) - tree.begin(p);
      if (piece.rows) of_piece(piece, row, node.by_piece + p * 2 * cols);
    }
  });
  if (batch.exchange) batch.exchange->share(batch.exchange->context, node.by_piece, 2 * cols);
}

template <class T>
template <class F>
void Plan<T>::add_sums(const Node& node, const Tree& tree, Range columns, F&& merge) const noexcept {
  const Index cols = node.layer.out, begin = columns.begin, n = columns.end - begin;
  const auto room = [&](int i) { return node.rooms + i * 2 * cols + begin; };
  Index rows[64];  // that have gone into each room: a tree of more levels there is not
  ops::add_up(
      tree.all(),
      [&](const ops::Leaf& leaf, int to) {
        rows[to] = leaf.end - leaf.begin;
        for (Index part : {Index{0}, cols}) std::copy_n(node.by_piece + leaf.piece * 2 * cols + part + begin, n, room(to) + part);
      },
      [&](int left, int right) {
        merge(room(left), room(right), rows[left], rows[right]);
        rows[left] += rows[right];
      });
}

// Batch normalization of pieces, by the statistics of all of the batch's.
template <class T>
void Plan<T>::normalize_pieces(Team& team, const Node& node, const Pass& pass) noexcept {
  const Layer<T>& layer = node.layer;
  const Tree& tree = *pass.batch.tree;
  const Index cols = layer.out, all = tree.begin(tree.count());
  make_sums(team, node, pass.batch, [&](ops::NormColumns<T> piece, Index, T* to) {
    piece.mean = to;
    piece.var = to + cols;
    ops::moments(piece);
  });
  team.each(cols, kColumns, kColumnsEach, [&](Index begin, Index end) {
    add_sums(node, tree, {begin, end}, [&](T* left, const T* right, Index rows, Index others) {
      ops::merge_moments(rows, others, end - begin, left, left + cols, right, right + cols);
    });
    std::copy(node.rooms + begin, node.rooms + end, node.mean + begin);
    for (Index j = begin; j < end; ++j) node.var[j] = node.rooms[cols + j] / static_cast<T>(all);
    ops::normalize_by_moments(columns(node, input(node, pass.batch), begin, end), layer.weight.p, layer.bias.p, node.y);
  });
}

template <class T>
void Plan<T>::pieces_gradient(Team& team, const Node& node, const Pass& pass, T* dx) noexcept {
  const Layer<T>& layer = node.layer;
  const Tree& tree = *pass.batch.tree;
  const Index cols = layer.out, all = tree.begin(tree.count());
  make_sums(team, node, pass.batch, [&](const ops::NormColumns<T>& piece, Index row, T* to) {
    ops::normalize_gradient(piece, layer.weight.p, node.dy + row * cols, to, to + cols, static_cast<T*>(nullptr));
  });
  if (!dx) return;
  team.each(cols, kColumns, kColumnsEach, [&](Index begin, Index end) {
    add_sums(node, tree, {begin, end}, [&](T* left, const T* right, Index, Index) {
      for (Index part : {Index{0}, cols}) ops::add_run(left + part, right + part, end - begin, left + part);
    });
    ops::normalize_gradient_by_sums(columns(node, input(node, pass.batch), begin, end), all, layer.weight.p, node.rooms,
                                    node.rooms + cols, node.dy, dx);
  });
}

template <class T>
void Plan<T>::loss(const Pass& pass, Range rows) noexcept {
  const Batch<T>& batch = pass.batch;
  const LossRule& rule = pass.rule->loss;
  const Index n = outputs_, at = rows.begin * n, targets = rule.targets(n);
  const Node& last = nodes_.back();
  const ops::LossRows<T> r{rows.end - rows.begin,
                           n,
                           last.y + at,
                           batch.labels ? batch.labels + rows.begin : nullptr,
                           batch.dense ? batch.dense + rows.begin * targets : nullptr,
                           batch.weight ? batch.weight + rows.begin : nullptr,
                           pass.factor,
                           predictions_ + at,
                           last.dy + at,
                           losses_ + rows.begin,
                           factors_ + rows.begin,
                           targets,
                           loss_numbers_.data()};
  switch (rule.kind) {
    case Loss::softmax:
      return ops::softmax_rows(r);
    case Loss::sigmoid:
      return ops::sigmoid_rows(r);
    case Loss::squared:
      return ops::squared_rows(r);
    default:
      return ops::rows_by_kernel(static_cast<Dense>(static_cast<int>(rule.kind) - static_cast<int>(Loss::huber)), r);
  }
}

// Added up within each piece, where there are some.
template <class T>
double Plan<T>::divisor(const Batch<T>& batch, const Rule& rule) const noexcept {
  if (!batch.weight || rule.per_row) return static_cast<double>(rows_);
  const auto weight = [&](Index begin, Index end) { return std::accumulate(batch.weight + begin, batch.weight + end, 0.0); };
  if (!batch.tree) return weight(0, rows_);
  double sum = 0;
  for (const ops::Leaf& leaf : batch.tree->own()) sum += weight(leaf.begin, leaf.end);
  return sum;
}

template <class T>
double Plan<T>::total_loss(const Batch<T>& batch, Range rows, double divisor) const noexcept {
  double sum = 0;
  for (Index i = rows.begin; i < rows.end; ++i) sum += batch.weight ? batch.weight[i] * losses_[i] : losses_[i];
  return sum / divisor;
}

// What each member does of the gradients: products that are more than one phase are made at once.
template <class T>
void Plan<T>::plan_gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept {
  tasks_.clear();
  for (Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    if (layer.kind == LayerKind::affine && !layer.weight.frozen) {
      ops::Gemm<T> g = weight_gradient(node, input(node, batch), rows_);
      node.update = layer.weight.iterations ? nullptr : update;
      if (node.update) {
        g.context = &node;
        // (Fetching the weights and the optimizer's state while the tile of their gradient is computed changed nothing.)
        g.finish = [](const void* context, const ops::GemmPart<T>& part) {
          const Node& to = *static_cast<const Node*>(context);
          each_run(part, to.layer.out, [&](const T* c, Index i, Index n) { to.update->run(to.layer.weight, i, n, c); });
        };
      }
      if (batch.tree) {
        const ops::GemmCut cut = ops::cut_tree(g, batch.tree->own(), team.size());
        tasks_.push_back({Task::weight, &node, g, cut, cut.pieces() / team.size()});
        if (layer.bias.size) tasks_.push_back({Task::columns, &node, {}, {}, 1});
        continue;
      }
      const ops::GemmCut cut = ops::cut_gemm(g, node.for_dw, team.size());
      if (ops::is_one_phase(g, node.for_dw, cut)) {
        tasks_.push_back({Task::weight, &node, g, cut, cut.pieces() / team.size()});
      } else {
        ops::gemm(team, g, node.for_dw, node.shared_dw, own_, own_size_);
      }
    }
    if (layer.bias.size || normalizes_rows(layer.kind)) tasks_.push_back({Task::columns, &node, {}, {}, 1});
    if (layer.kind == LayerKind::embedding && !layer.weight.frozen) tasks_.push_back({Task::rows, &node, {}, {}, 1});
  }
}

// The gradients, and with an update what becomes of the parameters by them.
template <class T>
void Plan<T>::gradients(Team& team, const Batch<T>& batch, const Update* update) noexcept {
  if (nodes_.front().layer.kind == LayerKind::embedding && !nodes_.front().layer.weight.frozen)
    ops::occurrences_of(batch.indices, rows_ * nodes_.front().layer.in, occurrences_);
  plan_gradients(team, batch, update);
  Index share = 0;
  for (const Task& task : tasks_) share += task.pieces;
  const Index shares = team.size();
  team.phase(shares * share, [&](Member& member) {
    ops::OwnRoom<T> own{own_ + own_size_ * member.rank()};
    const Task* last = nullptr;
    for (Index i; (i = member.next()) >= 0;) {
      const Index mine = i / share;
      Index at = i % share;
      const Task* task = tasks_.data();
      while (at >= task->pieces) at -= task++->pieces;
      if (task != last) own.packed = nullptr;
      last = task;
      const Layer<T>& layer = task->node->layer;
      const auto cut = [&](Index n, Index grain) {
        if (shares == 1) return Range{0, n};
        const Index units = (n + grain - 1) / grain;
        return Range{units * mine / shares * grain, std::min(units * (mine + 1) / shares * grain, n)};
      };
      switch (task->kind) {
        case Task::weight:
          if (batch.tree) {
            ops::gemm_tree(task->product, batch.tree->own(), root_stride_, task->cut, mine * task->pieces + at, own.data);
            break;
          }
          ops::gemm_piece(task->product, task->node->for_dw, task->cut, mine * task->pieces + at, task->node->shared_dw, own);
          break;
        case Task::columns:
          columns_gradient(*task->node, batch, cut(layer.out, kColumns), update);
          break;
        case Task::rows:
          if (const Range rows = cut(static_cast<Index>(occurrences_.rows.size()), 1); rows.begin < rows.end) {
            ops::sum_rows(occurrences_, rows.begin, rows.end, task->node->dy, layer.dim, task->node->values, false);
            if (update) update_rows(*task->node, rows.begin, rows.end, *update);
          }
          break;
      }
    }
  });
}

// Some columns of what a layer has a number of each column of: a bias, or gamma and beta and the running statistics.
template <class T>
void Plan<T>::columns_gradient(const Node& node, const Batch<T>& batch, Range columns, const Update* update) const noexcept {
  const Layer<T>& layer = node.layer;
  const Index begin = columns.begin, n = columns.end - begin, cols = layer.out;
  if (n <= 0) return;
  // sum(first row, last row, piece, to)
  const auto add = [&](const Parameter<T>& p, auto&& sum) {
    if (!p.size || p.frozen) return;
    if (!batch.tree) return sum(Index{0}, rows_, Index{0}, p.g + begin);
    const auto room = [&](int i) { return node.rooms + i * cols + begin; };
    const ops::Leaves leaves = batch.tree->own();
    ops::add_up(
        leaves, [&](const ops::Leaf& leaf, int to) { sum(leaf.begin, leaf.end, leaf.piece, room(to)); },
        [&](int left, int right) { ops::add_run(room(left), room(right), n, room(left)); });
    for (int root = 0; root < leaves.roots; ++root) std::copy_n(room(root), n, p.g + root * root_stride_ + begin);
  };
  if (layer.kind == LayerKind::affine)
    add(layer.bias, [&](Index first, Index last, Index, T* to) {
      ops::sum_columns(node.dy + first * cols + begin, cols, last - first, n, to);
    });
  if (normalizes_rows(layer.kind)) {
    const auto sums = [&](const T* of) {
      return [this, of, begin, n, cols](Index first, Index last, Index, T* to) {
        const Index block = block_at(first);
        ops::sum_columns(of + block * 2 * cols + begin, 2 * cols, block_at(last) - block, n, to);
      };
    };
    add(layer.weight, sums(node.sums));
    add(layer.bias, sums(node.sums + cols));
  }
  if (layer.kind == LayerKind::batchnorm && batch.tree) {  // its backward pass has made those of pieces, or all
    const auto of_piece = [&](const T* of) {
      return [of, begin, n, cols](Index, Index, Index piece, T* to) { std::copy_n(of + piece * 2 * cols + begin, n, to); };
    };
    add(layer.weight, of_piece(node.by_piece));
    add(layer.bias, of_piece(node.by_piece + cols));
  }
  if (!update) return;
  if (layer.kind == LayerKind::batchnorm) update_statistics(node, begin, columns.end);
  if (layer.bias.size && !layer.bias.frozen) update->run(layer.bias, begin, n, layer.bias.g + begin);
  if (layer.kind != LayerKind::affine && !layer.weight.frozen) update->run(layer.weight, begin, n, layer.weight.g + begin);
}

// The running statistics of some columns.
template <class T>
void Plan<T>::update_statistics(const Node& node, Index begin, Index end) const noexcept {
  const Layer<T>& layer = node.layer;
  update_running(node, begin, end);
  if (!layer.average_mean) return;
  blend(layer.running_mean + begin, layer.average_mean + begin, end - begin);
  blend(layer.running_var + begin, layer.average_var + begin, end - begin);
}

template <class T>
void Plan<T>::update_running(const Node& node, Index begin, Index end) const noexcept {
  const Layer<T>& layer = node.layer;
  ops::update_running(columns(node, nullptr, begin, end), layer.momentum, layer.running_mean, layer.running_var);
}

template <class T>
void Plan<T>::blend(const T* now, T* average, Index n) const noexcept {
  ops::blend_run(now, average_share_, average_rest_, n, average);
}

// Rows of an embedding's table, by the distinct indices that have occurred.
template <class T>
void Plan<T>::update_rows(const Node& node, Index begin, Index end, const Update& update) const noexcept {
  const Index dim = node.layer.dim;
  for (Index r = begin; r < end; ++r)
    update.step(node.layer.weight, occurrences_.rows[static_cast<std::size_t>(r)] * dim, dim, node.values + r * dim);
}

// Calls f(the parameter, its gradient, its size) for every dense parameter and, with the values of its rows, an embedding's.
template <class T>
template <class F>
void Plan<T>::each_gradient(F&& f) const {
  for (const Node& node : nodes_) {
    const Layer<T>& layer = node.layer;
    if (layer.kind == LayerKind::embedding && !layer.weight.frozen)
      f(node, layer.weight, node.values, static_cast<Index>(occurrences_.rows.size()) * layer.dim);
    else if (layer.weight.size && !layer.weight.frozen)
      f(node, layer.weight, layer.weight.g, layer.weight.size);
    if (layer.bias.size && !layer.bias.frozen) f(node, layer.bias, layer.bias.g, layer.bias.size);
  }
}

// Scales all gradients to the rule's norm where theirs is larger, and updates; returns whether it has.
template <class T>
bool Plan<T>::clip_and_update(Team& team, const Rule& rule, const Update& update) noexcept {
  const auto each_piece = [&](auto&& f) {
    Index piece = 0;
    each_gradient([&](const Node&, const Parameter<T>&, const T* g, Index size) {
      for (Index at = 0; at < size; at += ops::kNormPiece, ++piece) f(piece, g + at, std::min(ops::kNormPiece, size - at));
    });
    return piece;
  };
  const Index pieces = each_piece([](Index, const T*, Index) {});
  team.each(pieces, 1, [&](Index begin, Index end) {
    each_piece([&](Index piece, const T* g, Index n) {
      if (begin <= piece && piece < end) norms_[piece] = ops::squares(g, n);
    });
  });
  double sum = 0;
  for (Index piece = 0; piece < pieces; ++piece) sum += norms_[piece];
  const double norm = std::sqrt(sum);
  if (rule.stop_at_nonfinite && !(std::isfinite(norm) && std::min(norm, rule.clip_norm) <= rule.largest_norm)) return false;
  const T factor = norm > rule.clip_norm ? static_cast<T>(rule.clip_norm / norm) : T(1);
  update_statistics();
  each_gradient([&](const Node& node, const Parameter<T>& to, T* g, Index size) {
    const bool rows = node.layer.kind == LayerKind::embedding;
    team.each(rows ? size / node.layer.dim : size, rows ? 1 : kMaskGroup, rows ? 1 : kNumbersEach, [&](Index begin, Index end) {
      const Index each = rows ? node.layer.dim : 1;
      if (factor != T(1)) ops::scale_run(g + begin * each, factor, (end - begin) * each, g + begin * each);
      if (rows)
        update_rows(node, begin, end, update);
      else if (!to.iterations)
        update.run(to, begin, end - begin, g + begin);
    });
  });
  return true;
}

// Whether the batch's variances are such that running ones can take them in.
template <class T>
bool Plan<T>::finite_statistics() const noexcept {
  bool finite = true;
  for (const Node& node : nodes_)
    if (node.layer.kind == LayerKind::batchnorm)
      for (Index j = 0; j < node.layer.out; ++j) finite &= node.var[j] <= std::numeric_limits<T>::max();
  return finite;
}

// Forward, loss and back; returns the loss.
template <class T>
double Plan<T>::pass(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed, double divisor) noexcept {
  double factor = 1 / divisor;
  const Loss loss = rule.loss.kind;
  if (loss != Loss::softmax)
    factor *= (loss == Loss::squared ? 2.0 : 1.0) / static_cast<double>(loss == Loss::gaussian ? outputs_ / 2 : outputs_);
  loss_numbers_.assign(1, T(0));  // softmax's smoothing
  for (std::size_t i = 0; !rule.loss.numbers.empty() && i < static_cast<std::size_t>(outputs_); ++i) {
    loss_numbers_.resize(i + 1);
    loss_numbers_[i] = static_cast<T>(rule.loss.numbers[i % rule.loss.numbers.size()]);
  }
  walk(team, {batch, feed, true, rule.step, &rule, factor, nullptr, nullptr, true}, 0, ops_.size());
  if (!batch.tree) return total_loss(batch, {0, rows_}, divisor);
  double sum = 0;
  for (const ops::Leaf& leaf : batch.tree->own()) sum += total_loss(batch, {leaf.begin, leaf.end}, divisor);
  return sum;
}

template <class T>
typename Plan<T>::Outcome Plan<T>::step(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed) noexcept {
  const double value = pass(team, batch, rule, feed, divisor(batch, rule));
  if (rule.stop_at_nonfinite && !(value <= rule.largest_loss)) return {value, false};
  return {value, update(team, batch, rule)};
}

template <class T>
typename Plan<T>::Outcome Plan<T>::step_part(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed,
                                             const Share& share) noexcept {
  const double value = pass(team, batch, rule, feed, share.divisor);
  if (rule.stop_at_nonfinite && !(value <= rule.largest_loss && finite_statistics())) return {value, false};
  gradients(team, batch, nullptr);
  T* sums = share.sums;
  each_gradient([&](const Node&, const Parameter<T>&, T* g, Index size) {
    team.each(size, kMaskGroup, kNumbersEach, [&](Index begin, Index end) {
      T* const to = (share.last ? g : sums) + begin;
      if (share.first)
        std::memcpy(to, g + begin, static_cast<std::size_t>(end - begin) * sizeof(T));
      else
        ops::add_run(sums + begin, g + begin, end - begin, to);
    });
    sums += size;
  });
  if (share.last) {
    if (!clip_and_update(team, rule, prepare_update(rule))) return {value, false};
    update_matrices(team, rule);
    return {value, true};
  }
  for (const Node& node : nodes_)
    if (node.layer.kind == LayerKind::batchnorm) update_running(node, 0, node.layer.out);
  return {value, true};
}

template <class T>
Index Plan<T>::trained() const noexcept {
  Index count = 0;
  each_gradient([&](const Node&, const Parameter<T>&, const T*, Index size) { count += size; });
  return count;
}

template <class T>
bool Plan<T>::pieces(Team& team, const Batch<T>& batch, const Rule& rule, const Feed& feed, double divisor, double* losses,
                     T* to) noexcept {
  const double value = pass(team, batch, rule, feed, divisor);
  for (const ops::Leaf& leaf : batch.tree->own()) *losses++ = total_loss(batch, {leaf.begin, leaf.end}, divisor);
  if (rule.stop_at_nonfinite && !(value <= rule.largest_loss)) return false;
  if (batch.tree->own().count == 0) return true;
  const auto each_gradient_of = [&](auto&& f) {
    for (Node& node : nodes_)
      for (Parameter<T>* p : {&node.layer.weight, &node.layer.bias})
        if (p->size && !p->frozen) f(*p);
  };
  own_gradients_.clear();
  each_gradient_of([&](Parameter<T>& p) {
    own_gradients_.push_back(p.g);
    p.g = to;
    to += p.size;
  });
  root_stride_ = trained();
  gradients(team, batch, nullptr);
  std::size_t i = 0;
  each_gradient_of([&](Parameter<T>& p) { p.g = own_gradients_[i++]; });
  return true;
}

template <class T>
typename Plan<T>::Update Plan<T>::prepare_update(const Rule& rule) noexcept {
  steps_.assign(1, ops::optimizer_step<T>(rule.update));
  for (const ops::Factors& factors : rule.factors) steps_.push_back(ops::optimizer_step<T>(ops::with(rule.update, factors)));
  average_share_ = static_cast<T>(rule.average);
  average_rest_ = static_cast<T>(1 - rule.average);
  return {rule.update.kind, steps_.data(), *this};
}

// Those that are updated as a whole, when their gradients are there.
template <class T>
void Plan<T>::update_matrices(Team& team, const Rule& rule) noexcept {
  for (const Node& node : nodes_) {
    const Parameter<T>& w = node.layer.weight;
    if (!w.iterations) continue;
    const ops::Factors factors = w.factors ? rule.factors[w.factors - 1] : ops::Factors{};
    ops::muon_update(team, ops::with(rule.update, factors), {w.p, w.g, w.s1, node.layer.in, node.layer.out, w.iterations},
                     matrix_, own_, own_size_);
    if (w.average)
      team.each(w.size, kMaskGroup, kNumbersEach,
                [&](Index begin, Index end) { blend(w.p + begin, w.average + begin, end - begin); });
  }
}

// The second half of a step, when the gradients of all outputs are there.
template <class T>
bool Plan<T>::update(Team& team, const Batch<T>& batch, const Rule& rule) noexcept {
  if (rule.stop_at_nonfinite && !finite_statistics()) return false;
  const Update update = prepare_update(rule);
  gradients(team, batch, clip_ ? nullptr : &update);
  if (clip_ && !clip_and_update(team, rule, update)) return false;
  update_matrices(team, rule);
  const Parameter<T>& first = nodes_.front().layer.weight;
  if (nodes_.front().layer.kind == LayerKind::embedding && first.average)  // of all rows, as all come nearer to what they are
    team.each(first.size, kMaskGroup, kNumbersEach,
              [&](Index begin, Index end) { blend(first.p + begin, first.average + begin, end - begin); });
  return true;
}

template <class T>
void Plan<T>::forward(Team& team, const Batch<T>& batch, uint64_t step, const Feed& feed, T* out) noexcept {
  walk(team, {batch, feed, true, step, nullptr, 0, out, nullptr, true}, 0, turn_);
}

template <class T>
void Plan<T>::update_statistics() noexcept {
  for (const Node& node : nodes_)
    if (node.layer.kind == LayerKind::batchnorm) update_statistics(node, 0, node.layer.out);
}

template <class T>
void Plan<T>::backward(Team& team, const Batch<T>& batch, const T* dout, bool parameters, T* dx) noexcept {
  dx_ = dx;
  T* const last = nodes_.front().dy;  // where it would end before the first parameters
  for (std::size_t i = 0; dx && i < first_; ++i)
    if (nodes_[i].dy == last) nodes_[i].dy = dx;
  walk(team, {batch, {}, true, 0, nullptr, 0, nullptr, dout, parameters}, turn_, dx ? ops_.size() : needed_);
  dx_ = nullptr;
  if (parameters) gradients(team, batch, nullptr);
}

template <class T>
bool Plan<T>::finish(Team& team, const Batch<T>& batch, const T* dout, const Rule& rule) noexcept {
  walk(team, {batch, {}, true, 0, nullptr, 0, nullptr, dout, true}, turn_, needed_);
  return update(team, batch, rule);
}

template <class T>
void Plan<T>::infer(Team& team, const Batch<T>& batch, const Feed& feed, T* out) noexcept {
  walk(team, {batch, feed, false, 0, nullptr, 0, out, nullptr, false}, 0, ops_.size());
}

template class Plan<float>;
template class Plan<double>;

}  // namespace fastnn::network
