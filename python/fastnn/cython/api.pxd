"""The functions of fastnn.h for Cython, to be cimported one by one: they are checked when the module that uses them is imported.

`include/fastnn.h` says what each does, docs/c.md how a module is built; statuses and kinds stand below.
"""

cdef enum:  # statuses
    FASTNN_OK = 0
    FASTNN_INVALID = 1
    FASTNN_RANGE = 2
    FASTNN_MEMORY = 3
    FASTNN_IN_USE = 4
    FASTNN_NONFINITE = 5

cdef enum:  # activations
    FASTNN_RELU = 0
    FASTNN_LEAKY_RELU = 1
    FASTNN_SIGMOID = 2
    FASTNN_TANH = 3
    FASTNN_SELU = 4
    FASTNN_GELU = 5
    FASTNN_GELU_TANH = 6
    FASTNN_SILU = 7
    FASTNN_SOFTPLUS = 8
    FASTNN_MISH = 9

cdef enum:  # optimizers
    FASTNN_SGD = 0
    FASTNN_MOMENTUM = 1
    FASTNN_NESTEROV = 2
    FASTNN_ADAGRAD = 3
    FASTNN_RMSPROP = 4
    FASTNN_ADAM = 5
    FASTNN_ADAMW = 6

cdef const char *status_text(int status) noexcept nogil

cdef int matmul_f32(
    int threads, long long m, long long n, long long k, const float *a, long long a_row, long long a_col,
    const float *b, long long b_row, long long b_col, float *c, long long c_row, long long c_col
) noexcept nogil
cdef int affine_forward_f32(
    int threads, long long rows, long long n_in, long long n_out, const float *x, long long x_row,
    long long x_col, const float *w, const float *b, float *y
) noexcept nogil
cdef int affine_backward_f32(
    int threads, long long rows, long long n_in, long long n_out, const float *x, long long x_row,
    long long x_col, const float *w, const float *dy, float *dx, float *dw, float *db
) noexcept nogil
cdef int batchnorm_forward_f32(
    int threads, int train, long long rows, long long cols, const float *x, const float *gamma,
    const float *beta, float *running_mean, float *running_var, double momentum, double eps, float *mean,
    float *rstd, float *y
) noexcept nogil
cdef int batchnorm_backward_f32(
    int threads, int train, long long rows, long long cols, const float *x, const float *gamma,
    const float *mean, const float *rstd, const float *dy, float *dgamma, float *dbeta, float *dx
) noexcept nogil
cdef int dropout_forward_f32(
    int threads, long long n, const float *x, unsigned long long seed, unsigned long long step,
    unsigned int stream, double ratio, double scale, float *y, unsigned char *keep
) noexcept nogil
cdef int dropout_backward_f32(
    int threads, long long n, const float *dy, const unsigned char *keep, double scale, float *dx
) noexcept nogil
cdef int activation_forward_f32(
    int threads, int kind, double alpha, long long n, const float *x, float *y
) noexcept nogil
cdef int activation_backward_f32(
    int threads, int kind, double alpha, long long n, const float *x, const float *y, const float *dy,
    float *dx
) noexcept nogil
cdef int softmax_cross_entropy_f32(
    int threads, long long rows, long long classes, const float *x, const long long *labels,
    const double *weight, float *y, double *loss
) noexcept nogil
cdef int softmax_cross_entropy_backward_f32(
    int threads, long long rows, long long classes, const float *y, const long long *labels,
    const double *weight, double dout, float *dx
) noexcept nogil
cdef int optimizer_update_f32(
    int threads, int kind, double lr, double weight_decay, double beta1, double beta2, double eps,
    long long step, long long n, const float *g, float *p, float *s1, float *s2
) noexcept nogil
cdef int embedding_forward_f32(
    int threads, long long n, long long vocab, long long dim, const long long *indices, const float *w,
    float *y
) noexcept nogil
cdef int embedding_backward_f32(
    int threads, long long n, long long vocab, long long dim, const long long *indices, const float *dy,
    long long *rows, float *values, long long *count
) noexcept nogil

