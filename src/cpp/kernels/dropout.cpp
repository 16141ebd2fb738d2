// Dropout (Srivastava et al. 2014) with masks from Philox-4x32-10 (Salmon et al. 2011), 16 counters at a time.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

using Words = Vec<uint32_t>;

// Words 0..3 of the 16 blocks from `block` on.
FASTNN_INLINE void philox(const RandomStream& s, uint32_t block, Words (&w)[4]) {
  w[0] = set1(block) + lane_numbers();
  w[1] = set1(s.stream);
  w[2] = set1(static_cast<uint32_t>(s.step));
  w[3] = set1(static_cast<uint32_t>(s.step >> 32));
  uint32_t key0 = static_cast<uint32_t>(s.seed), key1 = static_cast<uint32_t>(s.seed >> 32);
  FASTNN_EACH (round, 10) {
    Words high0, low0, high2, low2;
    multiply_wide(w[0], set1(0xD2511F53u), high0, low0);
    multiply_wide(w[2], set1(0xCD9E8D57u), high2, low2);
    w[0] = high2 ^ w[1] ^ set1(key0);
    w[1] = low2;
    w[2] = high0 ^ w[3] ^ set1(key1);
    w[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// y = keep ? x*scale : 0 for up to 64 elements.
template <class T>
FASTNN_INLINE void apply(uint64_t keep, Vec<T> scale, Index n, const T* x, T* y) {
  each_vector<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    store(y + i, select(mask_from_bits<T>(static_cast<unsigned>(keep >> i)), load(x + i, lanes) * scale, set1(T(0))), lanes);
  });
}

template <class T>
void forward(const RandomStream& stream, uint64_t threshold, T scale, Index first, Index n, const T* x, T* y, uint8_t* keep) {
  const Vec<T> s = set1(scale);
  for (Index i = 0; i < n; i += 64) {
    uint64_t kept = 0;
    if (threshold <= 0xffffffffu) {
      const Words limit = set1(static_cast<uint32_t>(threshold));
      Words w[4];
      philox(stream, static_cast<uint32_t>((first + i) / 4), w);
      FASTNN_EACH (v, 4) kept |= static_cast<uint64_t>(bits(w[v] >= limit)) << (16 * v);
    }
    const Index count = smaller(64, n - i);
    __builtin_memcpy(keep + i / 8, &kept, static_cast<size_t>((count + 7) / 8));
    apply(kept, s, count, x + i, y + i);
  }
}

template <class T>
void backward(const uint8_t* keep, T scale, Index n, const T* dy, T* dx) {
  const Vec<T> s = set1(scale);
  for (Index i = 0; i < n; i += 64) {
    const Index count = smaller(64, n - i);
    uint64_t kept = 0;
    __builtin_memcpy(&kept, keep + i / 8, static_cast<size_t>((count + 7) / 8));
    apply(kept, s, count, dy + i, dx + i);
  }
}

void random_words(const RandomStream& stream, Index first, Index n, uint32_t* to) {
  for (Index i = 0; i < n; i += 64) {
    Words w[4];
    philox(stream, static_cast<uint32_t>((first + i) / 4), w);
    FASTNN_EACH (v, 4) store(to + i + 16 * v, w[v]);
  }
}

}  // namespace

template <class T>
void fill_dropout(Kernels<T>& table) {
  table.random_words = random_words;
  table.dropout_forward = forward<T>;
  table.dropout_backward = backward<T>;
}
template void fill_dropout(Kernels<float>&);
template void fill_dropout(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
