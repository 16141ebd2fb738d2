// Threads, the instruction set, and the small tools that Python layers use at their doors.
#include <cstdlib>

#include "bindings/arrays.h"
#include "bindings/objects.h"
#include "core/limits.h"
#include "core/openmp.h"
#include "core/team.h"
#include "dispatch/dispatch.h"

namespace fastnn::bindings {

void bind_runtime(py::module_& m) {
  make_types();
  names();
  try {
    const char* wanted = std::getenv("FASTNN_ISA");
    if (wanted && *wanted)
      use_isa(wanted);
    else
      use_best_isa();
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }

  m.def("as_real", [](const char* name, py::handle x, py::handle like) { return as_real(name, x, like); });

  m.def("isa", [] { return active_table().isa; });
  m.def("isa_compiled_for", [] { return active_table().compiled_for; });
  m.def("isas_built", [] {
    py::list names;
    for (const Isa& isa : built_isas()) names.append(isa.name);
    return py::tuple(names);
  });
  m.def("isas_supported", [] {
    py::list names;
    for (const Isa& isa : built_isas())
      if (isa.supported) names.append(isa.name);
    return py::tuple(names);
  });
  m.def("use_isa", [](const std::string& name) { use_isa(name); });
  m.def("openmp_runtimes", [] {
    py::list names;
    for (const std::string& name : openmp::names()) names.append(name);
    return py::tuple(names);
  });

  m.def(
      "fma_chains",
      [](bool single, Index rounds) {
        alignas(64) double sink[8];
        return single ? kernels<float>().fma_chains(rounds, reinterpret_cast<float*>(sink))
                      : kernels<double>().fma_chains(rounds, sink);
      },
      py::call_guard<WithoutGil>());

  m.attr("MAX_THREADS") = kMaxThreads;
  m.def("thread_limit", &thread_limit);
  m.def("set_thread_limit", &set_thread_limit);
  m.def("thread_override", &thread_override);
  m.def("set_thread_override", &set_thread_override);
  m.def("thread_limits", [] {
    const Limits limits = thread_limits();
    py::dict all;
    const auto add = [&](const char* name, int n) {
      if (n < kMaxThreads) all[name] = n;
    };
    add("threads()", limits.own);
    add("set_num_threads", limits.process);
    add("OpenMP", limits.openmp);
    add("processors", limits.processors);
    add("control group", limits.quota);
    return all;
  });
  m.def("cgroup_quota", &cgroup_quota);
  m.def("set_work_per_member", &set_work_per_member);
}

}  // namespace fastnn::bindings
