#pragma once
// A team of threads that does one piece of work together. An op is written as what one member does: it asks for its share of the
// output and meets the others at barriers. A team of one costs a function call.
#include <atomic>

#include "core/types.h"

namespace fastnn {

// Meets all members, any number of times. Spins, and gives the core away once it has spun long enough to be in the way.
class Barrier {
 public:
  void wait(int members) noexcept;

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> phase_{0};
};

class Team {
 public:
  Team(int rank, int size, Barrier* barrier) noexcept : rank(rank), size(size), barrier_(barrier) {}
  const int rank, size;

  void barrier() noexcept {
    if (size > 1) barrier_->wait(size);
  }

  // Calls f(begin, end) for this member's share of [0, n), cut at multiples of grain; not at all if the share is empty.
  template <class F>
  void share(Index n, Index grain, F&& f) const {
    const Index pieces = (n + grain - 1) / grain;
    const Index begin = pieces * rank / size * grain, end = pieces * (rank + 1) / size * grain;
    if (begin < end) f(begin, end < n ? end : n);
  }

 private:
  Barrier* barrier_;
};

// Runs work(team) on each of at most `members` threads, subnormals flushed, and returns when all have. The work must not throw.
void run_team(int members, void (*work)(Team&, void*), void* context) noexcept;

template <class F>
void run_team(int members, F&& work) noexcept {
  run_team(members, [](Team& team, void* context) { (*static_cast<F*>(context))(team); }, &work);
}

// The cost model: how many members pay off now for work that takes one thread `nanoseconds`. It depends on whether the threads of
// the last team are still awake, which results do not.
int members_for(double nanoseconds) noexcept;

// The least work, in nanoseconds, that is worth a thread of its own; zero makes every op use all threads (the tests do), a
// negative number leaves it to the cost model.
void set_work_per_member(double nanoseconds) noexcept;

// How many forks lie between this process and the one that loaded fastnn.
int fork_generation() noexcept;

// Threads an op may use: the calling thread's own limit, or else the process's.
int thread_limit() noexcept;
void set_thread_limit(int n) noexcept;     // of the process
int thread_override() noexcept;            // of the calling thread; 0 where none is set
void set_thread_override(int n) noexcept;  // 0 clears it
int max_threads() noexcept;                // the largest number that may be asked for

}  // namespace fastnn
