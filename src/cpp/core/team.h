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

// How many threads are to do some work.
struct Crew {
  int members;
  double nanoseconds;  // that one thread needs, by the model; 0 where the work itself tells, by Team::did()
  bool given_up;       // there would be more, but teams do not pay at the moment
};
// How many pay off now: a model of the costs, the limits, whether workers are awake, and what teams have brought of late. Results
// do not depend on it.
Crew crew_for(double nanoseconds) noexcept;

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

  // Says that work of so many nanoseconds, by the model, is done; false where another crew may do better now: the call should
  // end.
  bool did(double nanoseconds) noexcept;

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
    if (!desk_) return f(Index{0}, n);
    const Index units = (n + grain - 1) / grain, share = units / size_ * grain;
    const Index each = share / (least > grain ? least : grain);
    const Index pieces = size_ * (each < 1 ? 1 : each > kPieces ? kPieces : each);
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
  friend void run_team(const Crew&, void (*)(Team&, void*), void*) noexcept;
  Team(team::Desk* desk, int size, bool given_up) noexcept : desk_(desk), size_(desk ? size : 1), given_up_(given_up) {}
  static constexpr Index kPieces = 4;  // of a share
  void run(Index pieces, void (*work)(Member&, void*), void* context) noexcept;

  team::Desk* desk_;  // null for a team of one
  int size_;
  bool given_up_;
  uint64_t since_ = 0;  // ticks; when began what did() has not been told of
  double told_ = 0;
};

// Opens a team for work(team), subnormals flushed on each thread. The work must not throw.
void run_team(const Crew& crew, void (*work)(Team&, void*), void* context) noexcept;

template <class F>
void run_team(const Crew& crew, F&& work) noexcept {
  run_team(crew, [](Team& team, void* context) { (*static_cast<std::remove_reference_t<F>*>(context))(team); }, &work);
}

// The least work, in nanoseconds, that is worth a thread of its own. Zero makes every op use all threads that are asked for,
// however many processors there are, and wait until they have come (the tests do); a negative number leaves it to the model.
void set_work_per_member(double nanoseconds) noexcept;

// How many forks lie between this process and the one that loaded fastnn.
int fork_generation() noexcept;

}  // namespace fastnn
