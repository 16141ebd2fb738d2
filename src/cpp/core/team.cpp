#include "core/team.h"

#include <algorithm>
#include <atomic>

#include "core/clock.h"
#include "core/desk.h"
#include "core/limits.h"
#include "core/subnormals.h"

namespace fastnn {

using team::Desk;

namespace {

// What a thread's share of the work must outweigh. With a worker that is awake, opening a desk and a phase on it costs 0.3 us on
// two cores, and its members rarely end at the same moment; one that sleeps comes 20 us late.
constexpr double kWarmShare = 3000, kColdShare = 25000;
// How long the calling thread waits for pieces that others have in hand before it lets others have the processor, and before it
// fetches the members that have them: at least so long, and as long as so many of its own pieces took.
constexpr double kPatience = 10e3, kFetch = 50e3;
constexpr uint64_t kFetchPieces = 2;
constexpr int kLooks = 16;  // at what is done, between two at the clock
constexpr double kWakeEvery = 100e3;

std::atomic<double> share_set{-1};  // by set_work_per_member
bool is_forced() noexcept { return share_set.load(std::memory_order_relaxed) == 0; }

// What teams of the calling thread have brought of late. One that does not pay is given up for a while, and tried again.
class Balance {
 public:
  bool in_favour() const noexcept { return static_cast<int64_t>(ticks() - until_) >= 0; }
  // A call of a team took so long, and saved so much (modulo 2^64) as against one thread.
  void add(uint64_t took, uint64_t saved) noexcept {
    took_ += took;
    saved_ += saved;
    if (took_ < ticks_of(kWindow)) return;
    if (static_cast<int64_t>(saved_) < 0) {
      until_ = ticks() + ticks_of(pause_);
      pause_ = std::min(2 * pause_, kLongest);
    } else {
      pause_ = kShortest;
    }
    took_ = saved_ = 0;
  }

 private:
  static constexpr double kWindow = 2e6, kShortest = 2e6, kLongest = 32e6;  // nanoseconds
  uint64_t took_ = 0, saved_ = 0, until_ = ticks();
  double pause_ = kShortest;
};
thread_local Balance balance;

// Returns when `count` pieces of a phase are done by workers.
void wait_for(const Desk& desk, uint64_t phase, Index count, uint64_t piece) noexcept {
  const uint64_t since = ticks(), patience = ticks_of(kPatience), fetch = std::max(ticks_of(kFetch), kFetchPieces * piece);
  bool fetched = false;
  for (int looks = 1; desk.done.load(std::memory_order_acquire) < count; ++looks) {
    pause();
    if (looks % kLooks != 0) continue;
    const uint64_t waited = ticks() - since;
    if (waited < patience) continue;
    if (waited > fetch && !fetched) {
      team::fetch_members(desk, phase);
      fetched = true;
    }
    sched_yield();
  }
}

}  // namespace

Index Member::claim() noexcept {
  if (first_ >= 0) {
    const Index piece = first_;
    first_ = -1;
    return piece;
  }
  for (int looked = 0; looked < size_; ++looked) {
    const auto end = static_cast<uint64_t>(pieces_ * (victim_ + 1) / size_);
    std::atomic<uint64_t>& cursor = desk_->cursors[victim_].next;
    uint64_t at = cursor.load(std::memory_order_relaxed);
    while (at >> team::kIndexBits == phase_ && (at & team::kIndexMask) < end)
      if (cursor.compare_exchange_weak(at, at + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) {
        ++done_;
        return static_cast<Index>(at & team::kIndexMask);
      }
    if (++victim_ == size_) victim_ = 0;
  }
  return -1;
}

void Team::run(Index pieces, void (*work)(Member&, void*), void* context) noexcept {
  Desk& desk = *desk_;
  const uint64_t begun = ticks(), phase = ++desk.last_phase;
  desk.phase.store(Desk::kWriting, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  desk.work.store(work, std::memory_order_relaxed);
  desk.context.store(context, std::memory_order_relaxed);
  desk.pieces.store(pieces, std::memory_order_relaxed);
  desk.members.store(size_, std::memory_order_relaxed);
  desk.processor.store(sched_getcpu(), std::memory_order_relaxed);
  desk.done.store(0, std::memory_order_relaxed);
  for (int r = 0; r < size_; ++r)
    desk.cursors[r].next.store(phase << team::kIndexBits | static_cast<uint64_t>(pieces * r / size_), std::memory_order_relaxed);
  desk.phase.store(phase);
  if (begun - desk.last_wake > ticks_of(kWakeEvery)) {
    desk.last_wake = begun;
    team::wake_workers(desk);
  }
  Member me(&desk, 0, size_, pieces, phase);
  work(me, context);
  const uint64_t worked = ticks() - begun;
  if (me.done_ == pieces) return;
  const auto mine = static_cast<uint64_t>(std::max<Index>(me.done_, 1));
  wait_for(desk, phase, pieces - me.done_, worked / mine);
  if (me.done_ > 0) saved_ += worked * static_cast<uint64_t>(pieces) / mine - (ticks() - begun);
}

void run_team(int members, void (*work)(Team&, void*), void* context) noexcept {
  const FlushSubnormals flush;
  const bool forced = is_forced();
  members = std::min(members, team::largest_team());
  const uint64_t begun = members > 1 ? ticks() : 0;
  Desk* desk = members > 1 ? team::open_desk(members) : nullptr;
  Team team(desk, desk ? members : 1);
  if (!desk) return work(team, context);
  if (forced) team::fill_seats(*desk);
  const uint64_t opened = ticks();
  work(team, context);
  team::close_desk(*desk);
  if (!forced) balance.add(ticks() - begun, team.saved_ - (opened - begun));
}

int members_for(double nanoseconds) noexcept {
  double least = share_set.load(std::memory_order_relaxed);
  if (least < 0) {
    if (nanoseconds < 2 * kWarmShare) return 1;
    least = nanoseconds < 2 * kColdShare && team::workers_awake() ? kWarmShare : kColdShare;
    if (nanoseconds < 2 * least) return 1;
  }
  const int limit = thread_limit();
  if (limit == 1 || (least > 0 && !balance.in_favour())) return 1;
  if (!(nanoseconds < least * limit)) return limit;
  return std::max(1, static_cast<int>(nanoseconds / least));
}

void set_work_per_member(double nanoseconds) noexcept {
  share_set.store(nanoseconds);
  ignore_machine_limits(nanoseconds == 0);
}

}  // namespace fastnn
