// The threads of all teams of this process. They are made here, when they are first needed, and not by OpenMP's regions: libgomp
// ends the process where it cannot make one, keeps those of each calling thread apart, loses them with fork, and lets no region
// end before the last of its threads has been run by the system.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "core/clock.h"
#include "core/desk.h"
#include "core/limits.h"
#include "core/subnormals.h"

namespace fastnn::team {
namespace {

constexpr int kDesks = 64;  // calls that can have a team at one time; others run alone
// How long an idle worker looks for work before it sleeps: the pause between two steps of a Python loop is shorter.
constexpr double kIdle = 25e3;
// How long a member waits for the next phase of its call before it lets others have the processor, and before it leaves.
constexpr double kPatience = 10e3, kAway = 200e3;
constexpr double kNextTry = 1e8;  // to make a thread, after the system has refused
constexpr double kFilled = 2e7;   // how long a team that must be complete waits to be
constexpr std::size_t kStackBytes = std::size_t{1} << 20;
constexpr int kLooks = 16;  // at the work to be done, between two at the clock

struct Pool {
  alignas(kLine) std::atomic<uint64_t> open{0};  // a bit a desk
  alignas(kLine) std::atomic<uint32_t> signal{0};
  std::atomic<int> sleepers{0}, idle{0};
  alignas(kLine) std::atomic<int> wanted{0}, workers{0};
  std::atomic<uint64_t> next_try{0};
  std::mutex growing;
  std::atomic<Desk*> desks[kDesks]{};
};

// Never destroyed: workers outlive everything. A child of fork begins with a new one, since it has none of the threads.
std::atomic<Pool*> the_pool{nullptr};
std::atomic<int> forks{0};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  forks.fetch_add(1, std::memory_order_relaxed);
  the_pool.store(nullptr, std::memory_order_relaxed);
});

Pool* pool() noexcept {
  Pool* p = the_pool.load(std::memory_order_acquire);
  if (p) return p;
  void* room = allocate(sizeof(Pool));
  if (!room) return nullptr;
  Pool* made = new (room) Pool;
  if (the_pool.compare_exchange_strong(p, made)) return made;
  std::free(room);
  return p;
}

template <class T>
T* make_array(int n) noexcept {
  T* array = static_cast<T*>(allocate(static_cast<std::size_t>(n) * sizeof(T)));
  for (int i = 0; array && i < n; ++i) new (array + i) T;
  return array;
}

void free_desk(Desk* desk) noexcept {
  std::free(desk->cursors);
  std::free(desk->seats);
  std::free(desk);
}
Desk* make_desk(int number) noexcept {
  Desk* desk = make_array<Desk>(1);
  if (!desk) return nullptr;
  desk->number = number;
  desk->cursors = make_array<Cursor>(largest_team());
  desk->seats = make_array<Seat>(largest_team());
  if (desk->cursors && desk->seats) return desk;
  free_desk(desk);
  return nullptr;
}

bool is_taken(const Desk& desk, int rank) noexcept {
  return desk.seats[rank].job.load(std::memory_order_relaxed) == desk.job.load(std::memory_order_relaxed);
}
int free_seats(const Desk& desk) noexcept {
  int free = 0;
  for (int rank = 1; rank < desk.size.load(std::memory_order_relaxed); ++rank) free += !is_taken(desk, rank);
  return free;
}

// Takes the calling worker off the processors of members of lower rank, and of those that its caller may not use. What the system
// refuses is not asked for again.
std::atomic<bool> may_move{true};
void keep_apart(const Desk& desk, int rank, int processor) noexcept {
  if (!system::ProcessorSet::can_hold(processor)) return;
  const auto allowed = [&](int p) { return (desk.allowed[p / 64].load(std::memory_order_relaxed) >> (p % 64) & 1) != 0; };
  bool good = processor != desk.processor.load(std::memory_order_relaxed) && allowed(processor);
  for (int r = 1; good && r < rank; ++r) good = desk.seats[r].processor.load(std::memory_order_relaxed) != processor;
  if (good || !may_move.load(std::memory_order_relaxed)) return;
  system::ProcessorSet all;
  for (int word = 0; word < system::ProcessorSet::kWords; ++word)
    all.words[word] = desk.allowed[word].load(std::memory_order_relaxed);
  system::ProcessorSet free = all;
  free.remove(desk.processor.load(std::memory_order_relaxed));
  for (int r = 1; r < desk.size.load(std::memory_order_relaxed); ++r)
    if (r != rank && is_taken(desk, r)) free.remove(desk.seats[r].processor.load(std::memory_order_relaxed));
  if (free.count() == 0) {  // fewer processors than members
    if (allowed(processor) || all.count() == 0) return;
    free = all;
  }
  if (!system::move(system::this_thread(), free)) may_move.store(false, std::memory_order_relaxed);
}

