#include "core/limits.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "core/clock.h"
#include "core/openmp.h"

namespace fastnn {
namespace {

std::atomic<int> process_limit{kMaxThreads};
std::atomic<bool> machine_ignored{false};
thread_local int own_limit = 0;

// What the system says is believed for a while: asking takes 0.2 us for the processors and 50 us for the quota.
constexpr double kProcessorsStand = 1e7, kQuotaStands = 5e8;  // nanoseconds

struct Processors {
  system::ProcessorSet allowed;
  int count = 0;
  uint64_t asked = 0;
};
thread_local Processors processors;

const Processors& current_processors() noexcept {
  const uint64_t now = ticks();
  if (processors.count == 0 || now - processors.asked > ticks_of(kProcessorsStand)) {
    processors.asked = now;
    // More than a set holds are not counted by it.
    const bool known = openmp::places(processors.allowed) || system::allowed_processors(processors.allowed);
    processors.count = known ? processors.allowed.count() : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  }
  return processors;
}

int current_quota() noexcept {
  static std::atomic<int> quota{0};
  static std::atomic<uint64_t> asked{0};
  const uint64_t now = ticks();
  int n = quota.load(std::memory_order_relaxed);
  if (n == 0 || now - asked.load(std::memory_order_relaxed) > ticks_of(kQuotaStands)) {
    asked.store(now, std::memory_order_relaxed);
    try {
      n = cgroup_quota("");
    } catch (...) {  // no memory: the next time, perhaps
      n = kMaxThreads;
    }
    quota.store(n, std::memory_order_relaxed);
  }
  return n;
}

// A control group's quota in processors; infinity where there is none.
double quota_of(const std::string& folder, bool second) {
  double quota = -1, period = 0;
  if (second) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max 100000" is no number: none
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// Where control groups are mounted: `group` is the part of the hierarchy that lies there.
struct Mount {
  std::string group, folder;
  bool second;
};

bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

}  // namespace

int cgroup_quota(const std::string& root) {
  double least = INFINITY;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // 36 35 98:0 /group /folder options ... - type source super-options
    std::istringstream words(line);
    std::string skip, type, source, options;
    Mount mount;
    words >> skip >> skip >> skip >> mount.group >> mount.folder;
    while (words >> skip && skip != "-") {
    }
    words >> type >> source >> options;
    mount.second = type == "cgroup2";
    if (!mount.second && !(type == "cgroup" && has_word(options, "cpu"))) continue;
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string entry; std::getline(groups, entry);) {  // number:controllers:/group
      const std::size_t first = entry.find(':'), next = entry.find(':', first + 1);
      if (next == std::string::npos) continue;
      const std::string controllers = entry.substr(first + 1, next - first - 1);
      if (mount.second ? !controllers.empty() : !has_word(controllers, "cpu")) continue;
      std::string path = entry.substr(next + 1);
      if (mount.group != "/" && path.compare(0, mount.group.size(), mount.group) == 0) path.erase(0, mount.group.size());
      // Every group above limits this one, too.
      for (;;) {
        least = std::min(least, quota_of(root + mount.folder + path, mount.second));
        const std::size_t slash = path.rfind('/');
        if (path.empty() || slash == std::string::npos) break;
        path.erase(slash);
      }
    }
  }
  return least < kMaxThreads ? std::max(1, static_cast<int>(std::ceil(least))) : kMaxThreads;
}

bool is_crowded() noexcept {
  int running = 0;  // "0.20 0.18 0.12 running/existing ..."
  if (std::FILE* file = std::fopen("/proc/loadavg", "r")) {
    if (std::fscanf(file, "%*f %*f %*f %d", &running) != 1) running = 0;
    std::fclose(file);
  }
  return running > sysconf(_SC_NPROCESSORS_ONLN);
}

Limits thread_limits() noexcept {
  return {own_limit > 0 ? own_limit : kMaxThreads, process_limit.load(std::memory_order_relaxed), openmp::limit(),
          current_processors().count, current_quota()};
}

int thread_limit() noexcept {
  const int set = own_limit > 0 ? own_limit : process_limit.load(std::memory_order_relaxed);
  if (set == 1 || (set < kMaxThreads && machine_ignored.load(std::memory_order_relaxed))) return set;
  const int n = std::min(own_limit > 0 ? own_limit : kMaxThreads, openmp::limit());
  if (n <= 1) return 1;
  const Limits all = thread_limits();
  return std::max(1, std::min({all.own, all.process, all.openmp, all.processors, all.quota}));
}

void set_thread_limit(int n) noexcept { process_limit.store(n, std::memory_order_relaxed); }
int thread_override() noexcept { return own_limit; }
void set_thread_override(int n) noexcept { own_limit = n; }
void ignore_machine_limits(bool ignore) noexcept { machine_ignored.store(ignore, std::memory_order_relaxed); }
const system::ProcessorSet& allowed_processors() noexcept { return current_processors().allowed; }

}  // namespace fastnn