cdef int matmul_f64(
    int threads, long long m, long long n, long long k, const double *a, long long a_row, long long a_col,
    const double *b, long long b_row, long long b_col, double *c, long long c_row, long long c_col
) noexcept nogil
cdef int affine_forward_f64(
    int threads, long long rows, long long n_in, long long n_out, const double *x, long long x_row,
    long long x_col, const double *w, const double *b, double *y
) noexcept nogil
cdef int affine_backward_f64(
    int threads, long long rows, long long n_in, long long n_out, const double *x, long long x_row,
    long long x_col, const double *w, const double *dy, double *dx, double *dw, double *db
) noexcept nogil
cdef int batchnorm_forward_f64(
    int threads, int train, long long rows, long long cols, const double *x, const double *gamma,
    const double *beta, double *running_mean, double *running_var, double momentum, double eps, double *mean,
    double *rstd, double *y
) noexcept nogil
cdef int batchnorm_backward_f64(
    int threads, int train, long long rows, long long cols, const double *x, const double *gamma,
    const double *mean, const double *rstd, const double *dy, double *dgamma, double *dbeta, double *dx
) noexcept nogil
cdef int dropout_forward_f64(
    int threads, long long n, const double *x, unsigned long long seed, unsigned long long step,
    unsigned int stream, double ratio, double scale, double *y, unsigned char *keep
) noexcept nogil
cdef int dropout_backward_f64(
    int threads, long long n, const double *dy, const unsigned char *keep, double scale, double *dx
) noexcept nogil
cdef int activation_forward_f64(
    int threads, int kind, double alpha, long long n, const double *x, double *y
) noexcept nogil
cdef int activation_backward_f64(
    int threads, int kind, double alpha, long long n, const double *x, const double *y, const double *dy,
    double *dx
) noexcept nogil
cdef int softmax_cross_entropy_f64(
    int threads, long long rows, long long classes, const double *x, const long long *labels,
    const double *weight, double *y, double *loss
) noexcept nogil
cdef int softmax_cross_entropy_backward_f64(
    int threads, long long rows, long long classes, const double *y, const long long *labels,
    const double *weight, double dout, double *dx
) noexcept nogil
cdef int optimizer_update_f64(
    int threads, int kind, double lr, double weight_decay, double beta1, double beta2, double eps,
    long long step, long long n, const double *g, double *p, double *s1, double *s2
) noexcept nogil
cdef int embedding_forward_f64(
    int threads, long long n, long long vocab, long long dim, const long long *indices, const double *w,
    double *y
) noexcept nogil
cdef int embedding_backward_f64(
    int threads, long long n, long long vocab, long long dim, const long long *indices, const double *dy,
    long long *rows, double *values, long long *count
) noexcept nogil

cdef void *network_open(void *object) except NULL
cdef void network_close(void *network) except *
cdef int network_shape(
    void *network, long long *n_in, long long *n_out, long long *targets, int *number_bytes
) noexcept nogil
cdef int network_set_rate(void *network, double lr) noexcept nogil
cdef int network_predict_f32(
    void *network, int threads, long long rows, const float *x, float *y
) noexcept nogil
cdef int network_predict_f64(
    void *network, int threads, long long rows, const double *x, double *y
) noexcept nogil
cdef int network_step_f32(
    void *network, int threads, long long rows, const float *x, const long long *labels,
    const double *weight, double *loss
) noexcept nogil
cdef int network_step_f64(
    void *network, int threads, long long rows, const double *x, const long long *labels,
    const double *weight, double *loss
) noexcept nogil
cdef int network_step_dense_f32(
    void *network, int threads, long long rows, const float *x, const float *targets, const double *weight,
    double *loss
) noexcept nogil
cdef int network_step_dense_f64(
    void *network, int threads, long long rows, const double *x, const double *targets, const double *weight,
    double *loss
) noexcept nogil
