#pragma once
// Where a team meets: the calling thread lays out a phase of its work, and workers take pieces of it. A desk outlives the calls,
// so that a worker which the system lets run long after finds the phase over and has touched nothing of the caller's.
#include <atomic>

#include "core/memory.h"
#include "core/system.h"
#include "core/team.h"

namespace fastnn::team {

constexpr int kIndexBits = 24;
constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;

// The next piece of a member's share, behind the number of the phase: who claims it by compare-and-swap knows that the phase is
// open.
struct alignas(kLine) Cursor {
  std::atomic<uint64_t> next{0};
};

struct alignas(kLine) Seat {
  std::atomic<uint64_t> job{0};   // whose it is: free where that is not the desk's
  std::atomic<uint64_t> busy{0};  // the phase of which pieces may be in hand
  std::atomic<system::Thread> thread{0};
  std::atomic<int> processor{-1};
};

struct Desk {
  static constexpr uint64_t kWriting = ~uint64_t{0};

  alignas(kLine) std::atomic<uint64_t> phase{0};  // that is open, or was last; kWriting while the rest is being written
  std::atomic<uint64_t> job{0};                   // odd while a call has the desk
  std::atomic<void (*)(Member&, void*)> work{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<Index> pieces{0};
  std::atomic<int> members{0};                // among whom the pieces are shared
  std::atomic<int> processor{-1};             // of the calling thread
  std::atomic<int> size{0};                   // of the team of the call that has the desk, which may not have begun a phase
  alignas(kLine) std::atomic<Index> done{0};  // pieces of this phase, by workers
  alignas(kLine) std::atomic<bool> taken{false};
  std::atomic<uint64_t> allowed[system::ProcessorSet::kWords]{};  // processors, a bit each
  int number = 0;                                                 // of the desk
  uint64_t last_phase = 0, last_wake = 0;                         // the caller's own
  Cursor* cursors = nullptr;                                      // one a member
  Seat* seats = nullptr;                                          // likewise; the calling thread's, the first, is not used

  // A worker's part of a phase; returns how many pieces it has done.
  Index serve(int rank, int members, Index count, uint64_t number, void (*f)(Member&, void*), void* with) noexcept {
    Member member(this, rank, members, count, number);
    member.first_ = member.claim();
    if (member.first_ < 0) return 0;
    f(member, with);
    return member.done_;
  }
};

// Gives a desk for a team of `size`, and sees that there are workers; or null, and the call goes on alone. `complete`: waits, for
// a while, until all have come.
Desk* open_desk(int size, bool complete) noexcept;
void close_desk(Desk& desk) noexcept;
// Wakes workers for seats that are free, where any sleep.
void wake_workers(Desk& desk) noexcept;
// Whether a worker is awake and has nothing to do.
bool workers_awake() noexcept;
// Lets the members that hold up a phase run on the caller's processor, where the system does not run them on theirs.
void fetch_members(const Desk& desk, uint64_t phase) noexcept;
// The most members that a team can have.
int largest_team() noexcept;

}  // namespace fastnn::team