class Worker {
 public:
  Worker(Pool& pool, int number) noexcept : pool_(pool), number_(number) {}

  [[noreturn]] void live() noexcept {
    for (;;) {
      if (take_seat()) attend();
      rest();
    }
  }

 private:
  // A free seat at an open desk: where it sat before, if it can.
  bool take_seat() noexcept {
    for (uint64_t open = pool_.open.load(std::memory_order_acquire); open; open &= open - 1) {
      Desk* desk = pool_.desks[__builtin_ctzll(open)].load(std::memory_order_acquire);
      const uint64_t job = desk->job.load(std::memory_order_acquire);
      const int seats = desk->size.load(std::memory_order_relaxed) - 1;
      if (job % 2 == 0 || has_left(*desk)) continue;
      for (int i = 0; i < seats; ++i) {
        const int rank = 1 + (number_ + i) % seats;
        Seat& seat = desk->seats[rank];
        uint64_t holder = seat.job.load(std::memory_order_relaxed);
        if (holder == job || !seat.job.compare_exchange_strong(holder, job)) continue;
        seat.thread.store(thread_, std::memory_order_relaxed);
        desk_ = desk;
        job_ = job;
        rank_ = rank;
        return true;
      }
    }
    return false;
  }

  // Works on the phases of a call until it is over, or nothing comes for long.
  void attend() noexcept {
    Seat& seat = desk_->seats[rank_];
    uint64_t seen = 0, since = ticks();
    for (int looks = 1; desk_->job.load(std::memory_order_acquire) == job_; ++looks) {
      const uint64_t phase = desk_->phase.load(std::memory_order_acquire);
      if (phase != seen && phase != Desk::kWriting && work_on(phase, seat)) {
        seen = phase;
        since = ticks();
        continue;
      }
      pause();
      if (looks % kLooks != 0) continue;
      const uint64_t waited = ticks() - since;
      if (waited > away_) break;
      if (waited > patience_) sched_yield();
    }
    left_ = seen;
    uint64_t mine = job_;
    seat.job.compare_exchange_strong(mine, 0);  // it may be another's by now
  }

  // False where what lies there is no longer, or not yet, a phase of this call.
  bool work_on(uint64_t phase, Seat& seat) noexcept {
    const auto work = desk_->work.load(std::memory_order_relaxed);
    void* const context = desk_->context.load(std::memory_order_relaxed);
    const Index pieces = desk_->pieces.load(std::memory_order_relaxed);
    const int members = desk_->members.load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (desk_->phase.load(std::memory_order_relaxed) != phase || desk_->job.load(std::memory_order_relaxed) != job_ ||
        rank_ >= members)
      return false;
    const int processor = system::processor();
    seat.processor.store(processor, std::memory_order_relaxed);
    keep_apart(*desk_, rank_, processor);
    seat.busy.store(phase, std::memory_order_relaxed);
    const Index done = desk_->serve(rank_, members, pieces, phase, work, context);
    if (done > 0) desk_->done.fetch_add(done, std::memory_order_acq_rel);
    seat.busy.store(0, std::memory_order_relaxed);
    return true;
  }

  // Looks for a seat for a while, then sleeps until there may be one.
  void rest() noexcept {
    pool_.idle.fetch_add(1, std::memory_order_relaxed);
    const uint64_t since = ticks();
    bool found = false;
    for (int looks = 1; !(found = seat_is_free()); ++looks) {
      pause();
      if (looks % kLooks == 0 && ticks() - since > idle_) break;
    }
    pool_.idle.fetch_sub(1, std::memory_order_relaxed);
    if (found) return;
    const uint32_t signal = pool_.signal.load();
    pool_.sleepers.fetch_add(1);
    if (!seat_is_free()) system::sleep(pool_.signal, signal);
    pool_.sleepers.fetch_sub(1);
  }
  bool seat_is_free() const noexcept {
    for (uint64_t open = pool_.open.load(); open; open &= open - 1) {
      const Desk* desk = pool_.desks[__builtin_ctzll(open)].load(std::memory_order_acquire);
      if (!has_left(*desk) && free_seats(*desk) > 0) return true;
    }
    return false;
  }
  // Whether it has seen all that there is at a desk.
  bool has_left(const Desk& desk) const noexcept {
    return &desk == desk_ && desk.job.load(std::memory_order_relaxed) == job_ && desk.phase.load() == left_;
  }

  Pool& pool_;
  const int number_;
  const system::Thread thread_ = system::this_thread();
  const uint64_t idle_ = ticks_of(kIdle), patience_ = ticks_of(kPatience), away_ = ticks_of(kAway);
  Desk* desk_ = nullptr;
  uint64_t job_ = 0, left_ = 0;
  int rank_ = 0;
};

