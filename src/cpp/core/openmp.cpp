#include "core/openmp.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/clock.h"
#include "core/limits.h"

namespace fastnn::openmp {
namespace {

constexpr double kStands = 1e7;  // nanoseconds that what is loaded is believed to be all
constexpr int kMost = 16;        // runtimes that are listened to
constexpr int kBindsNone = 0;    // omp_proc_bind_false

// The functions of one, of OpenMP 3.0 and 4.5; the later ones may be missing.
struct Runtime {
  void* library;
  const char* name;
  int (*max_threads)();
  int (*thread_limit)();
  int (*proc_bind)();
  int (*num_places)();
  int (*place_num_procs)(int);
  void (*place_proc_ids)(int, int*);
};

// Those that were found, each kept in the process from then on. Only added to, by one thread at a time: others read the first
// `found` without a lock.
Runtime runtimes[kMost];
std::atomic<int> found{0};
std::atomic_flag looking = ATOMIC_FLAG_INIT;
std::atomic<uint64_t> looked{0};  // ticks
unsigned long long seen = 0;      // libraries loaded, at the last look

const char* file_of(const char* path) noexcept {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

bool has_name_of_one(const char* file) noexcept {
  const auto begins = [&](const char* with) { return std::strncmp(file, with, std::strlen(with)) == 0; };
  return begins("libgomp") || begins("libomp") || begins("libiomp5");
}

template <class F>
void find(void* library, const char* name, F*& to) noexcept {
  to = reinterpret_cast<F*>(dlsym(library, name));
}

void add(const std::string& path) {
  const int n = found.load(std::memory_order_relaxed);
  void* const library = n < kMost ? dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD) : nullptr;
  if (!library) return;
  // By the handle: two copies, PyTorch's and the system's, have one file name.
  if (std::any_of(runtimes, runtimes + n, [&](const Runtime& r) { return r.library == library; })) {
    dlclose(library);
    return;
  }
  Runtime& one = runtimes[n];
  one.library = library;
  find(library, "omp_get_max_threads", one.max_threads);
  find(library, "omp_get_thread_limit", one.thread_limit);
  find(library, "omp_get_proc_bind", one.proc_bind);
  find(library, "omp_get_num_places", one.num_places);
  find(library, "omp_get_place_num_procs", one.place_num_procs);
  find(library, "omp_get_place_proc_ids", one.place_proc_ids);
  one.name = strdup(file_of(path.c_str()));
  if (one.name && one.max_threads && one.thread_limit)
    found.store(n + 1, std::memory_order_release);
  else
    dlclose(library);
}

// Looks for what was loaded since the last look. (In a child forked in the middle of one there is none any more.)
void look() noexcept {
  looked.store(ticks(), std::memory_order_relaxed);
  if (looking.test_and_set(std::memory_order_acquire)) return;
  if (const unsigned long long now = system::libraries_loaded(); now != seen) {
    seen = now;
    try {
      std::vector<std::string> paths;
      const auto collect = [](const char* path, void* to) {
        try {
          if (has_name_of_one(file_of(path))) static_cast<std::vector<std::string>*>(to)->emplace_back(path);
        } catch (...) {  // no memory: its limit is not known
        }
      };
      system::each_library(collect, &paths);
      for (const std::string& path : paths) add(path);
    } catch (...) {  // likewise
    }
  }
  looking.clear(std::memory_order_release);
}

// How many there are.
int known() noexcept {
  if (ticks() - looked.load(std::memory_order_relaxed) > ticks_of(kStands)) look();
  return found.load(std::memory_order_acquire);
}

// The first number of a variable's list, or kMaxThreads.
int number_of(const char* variable) noexcept {
  const char* const text = std::getenv(variable);
  const long n = text ? std::strtol(text, nullptr, 10) : 0;
  return n > 0 && n < kMaxThreads ? static_cast<int>(n) : kMaxThreads;
}
// As a runtime reads it, when it is loaded.
const int environment = std::min(number_of("OMP_NUM_THREADS"), number_of("OMP_THREAD_LIMIT"));

}  // namespace

int limit() noexcept {
  const int n = known();
  int least = n > 0 ? kMaxThreads : environment;
  for (int i = 0; i < n; ++i) least = std::min({least, runtimes[i].max_threads(), runtimes[i].thread_limit()});
  return least;
}

bool places(system::ProcessorSet& set) noexcept {
  set = {};
  for (int i = 0, n = known(); i < n; ++i) {
    const Runtime& one = runtimes[i];
    const bool tells = one.proc_bind && one.num_places && one.place_num_procs && one.place_proc_ids;
    if (!tells || one.proc_bind() == kBindsNone) continue;
    int ids[system::ProcessorSet::kMost];
    for (int place = one.num_places(); place-- > 0;) {
      const int count = one.place_num_procs(place);
      if (count < 1 || count > system::ProcessorSet::kMost) continue;
      one.place_proc_ids(place, ids);
      for (int p = 0; p < count; ++p) set.add(ids[p]);
    }
  }
  return set.count() > 0;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (int i = 0, n = known(); i < n; ++i) all.push_back(runtimes[i].name);
  return all;
}

}  // namespace fastnn::openmp
