// The C interface: the table that fastnn.h describes, in a capsule, and its functions one by one, as Cython imports them.
#include <initializer_list>
#include <string>

#include "bindings/arrays.h"
#include "bindings/c_api/kernels.h"
#include "bindings/c_api/networks.h"
#include "bindings/c_api/status.h"

namespace fastnn::bindings {
namespace {

const char* status_text(int status) noexcept {
  switch (status) {
    case FASTNN_OK:
      return "done";
    case FASTNN_INVALID:
      return "an argument cannot be: a negative size, a missing pointer, a number outside its range";
    case FASTNN_RANGE:
      return "a label, an index or a target is outside its range";
    case FASTNN_MEMORY:
      return "there is not enough memory";
    case FASTNN_IN_USE:
      return "another thread works on the object at the moment";
    case FASTNN_NONFINITE:
      return "a loss, a norm or what is to be remembered is not finite";
    default:
      return "no status of fastnn";
  }
}

const fastnn_api& table() {
  static const fastnn_api made = [] {
    fastnn_api api{};
    api.major = FASTNN_API_MAJOR;
    api.minor = FASTNN_API_MINOR;
    api.size = sizeof(fastnn_api);
    api.status_text = status_text;
    c_api::fill_kernels(api);
    c_api::fill_networks(api);
    return api;
  }();
  return made;
}

// How Cython writes a type: const after what is constant, and a space before a pointer's star.
template <class T>
constexpr const char* kText = nullptr;
#define FASTNN_TEXT(T, text)                   \
  template <>                                  \
  constexpr const char* kText<T> = text;       \
  template <>                                  \
  constexpr const char* kText<T*> = text " *"; \
  template <>                                  \
  constexpr const char* kText<const T*> = text " const *";
FASTNN_TEXT(void, "void")
FASTNN_TEXT(char, "char")
FASTNN_TEXT(unsigned char, "unsigned char")
FASTNN_TEXT(int, "int")
FASTNN_TEXT(unsigned int, "unsigned int")
FASTNN_TEXT(long long, "PY_LONG_LONG")
FASTNN_TEXT(unsigned long long, "unsigned PY_LONG_LONG")
FASTNN_TEXT(float, "float")
FASTNN_TEXT(double, "double")
#undef FASTNN_TEXT

std::string signature(const char* result, std::initializer_list<const char*> arguments) {
  std::string text = result;
  if (text.back() != '*') text += ' ';
  char before = '(';
  for (const char* argument : arguments) {
    text += before;
    if (before == ',') text += ' ';
    text += argument;
    before = ',';
  }
  return text + ')';
}

void add(py::dict& functions, const char* name, const std::string& text, void* function) {
  auto* const kept = new std::string(text);  // for good: a capsule keeps no copy of its name
  functions[name] = py::reinterpret_steal<py::object>(PyCapsule_New(function, kept->c_str(), nullptr));
}

template <class Result, class... Arguments>
void add(py::dict& functions, const char* name, Result (*function)(Arguments...)) {
  static_assert(kText<Result> && (... && kText<Arguments>), "a type that Cython's text is not known of");
  add(functions, name, signature(kText<Result>, {kText<Arguments>...}), reinterpret_cast<void*>(function));
}

}  // namespace

void bind_c_api(py::module_& m) {
  const fastnn_api& api = table();
  m.attr("_C_API") = py::reinterpret_steal<py::object>(PyCapsule_New(const_cast<fastnn_api*>(&api), FASTNN_API_CAPSULE, nullptr));
  py::dict functions;
#define FASTNN_ADD(name) add(functions, #name, api.name);
#define FASTNN_ADD_BOTH(name) FASTNN_ADD(name##_f32) FASTNN_ADD(name##_f64)
  FASTNN_ADD(status_text)
  FASTNN_ADD_BOTH(matmul)
  FASTNN_ADD_BOTH(affine_forward)
  FASTNN_ADD_BOTH(affine_backward)
  FASTNN_ADD_BOTH(batchnorm_forward)
  FASTNN_ADD_BOTH(batchnorm_backward)
  FASTNN_ADD_BOTH(dropout_forward)
  FASTNN_ADD_BOTH(dropout_backward)
  FASTNN_ADD_BOTH(activation_forward)
  FASTNN_ADD_BOTH(activation_backward)
  FASTNN_ADD_BOTH(softmax_cross_entropy)
  FASTNN_ADD_BOTH(softmax_cross_entropy_backward)
  FASTNN_ADD_BOTH(optimizer_update)
  FASTNN_ADD_BOTH(embedding_forward)
  FASTNN_ADD_BOTH(embedding_backward)
  FASTNN_ADD(network_open)
  FASTNN_ADD(network_close)
  FASTNN_ADD(network_shape)
  FASTNN_ADD(network_set_rate)
  FASTNN_ADD_BOTH(network_predict)
  FASTNN_ADD_BOTH(network_step)
  FASTNN_ADD_BOTH(network_step_dense)
#undef FASTNN_ADD_BOTH
#undef FASTNN_ADD
  m.attr("C_FUNCTIONS") = functions;
}

}  // namespace fastnn::bindings
