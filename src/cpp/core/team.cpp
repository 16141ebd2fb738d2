#include "core/team.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastnn {
namespace {

// What a thread's share of the work must outweigh. A parallel region whose threads still spin from the last one costs 0.7 us (GNU
// OpenMP, 2 cores), and its members rarely end at the same moment. Once they sleep, waking them costs 21 us more: with one figure
// for both, a product of 128 x 128 x 128 after a pause took 51 us on two threads and 39 us on one.
constexpr double kWarmShare = 3000, kColdShare = 25000;
// Threads spin for 25 us (_load.py); a region that comes sooner finds them awake.
constexpr auto kWarm = std::chrono::microseconds(24);
constexpr int kMaxThreads = 1024;
// libgomp ends the process where it cannot start a thread, so that no team is larger than this, whatever the limit set.
int largest_team() noexcept {
  static const int processors = omp_get_num_procs();
  return processors < 2 ? 8 : 4 * processors;
}
constexpr int kSpins = 400;  // of 25 ns on Zen 4: 10 us, longer than members that all run wait for one another

std::atomic<double> share_set{-1};                                 // by set_work_per_member
thread_local std::chrono::steady_clock::time_point last_region{};  // its end; each calling thread has threads of its own
std::atomic<int> process_limit{0};
thread_local int own_limit = 0;

// libgomp's threads do not survive fork: a child of a process that has used them must not wait for them.
std::atomic<bool> pool_used{false};
std::atomic<bool> pool_lost{false};
std::atomic<int> forks{0};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  forks.fetch_add(1, std::memory_order_relaxed);
  if (pool_used.load(std::memory_order_relaxed)) pool_lost.store(true, std::memory_order_relaxed);
});

// Flushes subnormals while it lives; the caller's mode comes back after.
class FlushSubnormals {
 public:
  FlushSubnormals() noexcept {
#if defined(__x86_64__)
    before_ = _mm_getcsr();
    _mm_setcsr(before_ | 0x8040u);  // FTZ | DAZ
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (uint64_t{1} << 24)));  // FZ
#endif
  }
  ~FlushSubnormals() {
#if defined(__x86_64__)
    _mm_setcsr(before_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" ::"r"(before_));
#endif
  }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__x86_64__)
  unsigned before_;
#elif defined(__aarch64__)
  uint64_t before_;
#endif
};

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Barrier::wait(int members) noexcept {
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
    if (spins < kSpins)
      pause();
    else
      sched_yield();
  }
}

void run_team(int members, void (*work)(Team&, void*), void* context) noexcept {
  if (members > largest_team()) members = largest_team();
  if (members > 1 && !pool_lost.load(std::memory_order_relaxed)) {
    pool_used.store(true, std::memory_order_relaxed);
    alignas(64) Barrier barrier;
#pragma omp parallel num_threads(members)
    {
      // The team may be smaller than asked for (nested regions, OMP_THREAD_LIMIT): its true size is known only in here.
      const FlushSubnormals flush;
      Team team(omp_get_thread_num(), omp_get_num_threads(), &barrier);
      work(team, context);
    }
    last_region = std::chrono::steady_clock::now();
    return;
  }
  const FlushSubnormals flush;
  Team alone(0, 1, nullptr);
  work(alone, context);
}

int members_for(double nanoseconds) noexcept {
  const int limit = thread_limit();
  if (limit == 1) return 1;
  double least = share_set.load(std::memory_order_relaxed);
  if (least < 0) {
    if (nanoseconds < 2 * kWarmShare) return 1;
    least = nanoseconds < 2 * kColdShare && std::chrono::steady_clock::now() - last_region < kWarm ? kWarmShare : kColdShare;
  }
  if (!(nanoseconds < least * limit)) return limit;
  const int members = static_cast<int>(nanoseconds / least);
  return members < 1 ? 1 : members;
}

void set_work_per_member(double nanoseconds) noexcept { share_set.store(nanoseconds); }

int thread_limit() noexcept {
  if (own_limit > 0) return own_limit;
  int n = process_limit.load(std::memory_order_relaxed);
  if (n == 0) {
    n = omp_get_max_threads();
    if (n > kMaxThreads) n = kMaxThreads;
    int unset = 0;
    if (!process_limit.compare_exchange_strong(unset, n)) n = unset;
  }
  return n;
}
int fork_generation() noexcept { return forks.load(std::memory_order_relaxed); }
void set_thread_limit(int n) noexcept { process_limit.store(n, std::memory_order_relaxed); }
int thread_override() noexcept { return own_limit; }
void set_thread_override(int n) noexcept { own_limit = n; }
int max_threads() noexcept { return kMaxThreads; }

}  // namespace fastnn
