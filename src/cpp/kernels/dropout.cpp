// Dropout (Srivastava et al. 2014) with masks from Philox-4x32-10 (Salmon et al. 2011), 16 counters at a time.
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// Words of eight counters, each in the low half of a lane; what stands in the high half does not matter.
using Words = Vec<uint64_t>;

// Groups of 16 counters take turns, as many as registers have room for, since each round of one waits for the round before: with
// AVX-512 two take 0.8 times as long as one after the other.
constexpr int kTogether = kRegs == 1 ? 2 : 1;

// Word v of block + 16 g + l, l < 16, is in w[v][2 g + l % 2]. Even and odd counters have vectors of their own, since
// the product of two lanes is then the words low and high in place. (One vector of 16 words, its products put back into words,
// took 130 cycles, the same as one vector after the other.)
template <int G>
FASTNN_INLINE void philox(const RandomStream& s, uint32_t block, Words (&w)[4][2 * G]) {
  alignas(kVectorBytes) static constexpr uint64_t numbers[2][8] = {{0, 2, 4, 6, 8, 10, 12, 14}, {1, 3, 5, 7, 9, 11, 13, 15}};
  FASTNN_EACH (h, 2 * G) {
    w[0][h] = set1<uint64_t>(block + static_cast<uint32_t>(h / 2 * 16)) + load(numbers[h % 2]);
    w[1][h] = set1<uint64_t>(s.stream);
    w[2][h] = set1<uint64_t>(s.step);
    w[3][h] = set1<uint64_t>(s.step >> 32);
  }
  uint32_t key0 = static_cast<uint32_t>(s.seed), key1 = static_cast<uint32_t>(s.seed >> 32);
  FASTNN_EACH (round, 10) {
    FASTNN_EACH (h, 2 * G) {
      const Words p0 = multiply_low(w[0][h], set1<uint64_t>(0xD2511F53u)),
                  p2 = multiply_low(w[2][h], set1<uint64_t>(0xCD9E8D57u));
      w[0][h] = high_half(p2) ^ w[1][h] ^ set1<uint64_t>(key0);
      w[1][h] = p2;
      w[2][h] = high_half(p0) ^ w[3][h] ^ set1<uint64_t>(key1);
      w[3][h] = p0;
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// Bit 16 v + l of kept[g] is set where word v of block + 16 g + l is at least limit.
template <int G>
FASTNN_INLINE void keep_bits(const RandomStream& s, uint32_t block, uint32_t limit, uint64_t (&kept)[G]) {
  Words w[4][2 * G];
  philox<G>(s, block, w);
  FASTNN_EACH (g, G) {
    kept[g] = 0;
    FASTNN_EACH (v, 4)
      kept[g] |= static_cast<uint64_t>(bits(interleaved(w[v][2 * g], w[v][2 * g + 1]) >= set1(limit))) << (16 * v);
  }
}

struct Whole {
  constexpr operator Index() const { return 64; }
};
// Calls group(i, count) for groups of 64 of n elements: the count is a constant but for the last one.
template <class F>
FASTNN_INLINE void each_group(Index n, F&& group) {
  Index i = 0;
  for (; i + 64 <= n; i += 64) group(i, Whole{});
  if (i < n) group(i, n - i);
}

// y = keep ? x*scale : 0 for up to 64 elements.
template <class T>
FASTNN_INLINE void apply(uint64_t keep, Vec<T> scale, Index n, const T* x, T* y, bool around) {
  each_vector<T>(n, [&](Index i, auto lanes) FASTNN_LAMBDA {
    store(y + i, select(mask_from_bits<T>(static_cast<unsigned>(keep >> i)), load(x + i, lanes) * scale, set1(T(0))), lanes,
          around);
  });
}

template <class T>
void forward(const RandomStream& stream, uint32_t threshold, T scale, Index first, Index n, const T* x, T* y, uint8_t* keep,
             bool around) {
  around = around && at_line(y);
  const Vec<T> s = set1(scale);
  const auto groups = [&](Index i, auto count, auto& kept) FASTNN_LAMBDA {
    constexpr int G = sizeof(kept) / sizeof(kept[0]);
    keep_bits<G>(stream, static_cast<uint32_t>((first + i) / 4), threshold, kept);
    __builtin_memcpy(keep + i / 8, kept, static_cast<size_t>((count + 7) / 8 + 8 * (G - 1)));
    FASTNN_EACH (g, G) apply(kept[g], s, count, x + i + 64 * g, y + i + 64 * g, around);
  };
  Index i = 0;
  for (uint64_t kept[kTogether]; i + 64 * kTogether <= n; i += 64 * kTogether) groups(i, Whole{}, kept);
  each_group(n - i, [&](Index at, auto count) FASTNN_LAMBDA {
    uint64_t kept[1];
    groups(i + at, count, kept);
  });
  stream_end();
}

template <class T>
void backward(const uint8_t* keep, T scale, Index n, const T* dy, T* dx, bool around) {
  around = around && at_line(dx);
  const Vec<T> s = set1(scale);
  each_group(n, [&](Index i, auto count) FASTNN_LAMBDA {
    uint64_t kept = 0;
    __builtin_memcpy(&kept, keep + i / 8, static_cast<size_t>((count + 7) / 8));
    apply(kept, s, count, dy + i, dx + i, around);
  });
  stream_end();
}

void random_words(const RandomStream& stream, Index first, Index n, uint32_t* to) {
  for (Index i = 0; i < n; i += 64) {
    Words w[4][2];
    philox<1>(stream, static_cast<uint32_t>((first + i) / 4), w);
    FASTNN_EACH (v, 4) store(to + i + 16 * v, interleaved(w[v][0], w[v][1]));
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
