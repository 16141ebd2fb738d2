#pragma once
// What a step of training works on, as its owners say at the moment: layers with their parameters, a loss, an optimizer's rule.
// Nothing here owns memory.
#include <vector>

#include "network/tree.h"
#include "ops/optimizers.h"
#include "ops/parts.h"

namespace fastnn::network {

// A parameter with its gradient and the optimizer's state for it.
template <class T>
struct Parameter {
  T* p;
  T* g;        // null: no gradient is kept
  T *s1, *s2;  // null where the optimizer has no such state
  Index size;
  T* average;        // of itself, over the steps; or null
  uint32_t factors;  // which of the rule's are its own, from 1 on; 0: none
  bool frozen;       // it stays as it is, and its gradient is nobody's
  int iterations;    // of Muon, which updates an affine layer's weight as a whole; 0: by parts. Its gradient is kept
};

// A residual block begins where its input is kept, and ends where that is added: with `sum`.
enum class LayerKind { affine, batchnorm, activation, dropout, embedding, layernorm, rmsnorm, residual, sum };
constexpr const char* kLayerNames[] = {"affine",    "batchnorm", "activation", "dropout", "embedding",
                                       "layernorm", "rmsnorm",   "residual",   "sum"};
constexpr bool normalizes_rows(LayerKind kind) { return kind == LayerKind::layernorm || kind == LayerKind::rmsnorm; }

// Every layer maps rows of `in` numbers to rows of `out`; an embedding's are `in` indices.
template <class T>
struct Layer {
  LayerKind kind;
  Index in, out;
  bool keeps_gradients;
  Parameter<T> weight, bias;  // of an affine layer; gamma and, but for RMSNorm, beta; the table alone
  Activation activation;
  T alpha;
  T *running_mean, *running_var;  // of batch normalization
  T *average_mean, *average_var;  // of these; or null
  double momentum;
  T eps;
  double ratio;  // of dropout
  bool inverted;
  uint64_t seed, step;  // of dropout: its stream's, and what its counter adds to the trainer's
  uint32_t stream;
  Index vocabulary, dim;  // of an embedding's table

  bool learns() const noexcept { return (weight.size && !weight.frozen) || (bias.size && !bias.frozen); }
};

enum class Loss { softmax, sigmoid, squared, huber, absolute, quantile, poisson, gaussian };  // from Huber's on as Dense has them
constexpr const char* kLossNames[] = {"softmax", "sigmoid", "squared", "huber", "absolute", "quantile", "poisson", "gaussian"};

// A loss and the numbers that it is made with: softmax's smoothing, Huber's delta, the quantiles.
struct LossRule {
  Loss kind;
  std::vector<double> numbers;
  // How many targets a row has for so many outputs; 0 where these are not right.
  Index targets(Index outputs) const {
    const Index each = kind == Loss::gaussian ? 2 : kind == Loss::quantile ? static_cast<Index>(numbers.size()) : 1;
    return outputs % each == 0 ? outputs / each : 0;
  }
};

// How processes that have pieces of one batch tell each other what each piece comes to: of `by_piece`, a row of `width` numbers
// for each piece of the batch, those at hand are filled in when it is called, and all when it returns.
template <class T>
struct Exchange {
  void (*share)(void* context, T* by_piece, Index width);
  void* context;
};

// One batch. Labels are numbers of classes, or rows of as many numbers as the loss has targets where `labels` is null.
template <class T>
struct Batch {
  Index rows;
  const T* x;              // contiguous rows, or null for a network that begins with an embedding
  const int64_t* indices;  // its rows then
  const int64_t* labels;
  const T* dense;
  const double* weight;  // one a row, or null
  uint32_t part;         // its number among those whose gradients are added up
  // What all rows come to is added up along this tree, or row after row where it is null. Of the pieces that it is made of others
  // may have some: then there is an exchange.
  const Tree* tree;
  const Exchange<T>* exchange;
};

// What a step does beside its network: rates change from step to step.
struct Rule {
  LossRule loss;
  ops::UpdateRule update;
  std::vector<ops::Factors> factors;  // that parameters have of their own
  double average;                     // the share of the new in the averages
  double clip_norm;                   // infinity: none
  bool stop_at_nonfinite;
  bool per_row;  // the loss is the sum of the rows' weighted losses over their number, not over the sum of their weights
  // What is larger stops a step likewise: a gradient might be so large that the optimizer's memory of its square is infinite.
  double largest_loss, largest_norm;
  uint64_t step;  // the number of the step in the trainer's life: dropout's counter
};

}  // namespace fastnn::network