void* begin(void* number) {
  const FlushSubnormals flush;
  Worker(*the_pool.load(std::memory_order_acquire), static_cast<int>(reinterpret_cast<intptr_t>(number))).live();
}

// Makes workers until there are `count`, or the system refuses. They take no signals: those are the program's.
void grow(Pool& pool, int count) noexcept {
  if (pool.workers.load(std::memory_order_acquire) >= count || ticks() < pool.next_try.load(std::memory_order_relaxed)) return;
  const std::lock_guard<std::mutex> lock(pool.growing);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int n = pool.workers.load(std::memory_order_relaxed); n < count; ++n) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, begin, reinterpret_cast<void*>(static_cast<intptr_t>(n))) != 0) {
      pool.next_try.store(ticks() + ticks_of(kNextTry), std::memory_order_relaxed);
      break;
    }
    pool.workers.store(n + 1, std::memory_order_release);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
}

// A desk that no call has, where this thread's last call was if that is free.
Desk* take_desk(Pool& pool) noexcept {
  thread_local int last = 0;
  for (int i = 0; i < kDesks; ++i) {
    const int number = (last + i) % kDesks;
    Desk* desk = pool.desks[number].load(std::memory_order_acquire);
    if (!desk) {
      Desk* made = make_desk(number);
      if (!made) return nullptr;
      if (pool.desks[number].compare_exchange_strong(desk, made))
        desk = made;
      else  // another thread was first
        free_desk(made);
    }
    if (desk->taken.load(std::memory_order_relaxed) || desk->taken.exchange(true, std::memory_order_acquire)) continue;
    last = number;
    return desk;
  }
  return nullptr;
}

}  // namespace

int largest_team() noexcept {
  static const int processors = static_cast<int>(sysconf(_SC_NPROCESSORS_CONF));
  return std::clamp(4 * processors, 8, kMaxThreads);
}

Desk* open_desk(int size, bool complete) noexcept {
  Pool* p = pool();
  Desk* desk = p ? take_desk(*p) : nullptr;
  if (!desk) return nullptr;
  const int wanted = p->wanted.fetch_add(size - 1) + size - 1;  // by all calls
  grow(*p, complete ? wanted : std::min(wanted, largest_team()));
  if (p->workers.load(std::memory_order_relaxed) == 0) {
    p->wanted.fetch_sub(size - 1);
    desk->taken.store(false, std::memory_order_release);
    return nullptr;
  }
  const system::ProcessorSet& allowed = allowed_processors();
  for (int word = 0; word < system::ProcessorSet::kWords; ++word)
    desk->allowed[word].store(allowed.words[word], std::memory_order_relaxed);
  desk->size.store(size, std::memory_order_relaxed);
  desk->processor.store(system::processor(), std::memory_order_relaxed);
  desk->job.fetch_add(1, std::memory_order_release);
  p->open.fetch_or(uint64_t{1} << desk->number);
  wake_workers(*desk);
  for (const uint64_t since = ticks(); complete && free_seats(*desk) > 0 && ticks() - since < ticks_of(kFilled);) sched_yield();
  return desk;
}

void close_desk(Desk& desk) noexcept {
  Pool& p = *the_pool.load(std::memory_order_relaxed);
  p.open.fetch_and(~(uint64_t{1} << desk.number));
  p.wanted.fetch_sub(desk.size.load(std::memory_order_relaxed) - 1);
  desk.job.fetch_add(1, std::memory_order_release);
  desk.taken.store(false, std::memory_order_release);
}

void wake_workers(Desk& desk) noexcept {
  Pool& p = *the_pool.load(std::memory_order_relaxed);
  if (p.sleepers.load() == 0) return;
  const int count = free_seats(desk) - p.idle.load(std::memory_order_relaxed);
  if (count < 1) return;
  p.signal.fetch_add(1);
  system::wake(p.signal, count);
}

bool workers_awake() noexcept {
  const Pool* p = the_pool.load(std::memory_order_acquire);
  return p && p->idle.load(std::memory_order_relaxed) > 0;
}

void fetch_members(const Desk& desk, uint64_t phase) noexcept {
  if (!may_move.load(std::memory_order_relaxed)) return;
  const int here = system::processor();
  if (!system::ProcessorSet::can_hold(here)) return;
  system::ProcessorSet set;
  set.add(here);
  for (int rank = 1; rank < desk.size.load(std::memory_order_relaxed); ++rank) {
    const Seat& seat = desk.seats[rank];
    if (!is_taken(desk, rank) || seat.busy.load(std::memory_order_relaxed) != phase) continue;
    if (!system::move(seat.thread.load(std::memory_order_relaxed), set)) return;
  }
}

}  // namespace fastnn::team

namespace fastnn {

int fork_generation() noexcept { return team::forks.load(std::memory_order_relaxed); }

}  // namespace fastnn
