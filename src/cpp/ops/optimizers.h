#pragma once
// The update of any number of parameter arrays in one call.
#include <vector>

#include "core/team.h"
#include "kernels/table.h"

namespace fastnn::ops {

// Muon's, of the matrices that it updates as a whole. The rate of the others is its rate times `others`.
struct MuonRule {
  double momentum, others;
  bool nesterov;
};
constexpr int kMostIterations = 100;

struct UpdateRule {
  Optimizer kind;
  double lr, weight_decay, beta1, beta2, eps;
  int64_t step;          // 1 for the first update: Adam's t
  bool* lost = nullptr;  // set where an element is left as it was, since its gradient's square is infinite; or null
  MuonRule muon{};
};

// Of the rate and of weight decay, for one parameter.
struct Factors {
  double lr = 1, decay = 1;
  bool none() const noexcept { return lr == 1 && decay == 1; }
};
UpdateRule with(UpdateRule rule, const Factors& factors) noexcept;

// One array, or for a row-sparse gradient the rows named of it: then p, s1, s2 are whole tables of rows of `dim` numbers,
// g holds the `size/dim` rows that have a gradient, and `rows` says which they are (distinct).
template <class T>
struct Update {
  T* p;
  const T* g;
  T *s1, *s2;  // null where the optimizer has no such state
  Index size;
  const int64_t* rows;  // null for a dense gradient
  Index dim;
  Factors factors;
  int iterations;  // of Muon, which updates a matrix of rows of `dim` numbers as a whole; 0: element by element
};

// The numbers of a rule as the kernels take them.
template <class T>
OptimizerStep<T> optimizer_step(const UpdateRule& rule) noexcept;

// The L2 norm of all gradients together, finite wherever it can be, in an order that only their sizes set.
double gradient_norm(const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64);
// Scales all of them, which must be writeable then.
void scale_gradients(double factor, const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64);
// y = share*x + (1 - share)*y for each pair of arrays.
template <class T>
struct Pair {
  const T* x;
  T* y;
  Index size;
};
template <class T>
void blend(const std::vector<Pair<T>>& pairs, double share);

// What an update needs beside its arrays, in memory that the thread keeps for its next call. Throws std::bad_alloc.
struct UpdateRoom {
  Crew crew;
  void* scratch;
};
UpdateRoom room_for(const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64);
void update(const UpdateRule& rule, const std::vector<Update<float>>& f32, const std::vector<Update<double>>& f64,
            const UpdateRoom& room);

}  // namespace fastnn::ops
