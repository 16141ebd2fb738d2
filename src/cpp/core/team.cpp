#include "core/team.h"

#include <sched.h>
#include <time.h>

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

// The time that the system has given the calling thread, in nanoseconds.
double own_time() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// Whether teams of the calling thread pay: one that does not is given up for a while, and tried again. What a team takes is
// compared with the time that the system has to give one thread for such work (by the model's measure of it), which is known from
// when teams were given up. (By that, and not by how long one thread took: where other programs want the processors, a team gets
// more of them and uses them worse. Two programs with two threads each on two processors did 0.72 of what they do with one each.)
class Balance {
 public:
  // (Where every processor was taken, a trial every 32 ms made a step take 1.35 times as long as one thread in the mean.)
  bool in_favour() noexcept {
    if (!given_up_) return true;
    if (static_cast<int64_t>(ticks() - until_) < 0) return false;
    given_up_ = is_crowded();
    if (given_up_) until_ = ticks() + ticks_of(kCrowded);
    return !given_up_;
  }
  bool measures_alone() const noexcept { return static_cast<int64_t>(ticks() - next_) >= 0; }

  void add_team(double took, double model) noexcept {
    team_.add(took, model);
    const bool known = alone_.model > 0;
    const double lost = team_.took - team_.model * (known ? alone_.took / alone_.model : kSuspect);
    const bool enough = team_.took > kWindow;
    if (lost > kStall || (enough && lost > 0)) {
      given_up_ = true;
      until_ = ticks() + ticks_of(pause_);
      if (known) pause_ = std::min(2 * pause_, kLongest);
      team_ = {};
      alone_.halve_beyond(kWindow);
    } else if (enough) {
      pause_ = kShortest;
      team_.halve_beyond(0);
    }
  }
  void add_alone(double own, double model) noexcept {
    alone_.add(own, model);
    next_ = ticks() + ticks_of(kBetween);
  }

 private:
  struct Sums {
    double took = 0, model = 0;  // nanoseconds
    void add(double t, double m) noexcept {
      took += t;
      model += m;
    }
    void halve_beyond(double limit) noexcept {
      if (took <= limit) return;
      took /= 2;
      model /= 2;
    }
  };
  // Of the model, which is right within a factor of two: a team that takes longer is compared with one thread.
  static constexpr double kSuspect = 0.8;
  // Nanoseconds: in which the system may have taken the processor away and given it back; lost at once; between measurements of
  // one thread, and between looks at a crowded machine (each is a call of the system's, at which it may give the processor to
  // another: with one every half millisecond a step took 1.12 times as long where all are taken); and how long a team is given
  // up.
  static constexpr double kWindow = 20e6, kStall = 1e6, kBetween = 20e6, kCrowded = 20e6, kShortest = 2e6, kLongest = 32e6;
  Sums team_, alone_;
  bool given_up_ = false;
  uint64_t until_ = 0, next_ = ticks();
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
  desk.processor.store(system::processor(), std::memory_order_relaxed);
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
  if (me.done_ == pieces) return;
  const uint64_t worked = ticks() - begun;
  wait_for(desk, phase, pieces - me.done_, worked / static_cast<uint64_t>(std::max<Index>(me.done_, 1)));
}

bool Team::did(double nanoseconds) noexcept {
  told_ += nanoseconds;
  if (is_forced()) return true;
  if (!desk_) return !given_up_ || !balance.in_favour();
  const uint64_t now = ticks();
  balance.add_team(static_cast<double>(now - since_) * nanoseconds_a_tick(), nanoseconds);
  since_ = now;
  return balance.in_favour();
}

void run_team(const Crew& crew, void (*work)(Team&, void*), void* context) noexcept {
  const FlushSubnormals flush;
  const int members = std::min(crew.members, team::largest_team());
  Team team(members > 1 ? team::open_desk(members, is_forced()) : nullptr, members, crew.given_up);
  if (!team.desk_) {
    const bool measured = crew.given_up && balance.measures_alone();
    const double begun = measured ? own_time() : 0;
    work(team, context);
    if (measured) balance.add_alone(own_time() - begun, crew.nanoseconds + team.told_);
    return;
  }
  team.since_ = ticks();
  work(team, context);
  team::close_desk(*team.desk_);
  team.did(crew.nanoseconds);
}

Crew crew_for(double nanoseconds) noexcept {
  double least = share_set.load(std::memory_order_relaxed);
  if (least < 0) {
    if (nanoseconds < 2 * kWarmShare) return {1, nanoseconds, false};
    least = nanoseconds < 2 * kColdShare && team::workers_awake() ? kWarmShare : kColdShare;
    if (nanoseconds < 2 * least) return {1, nanoseconds, false};
  }
  const int limit = thread_limit();
  const int members = nanoseconds < least * limit ? std::max(1, static_cast<int>(nanoseconds / least)) : limit;
  if (members > 1 && least > 0 && !balance.in_favour()) return {1, nanoseconds, true};
  return {members, nanoseconds, false};
}

void set_work_per_member(double nanoseconds) noexcept {
  share_set.store(nanoseconds);
  ignore_machine_limits(nanoseconds == 0);
}

}  // namespace fastnn
