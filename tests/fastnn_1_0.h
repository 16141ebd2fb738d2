/* fastnn's kernels and networks for C and C++, by one table of functions.
 *
 *     const fastnn_api *fastnn = fastnn_import();    // with the GIL; NULL: a Python exception is set
 *     int status = fastnn->matmul_f32(0, m, n, k, a, k, 1, b, n, 1, c, n, 1);
 *
 * No function but those that say so needs the GIL, none throws, and all but these return a status. `threads`: how many a call
 * may use at most; 0: as many as the library would, see fastnn.set_num_threads. Matrices are rows of contiguous numbers unless
 * strides, which count numbers, are given. Bits are those of the same call from Python. Nothing may overlap what is written but
 * where it is said. The formulas are those of the classes of the same names in fastnn.reference.
 *
 * The table only grows: whoever was compiled against an older one of the same major version runs with a newer one.
 */
#ifndef FASTNN_H
#define FASTNN_H

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTNN_API_MAJOR 1
#define FASTNN_API_MINOR 0
#define FASTNN_API_CAPSULE "fastnn._core._C_API"

enum { /* statuses */
       FASTNN_OK = 0,
       FASTNN_INVALID = 1,  /* a size is negative, a pointer missing, a number outside its range; nothing has changed */
       FASTNN_RANGE = 2,    /* a label or an index is none; nothing has changed */
       FASTNN_MEMORY = 3,   /* there is not enough; nothing has changed */
       FASTNN_IN_USE = 4,   /* another thread works on the object at the moment; nothing has changed */
       FASTNN_NONFINITE = 5 /* a loss, a norm or what is to be remembered is infinite or NaN; nothing has changed but gradients */
};

enum { /* activations */
       FASTNN_RELU = 0,
       FASTNN_LEAKY_RELU = 1, /* its slope is `alpha`, which the others ignore */
       FASTNN_SIGMOID = 2,
       FASTNN_TANH = 3,
       FASTNN_SELU = 4,
       FASTNN_GELU = 5,
       FASTNN_GELU_TANH = 6,
       FASTNN_SILU = 7,
       FASTNN_SOFTPLUS = 8,
       FASTNN_MISH = 9
};

enum { /* optimizers, with what beta1 and beta2 are to them, and how many arrays of state they have */
       FASTNN_SGD = 0,
       FASTNN_MOMENTUM = 1, /* momentum; 1 */
       FASTNN_NESTEROV = 2, /* momentum; 1 */
       FASTNN_ADAGRAD = 3,  /* 1 */
       FASTNN_RMSPROP = 4,  /* decay_rate; 1 */
       FASTNN_ADAM = 5,     /* beta1, beta2; 2 */
       FASTNN_ADAMW = 6     /* beta1, beta2; 2 */
};

/* For float and double alike; T stands for either.
 *
 * matmul: c = a b; a (m, k), b (k, n), c (m, n), each with the strides of its rows and columns. c's are those of a matrix or of
 *     its transpose.
 * affine_forward: y = x w + b; x (rows, n_in) with strides, w (n_in, n_out), b (n_out,), y (rows, n_out).
 * affine_backward: dx = dy w^T, which may be NULL, dw = x^T dy, db = the sum of dy's rows.
 * batchnorm_forward: x and y (rows, cols), the rest (cols,). train: by the batch's statistics, rows >= 2, running = momentum
 *     running + (1 - momentum) batch; if not, by the running ones, which stay. mean and rstd are for backward.
 * batchnorm_backward: `train` as in forward.
 * dropout_forward: element i is kept, times scale, if its word of the stream (seed, step, stream) says so, else 0; keep has
 *     (n + 7) / 8 bytes. 0 <= ratio < 1. y may be x.
 * dropout_backward: dx may be dy.
 * activation_forward: y may be x.
 * activation_backward: by x for GELU, SiLU, Softplus and Mish, by y for the others; the other may be NULL. dx may be dy.
 * softmax_cross_entropy: y = the probabilities of x (rows, classes); *loss = the mean, weighted where weight (rows,) is not NULL.
 * softmax_cross_entropy_backward: dx = dout times the loss's gradient, by y.
 * optimizer_update: update number `step`, from 1 on, of n parameters p by gradients g; s1 and s2 are its state, zeros at first,
 *     NULL where it has none.
 * embedding_forward: y (n, dim) = the rows of w (vocab, dim) that indices (n,) name.
 * embedding_backward: rows[0 .. *count) = the distinct indices in order, values = the sums of dy's rows for each; both have room
 *     for n.
 */
