#pragma once
// A team of threads that does one piece of work together, a phase at a time. A phase is cut into pieces, which the members claim
// one by one: each those of its own share first, then what the others have not begun. Nobody waits for a thread that the system
// does not run, unless it has begun a piece. Only the calling thread goes from phase to phase; a team of one costs a function
// call.
#include <type_traits>

#include "core/types.h"

namespace fastnn {

namespace team {
struct Desk;
}

// One who works on a phase.
class Member {
 public:
  int rank() const noexcept { return rank_; }  // below the team's size; at one time one thread's: of scratch of its own

  // The next piece to be done by this member, or -1.
  Index next() noexcept {
    if (desk_) return claim();
    return first_ < pieces_ ? first_++ : -1;
  }

 private:
  friend class Team;
  friend struct team::Desk;
  explicit Member(Index pieces) noexcept : pieces_(pieces), first_(0) {}
  Member(team::Desk* desk, int rank, int size, Index pieces, uint64_t phase) noexcept
      : desk_(desk), rank_(rank), size_(size), victim_(rank), pieces_(pieces), phase_(phase) {}
  Index claim() noexcept;

  team::Desk* desk_ = nullptr;
  int rank_ = 0, size_ = 1;
  int victim_ = 0;  // whose share is looked at
  Index pieces_;
  Index first_ = -1;  // claimed before the work began; of a team of one, the next piece
  Index done_ = 0;
  uint64_t phase_ = 0;
};

class Team {
 public:
  int size() const noexcept { return size_; }

  // Calls f(Member&) on every thread that comes in time, at least on this one, and returns when all pieces are done; f asks for
  // pieces until there are none. Member r's share is [pieces*r/size, pieces*(r+1)/size).
  template <class F>
  void phase(Index pieces, F&& f) noexcept {
    if (!desk_ || pieces < 2) {
      Member alone(pieces);
      return f(alone);
    }
    run(pieces, [](Member& member, void* context) { (*static_cast<std::remove_reference_t<F>*>(context))(member); }, &f);
  }

  // Calls f(begin, end) for pieces of [0, n), cut at multiples of grain, of at least `least` where there are so many.
  template <class F>
  void each(Index n, Index grain, Index least, F&& f) noexcept {
    if (n <= 0) return;
    const Index units = (n + grain - 1) / grain, share = units / size_ * grain;
    const Index each = share / (least > grain ? least : grain);
    const Index pieces = size_ * (each < 1 ? 1 : each > kPieces ? kPieces : each);
    if (!desk_) return f(Index{0}, n);
    phase(pieces, [&](Member& member) {
      for (Index i; (i = member.next()) >= 0;) {
        const Index begin = units * i / pieces * grain, end = units * (i + 1) / pieces * grain;
        if (begin < end) f(begin, end < n ? end : n);
      }
    });
  }
  template <class F>
  void each(Index n, Index grain, F&& f) noexcept {
    each(n, grain, grain, f);
  }

 private:
  friend void run_team(int, void (*)(Team&, void*), void*) noexcept;
  Team(team::Desk* desk, int size) noexcept : desk_(desk), size_(size) {}
  static constexpr Index kPieces = 4;  // of a share
  void run(Index pieces, void (*work)(Member&, void*), void* context) noexcept;

  team::Desk* desk_;  // null for a team of one
  int size_;
  uint64_t saved_ = 0;  // ticks, by the team, as against one thread; modulo 2^64
};

// Opens a team of at most `members` threads for work(team), subnormals flushed on each. The work must not throw.
void run_team(int members, void (*work)(Team&, void*), void* context) noexcept;

template <class F>
void run_team(int members, F&& work) noexcept {
  run_team(members, [](Team& team, void* context) { (*static_cast<std::remove_reference_t<F>*>(context))(team); }, &work);
}

// How many members pay off now for work that takes one thread `nanoseconds`: a model of the costs, the limits, whether workers
// are awake, and what teams have brought of late. Results do not depend on it.
int members_for(double nanoseconds) noexcept;

// The least work, in nanoseconds, that is worth a thread of its own. Zero makes every op use all threads that are asked for,
// however many processors there are, and wait until they have come (the tests do); a negative number leaves it to the model.
void set_work_per_member(double nanoseconds) noexcept;

// How many forks lie between this process and the one that loaded fastnn.
int fork_generation() noexcept;

}  // namespace fastnn
