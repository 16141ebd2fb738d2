// Teams opened by several threads at once, every piece of every phase counted; built and run by test_team.py, also with
// ThreadSanitizer. Arguments: work per member (0 forces whole teams), limit of threads, calling threads, calls of each.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core/limits.h"
#include "core/team.h"

using namespace fastnn;

int main(int, char** arguments) {
  set_work_per_member(std::atof(arguments[1]));
  set_thread_limit(std::atoi(arguments[2]));
  const int callers = std::atoi(arguments[3]), calls = std::atoi(arguments[4]);
  std::atomic<long> wrong{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c)
    threads.emplace_back([&, c] {
      std::vector<int> seen(4096);
      std::vector<long> by_rank(64);
      for (int call = 0; call < calls; ++call) {
        const Index n = 1 + (call * 37 + c * 11) % 4096;
        run_team(crew_for(1e6), [&](Team& team) {
          for (int phase = 0; phase < 3; ++phase) {
            std::fill(by_rank.begin(), by_rank.end(), 0L);
            team.phase(n, [&](Member& member) {
              for (Index i; (i = member.next()) >= 0;) {
                ++seen[static_cast<std::size_t>(i)];
                ++by_rank[static_cast<std::size_t>(member.rank())];
              }
            });
            long pieces = 0;
            for (const long count : by_rank) pieces += count;
            wrong += pieces != n;
            team.each(n, 16, [&](Index begin, Index end) {
              for (Index i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
            });
            for (Index i = 0; i < n; ++i) {
              wrong += seen[static_cast<std::size_t>(i)] != 2;
              seen[static_cast<std::size_t>(i)] = 0;
            }
          }
        });
      }
    });
  for (std::thread& thread : threads) thread.join();
  std::printf("%ld wrong\n", wrong.load());
  return wrong != 0;
}