#define FASTNN_KERNELS(T, suffix)                                                                                            \
  int (*matmul_##suffix)(int threads, long long m, long long n, long long k, const T* a, long long a_row, long long a_col,   \
                         const T* b, long long b_row, long long b_col, T* c, long long c_row, long long c_col);              \
  int (*affine_forward_##suffix)(int threads, long long rows, long long n_in, long long n_out, const T* x, long long x_row,  \
                                 long long x_col, const T* w, const T* b, T* y);                                             \
  int (*affine_backward_##suffix)(int threads, long long rows, long long n_in, long long n_out, const T* x, long long x_row, \
                                  long long x_col, const T* w, const T* dy, T* dx, T* dw, T* db);                            \
  int (*batchnorm_forward_##suffix)(int threads, int train, long long rows, long long cols, const T* x, const T* gamma,      \
                                    const T* beta, T* running_mean, T* running_var, double momentum, double eps, T* mean,    \
                                    T* rstd, T* y);                                                                          \
  int (*batchnorm_backward_##suffix)(int threads, int train, long long rows, long long cols, const T* x, const T* gamma,     \
                                     const T* mean, const T* rstd, const T* dy, T* dgamma, T* dbeta, T* dx);                 \
  int (*dropout_forward_##suffix)(int threads, long long n, const T* x, unsigned long long seed, unsigned long long step,    \
                                  unsigned int stream, double ratio, double scale, T* y, unsigned char* keep);               \
  int (*dropout_backward_##suffix)(int threads, long long n, const T* dy, const unsigned char* keep, double scale, T* dx);   \
  int (*activation_forward_##suffix)(int threads, int kind, double alpha, long long n, const T* x, T* y);                    \
  int (*activation_backward_##suffix)(int threads, int kind, double alpha, long long n, const T* x, const T* y, const T* dy, \
                                      T* dx);                                                                                \
  int (*softmax_cross_entropy_##suffix)(int threads, long long rows, long long classes, const T* x, const long long* labels, \
                                        const double* weight, T* y, double* loss);                                           \
  int (*softmax_cross_entropy_backward_##suffix)(int threads, long long rows, long long classes, const T* y,                 \
                                                 const long long* labels, const double* weight, double dout, T* dx);         \
  int (*optimizer_update_##suffix)(int threads, int kind, double lr, double weight_decay, double beta1, double beta2,        \
                                   double eps, long long step, long long n, const T* g, T* p, T* s1, T* s2);                 \
  int (*embedding_forward_##suffix)(int threads, long long n, long long vocab, long long dim, const long long* indices,      \
                                    const T* w, T* y);                                                                       \
  int (*embedding_backward_##suffix)(int threads, long long n, long long vocab, long long dim, const long long* indices,     \
                                     const T* dy, long long* rows, T* values, long long* count);

/* Handles: networks whose Python objects stay alive, and are not asked any more.
 *
 * network_open: of a fastnn.Sequential of fastnn's own layers, at least one of them Affine, that does not begin with an
 * Embedding; or of a fastnn.Trainer of such a network and one of fastnn's own losses, whose rate is a number, not a schedule.
 * Needs the GIL. NULL: a Python exception says why. The handle works on the arrays that the layers have now: it sees what becomes
 * of their numbers, but not arrays that are put in their places. A Sequential can be used from Python meanwhile, as from another
 *     thread. A Trainer, its network and optimizer are lent to the handle until network_close.
 * network_close: frees the handle; a Trainer then has the steps, counters and state of those that were done. Needs the GIL, once
 *     no other call works on the handle.
 * network_shape: the numbers of a row in and out, how many targets a row has (of a Trainer that takes no labels, else 0), and 4
 * or 8, the bytes of a number: which of the functions below the handle takes. network_predict: y (rows, out) = the outputs for x
 * (rows, in), as net.predict. Any number of threads at once. network_step: one step of a Trainer on labels (rows,), for softmax
 * cross-entropy; *loss = its loss. weight (rows,) may be NULL. network_step_dense: the same on targets (rows, targets), for the
 * other losses. network_set_rate: the learning rate of the steps to come, which stays the optimizer's.
 */
typedef struct fastnn_api {
  int major, minor;        /* of the table that this is */
  unsigned long long size; /* of it in bytes: a function that lies beyond is not there */

  const char* (*status_text)(int status);
  FASTNN_KERNELS(float, f32)
  FASTNN_KERNELS(double, f64)

  void* (*network_open)(void* object);
  void (*network_close)(void* network);
  int (*network_shape)(void* network, long long* n_in, long long* n_out, long long* targets, int* number_bytes);
  int (*network_set_rate)(void* network, double lr);
  int (*network_predict_f32)(void* network, int threads, long long rows, const float* x, float* y);
  int (*network_predict_f64)(void* network, int threads, long long rows, const double* x, double* y);
  int (*network_step_f32)(void* network, int threads, long long rows, const float* x, const long long* labels,
                          const double* weight, double* loss);
  int (*network_step_f64)(void* network, int threads, long long rows, const double* x, const long long* labels,
                          const double* weight, double* loss);
  int (*network_step_dense_f32)(void* network, int threads, long long rows, const float* x, const float* targets,
                                const double* weight, double* loss);
  int (*network_step_dense_f64)(void* network, int threads, long long rows, const double* x, const double* targets,
                                const double* weight, double* loss);
} fastnn_api;

/* The table, with the GIL; NULL with an exception set where fastnn cannot be imported or its table is not one for this header. */
static inline const fastnn_api* fastnn_import(void) {
  const fastnn_api* api = (const fastnn_api*)PyCapsule_Import(FASTNN_API_CAPSULE, 0);
  if (!api) return NULL;
  if (api->major != FASTNN_API_MAJOR || api->size < sizeof(fastnn_api)) {
    PyErr_Format(PyExc_ImportError, "fastnn has version %d.%d of its C interface, this was compiled for %d.%d or a later %d.x",
                 api->major, api->minor, FASTNN_API_MAJOR, FASTNN_API_MINOR, FASTNN_API_MAJOR);
    return NULL;
  }
  return api;
}

#ifdef __cplusplus
}
#endif
#endif
