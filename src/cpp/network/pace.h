#pragma once
// Whether a team is worth it at the moment: a model cannot know what else the machine is doing. Results do not depend on it.
#include "core/types.h"

namespace fastnn::network {

class Pace {
 public:
  Pace() = default;

  // Whether one thread should do the next run of steps of batches of `rows`, which the model, that takes one thread to need
  // `model` nanoseconds a step, would give to a team.
  bool one_is_better(Index rows, double model) noexcept {
    if (rows != rows_ && ++others_ > kOthers) *this = Pace(rows);
    if (many_ == 0) return false;
    if (one_ == 0) return many_ > kSuspect * model;
    if (many_ <= one_) {
      patience_ = 1;
      return false;
    }
    if (++alone_ < patience_) return true;
    alone_ = 0;
    if (patience_ < kPatience) patience_ *= 2;
    return false;
  }

  // What a run took, in nanoseconds a step.
  void took(Index rows, bool one, double nanoseconds) noexcept {
    if (rows_ < 0) rows_ = rows;
    if (rows != rows_) return;
    others_ = 0;
    if (cold_ > 0) {
      --cold_;
      return;
    }
    double& mean = one ? one_ : many_;
    mean = mean == 0 || nanoseconds < mean ? nanoseconds : mean + kWeight * (nanoseconds - mean);
  }

 private:
  // A team that is not clearly faster than the model's one thread is compared with a real one.
  static constexpr double kSuspect = 0.8;
  static constexpr double kWeight = 0.1;  // of a run that was slower than those before; a faster one is believed at once
  static constexpr int kPatience = 64;    // runs on one thread, at most, after which the team gets another chance
  static constexpr int kOthers = 16;      // runs of another size, after which that size is the one to judge by

  explicit Pace(Index rows) noexcept : rows_(rows) {}

  Index rows_ = -1;
  int others_ = 0, alone_ = 0, patience_ = 1;
  int cold_ = 2;  // runs that say nothing: memory is touched for the first time
  double one_ = 0, many_ = 0;
};

}  // namespace fastnn::network
