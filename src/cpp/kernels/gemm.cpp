// C = A B (+ bias, or + C), the serial part: packing and a block of C out of register tiles.
//
// A tile of MR rows x NV vectors of C stays in registers while k runs: each step loads NV vectors of B and broadcasts MR numbers
// of A. Every element of such a C is one chain fma(a_ip, b_pj, c_ij) over p = 0, 1, ..., so its bits depend on no blocking, tile
// or thread. (few_rows.cpp makes the same chains another way; dots.cpp has the other
// form that an element may take.)
#include "kernels/parts.h"
#include "simd/simd.h"

namespace fastnn::FASTNN_TARGET {
namespace {

// The widest tile for MR rows such that MR*NV accumulators, NV vectors of B and one broadcast fit the registers.
constexpr int kWidest = 4;
constexpr int widest_tile(int mr) {
  const int nv = (kRegisters - 1) / (kRegs * (mr + 1));
  return nv > kWidest ? kWidest : nv;
}
constexpr int tallest_tile() {
  int mr = 1;
  while (widest_tile(mr + 1) >= (kRegisterBytes == 64 ? 2 : 1)) ++mr;
  return mr;
}
constexpr int kTileRows = tallest_tile();  // 14 on AVX-512, 6 on AVX2 and NEON, 2 on SSE2
// Half a vector has a tile of its own from so many rows on: with fewer, chains of fma wait for one another.
constexpr int kHalfRows = kTileRows / 2 + 1;

// So shallow a product is mostly stores of C: into fewer rows at a time, where they are longer than the widest tile, 662x142x8 is
// 5 % faster (1970x11x4 takes 1.6 times as long), and it needs no prefetch of C.
constexpr Index kShallow = 8, kShallowRows = kTileRows < 4 ? kTileRows : 4;

template <class T>
struct Tile {
  const T* a;
  Index a_row, a_col;
  const T* b;
  Index b_row, b_vector;
  Index k;
  T* c;
  Index c_row;
  const T* bias;  // the chain starts from C if accumulate, else from bias, else from zero
  bool accumulate;
  int last;  // lanes of the last vector that exist, 1..kLanes
};

// V: whole vectors, or half ones for a few last columns, which then cost half. MaskB: the last vector of B may not be read beyond
// its lanes (B is not packed).
template <class V, int MR, int NV, bool MaskB, class T = typename Parts<V>::Number>
void tile_kernel(const Tile<T>& t) {
  constexpr int L = Parts<V>::count * Parts<V>::lanes;
  static_assert((MR * NV + NV) * kRegs + 1 <= kRegisters, "the tile must fit the registers");
  V acc[MR][NV];
  const First last{t.last};
  const bool full = t.last == L;
  const auto load_row = [&](const T* p, V* row) {
    FASTNN_EACH (v, NV - 1) row[v] = load_as<V>(p + v * L);
    row[NV - 1] = full ? load_as<V>(p + (NV - 1) * L) : load_as<V>(p + (NV - 1) * L, last);
  };
  if (t.accumulate) {
    FASTNN_EACH (i, MR) load_row(t.c + i * t.c_row, acc[i]);
  } else if (t.bias) {
    load_row(t.bias, acc[0]);
    _Pragma("GCC unroll 16") for (int i = 1; i < MR; ++i) FASTNN_EACH (v, NV) acc[i][v] = acc[0][v];
  } else {
    FASTNN_EACH (i, MR)
      FASTNN_EACH (v, NV) acc[i][v] = set1_as<V>(T(0));
  }
  // The next tile of C: where C leaves the cache, 2048^3 rose from 84 % of the peak to 88 %. Prefetching B as well changed
  // nothing.
  if (t.k > kShallow)
    FASTNN_EACH (i, MR)
      FASTNN_EACH (v, NV) __builtin_prefetch(t.c + i * t.c_row + (NV + v) * L, 1);
  // Rows of A are addressed as four base pointers plus 0..3 strides; the asm keeps the compiler from making MR pointers of them,
  // which spill.
  constexpr int kGroups = (MR + 3) / 4;
  const char* a[kGroups];
  Index row = t.a_row * Index(sizeof(T)), row3 = 3 * row;
  FASTNN_EACH (g, kGroups) a[g] = reinterpret_cast<const char*>(t.a + 4 * g * t.a_row);
  const char* b = reinterpret_cast<const char*>(t.b);
  const Index a_step = t.a_col * Index(sizeof(T)), b_step = t.b_row * Index(sizeof(T));
  Index vector = t.b_vector * Index(sizeof(T)), vector3 = 3 * vector;
  for (Index p = t.k; p > 0; --p) {
    V rows[NV];
    asm("" : "+r"(row), "+r"(row3), "+r"(vector), "+r"(vector3));
    FASTNN_EACH (v, NV) {
      const T* from = reinterpret_cast<const T*>(v == 3 ? b + vector3 : b + v * vector);
      rows[v] = MaskB && v == NV - 1 ? load_as<V>(from, last) : load_as<V>(from);
    }
    FASTNN_EACH (i, MR) {
      const char* from = i % 4 == 3 ? a[i / 4] + row3 : a[i / 4] + (i % 4) * row;
      const V x = set1_as<V>(*reinterpret_cast<const T*>(from));
      FASTNN_EACH (v, NV) acc[i][v] = fma(x, rows[v], acc[i][v]);
    }
    FASTNN_EACH (g, kGroups) {
      a[g] += a_step;
      asm("" : "+r"(a[g]));
    }
    b += b_step;
  }
  FASTNN_EACH (i, MR) {
    T* c = t.c + i * t.c_row;
    FASTNN_EACH (v, NV - 1) store(c + v * L, acc[i][v]);
    if (full)
      store(c + (NV - 1) * L, acc[i][NV - 1]);
    else
      store(c + (NV - 1) * L, acc[i][NV - 1], last);
  }
}

template <class T>
using TileKernel = void (*)(const Tile<T>&);

// The kernel for mr rows x nv vectors, found by walking the instances at compile time.
template <class T>
struct TileKernels {
  TileKernel<T> at[kTileRows + 1][kWidest + 1][2] = {}, half[kTileRows + 1][2] = {};
  template <int MR, int NV>
  constexpr void fill() {
    if constexpr (MR <= kTileRows) {
      if constexpr (NV <= widest_tile(MR)) {
        at[MR][NV][0] = tile_kernel<Vec<T>, MR, NV, false>;
        at[MR][NV][1] = tile_kernel<Vec<T>, MR, NV, true>;
        if constexpr (NV == 1 && MR >= kHalfRows) {
          half[MR][0] = tile_kernel<Half<T>, MR, 1, false>;
          half[MR][1] = tile_kernel<Half<T>, MR, 1, true>;
        }
        fill<MR, NV + 1>();
      } else {
        fill<MR + 1, 1>();
      }
    }
  }
  constexpr TileKernels() { fill<1, 1>(); }
};
template <class T>
constexpr TileKernels<T> kTileKernels{};

// Rows of A that are packed at once, panel by panel of a tile's rows: a transposed A gives up whole lines, of which 6 rows use 24
// bytes.
constexpr Index kPackedPanels = 56 / kTileRows;

// Rows of the next panel where m rows are left for `panels` of them.
FASTNN_INLINE int panel_rows(Index m, Index panels) { return static_cast<int>((m + panels - 1) / panels); }

// Rows of the next `count` panels.
FASTNN_INLINE Index rows_of(Index m, Index panels, Index count) {
  Index left = m;
  for (Index panel = 0; panel < count && panel < panels; ++panel) left -= panel_rows(left, panels - panel);
  return m - left;
}

// to[p*R + i] = from[p*column + i]: what R rows of a column-major matrix have of k columns.
template <int R, class T>
void copy_rows(const T* from, Index column, Index k, T* to) {
  for (Index p = 0; p < k; ++p) __builtin_memcpy(to + p * R, from + p * column, R * sizeof(T));
}
template <class T>
using CopyRows = void (*)(const T* from, Index column, Index k, T* to);
template <class T>
struct RowCopies {
  CopyRows<T> of[kTileRows + 1] = {};
  template <int R>
  constexpr void fill() {
    of[R] = copy_rows<R>;
    if constexpr (R > 1) fill<R - 1>();
  }
  constexpr RowCopies() { fill<kTileRows>(); }
};
template <class T>
constexpr RowCopies<T> kRowCopies{};

// Panels of the m rows of A: to[p*rows + i] = a(i, p) in each, so that a step of k reads one line; kTileRows*k numbers a panel.
// Lines stay in the first-level cache from panel to panel.
template <class T>
void pack_lines(const GemmBlock<T>& g, const T* a, Index m, Index panels, T* to) {
  constexpr Index kColumns = 32;
  for (Index p = 0; p < g.k; p += kColumns) {
    const T* from = a + p * g.a_col;
    Index left = m;
    for (Index panel = 0; panel < panels; ++panel) {
      const int rows = panel_rows(left, panels - panel);
      kRowCopies<T>.of[rows](from, g.a_col, smaller(kColumns, g.k - p), to + panel * kTileRows * g.k + p * rows);
      from += rows;
      left -= rows;
    }
  }
}

// The same for one panel of an A whose rows are contiguous, or of any strides.
template <class T>
void pack_rows(const GemmBlock<T>& g, const T* a, int rows, T* to) {
  constexpr int S = kTransposeBlock<T>;
  int i = 0;
  if (g.a_col == 1)
    for (; i + S <= rows; i += S) {
      Index p = 0;
      for (; p + S <= g.k; p += S) transpose_block(a + i * g.a_row + p, g.a_row, to + p * rows + i, rows);
      for (; p < g.k; ++p)
        for (int s = 0; s < S; ++s) to[p * rows + i + s] = a[(i + s) * g.a_row + p];
    }
  for (; i < rows; ++i)
    for (Index p = 0; p < g.k; ++p) to[p * rows + i] = a[i * g.a_row + p * g.a_col];
}

// Tiles of half the rows are twice as wide on AVX-512. Where much of the time is stores of C, these are longer then, and the rows
// of a C that are pages apart, which fall into one set of the first-level cache, fit it: 300x300x20 rises from 81 to 89 % of the
// peak, 300x300x48 from 90 to 93, 512x2048x20 from 78 to 92, 2048x2048x32 from 74 to 80. (784x100x48 would fall from 86 to 84.)
constexpr Index kFlatRows = 7, kFlatDepth = 48, kFlatDepthOfOneSet = 128;
template <class T>
Index tallest_of(const GemmBlock<T>& g) {
  const Index wide = kWidest * kLanes<T>;
  if (g.k <= kShallow && g.n > wide) return kShallowRows;
  const bool one_set = g.c_row * static_cast<Index>(sizeof(T)) % 4096 == 0;
  const bool flat = kTileRows > kFlatRows && g.n > 2 * wide && g.k <= (one_set ? kFlatDepthOfOneSet : kFlatDepth);
  return flat ? kFlatRows : kTileRows;
}

template <class T>
void gemm_block(const GemmBlock<T>& g) {
  const Index tallest = tallest_of(g);
  const Index panels = (g.m + tallest - 1) / tallest;
  const Index vectors = (g.n + kLanes<T> - 1) / kLanes<T>;
  const int tail = static_cast<int>(g.n - (vectors - 1) * kLanes<T>);
  const bool mask = !g.b_packed && tail != kLanes<T>, narrow = 2 * tail <= kLanes<T>;
  Index i = 0;
  for (Index panel = 0; panel < panels; ++panel) {
    const int mr = panel_rows(g.m - i, panels - panel);
    T* c = g.transient ? g.c : g.c + i * g.c_row;
    Tile<T> t{g.a + i * g.a_row, g.a_row, g.a_col, g.b, g.b_row, g.b_vector, g.k, c, g.c_row, g.bias, g.accumulate, kLanes<T>};
    if (g.row_scratch) {
      const Index at = panel % kPackedPanels;
      T* packed = g.row_scratch + at * kTileRows * g.k;
      if (g.a_row != 1)
        pack_rows(g, t.a, mr, packed);
      else if (at == 0)
        pack_lines(g, t.a, rows_of(g.m - i, panels - panel, kPackedPanels), smaller(panels - panel, kPackedPanels), packed);
      t.a = packed;
      t.a_row = 1;
      t.a_col = mr;
    }
    const int widest = widest_tile(mr);
    const bool half = narrow && mr >= kHalfRows;
    for (Index v = 0; v < vectors;) {
      const bool last = v + 1 == vectors;
      const int nv = half && last ? 1 : static_cast<int>(smaller(widest, vectors - v - half));
      const bool end = v + nv == vectors;
      t.last = end ? tail : kLanes<T>;
      (half && last ? kTileKernels<T>.half[mr][mask] : kTileKernels<T>.at[mr][nv][end && mask])(t);
      v += nv;
      t.b += nv * g.b_vector;
      t.c += nv * kLanes<T>;
      if (t.bias) t.bias += nv * kLanes<T>;
    }
    if (g.finish) g.finish(g.context, c, i, mr);
    i += mr;
  }
}

// A panel of `width` columns that are contiguous, `column` apart, and zeros beyond.
template <class T>
void pack_rest(const T* from, Index column, int width, Index rows, T* to) {
  constexpr int L = kLanes<T>, S = kRegLanes<T>;
  for (Index p = 0; p < rows; p += S)
    for (int c = 0; c < L; c += S) {
      const int depth = static_cast<int>(smaller(S, rows - p));
      Reg<T> square[S] = {};
      FASTNN_EACH (s, S)
        if (c + s < width) load_first(from + (c + s) * column + p, depth, square[s]);
      turn(square);
      FASTNN_EACH (s, S)
        if (s < depth) __builtin_memcpy(to + (p + s) * L + c, &square[s], sizeof square[s]);
    }
}

// Panels one vector wide, `panel` numbers apart: to[(j / kLanes) * panel + p*kLanes + j % kLanes] = b(p, j), zero beyond the last
// column.
template <class T>
void pack_columns(const Matrix<const T>& b, T* to, Index panel) {
  constexpr int L = kLanes<T>, S = kTransposeBlock<T>;
  if (b.col_stride == 1) {
    // A few whole rows at a time, which the hardware foresees: 39 GB/s where strips of four panels down the rows had 15.
    constexpr int kRows = 8;
    for (Index p = 0; p < b.rows; p += kRows) {
      const T* from = b.data + p * b.row_stride;
      T* out = to + p * L;
      const Index rows = smaller(kRows, b.rows - p);
      each_vector<T>(b.cols, [&](Index j, auto lanes) FASTNN_LAMBDA {
        if (rows == kRows)
          FASTNN_EACH (r, kRows) store(out + r * L, load(from + r * b.row_stride + j, lanes));
        else
          for (Index r = 0; r < rows; ++r) store(out + r * L, load(from + r * b.row_stride + j, lanes));
        out += panel;
      });
    }
    return;
  }
  for (Index j = 0; j < b.cols; j += L, to += panel) {
    const int width = static_cast<int>(smaller(L, b.cols - j));
    const T* from = b.data + j * b.col_stride;
    if (b.row_stride != 1) {
      for (Index p = 0; p < b.rows; ++p)
        for (int c = 0; c < L; ++c) to[p * L + c] = c < width ? from[c * b.col_stride + p * b.row_stride] : T(0);
      continue;
    }
    Index p = 0;
    if (width == L)
      for (; p + S <= b.rows; p += S) transpose_strip(from + p, b.col_stride, to + p * L);
    pack_rest(from + p, b.col_stride, width, b.rows - p, to + p * L);
  }
}

template <class T>
void transpose(const Matrix<const T>& from, T* to, Index to_row) {
  constexpr int S = kTransposeBlock<T>;
  Index i = 0;
  if (from.col_stride == 1)
    for (; i + S <= from.rows; i += S) {
      const T* rows = from.data + i * from.row_stride;
      Index j = 0;
      for (; j + S <= from.cols; j += S) transpose_block(rows + j, from.row_stride, to + j * to_row + i, to_row);
      for (; j < from.cols; ++j)
        for (int r = 0; r < S; ++r) to[j * to_row + i + r] = rows[r * from.row_stride + j];
    }
  for (; i < from.rows; ++i)
    for (Index j = 0; j < from.cols; ++j) to[j * to_row + i] = from.data[i * from.row_stride + j * from.col_stride];
}

}  // namespace

template <class T>
void fill_gemm(Kernels<T>& table) {
  table.tile_rows = kTileRows;
  table.packed_rows = kPackedPanels * kTileRows;
  table.lanes = kLanes<T>;
  table.gemm_block = gemm_block<T>;
  table.pack_columns = pack_columns<T>;
  table.transpose = transpose<T>;
}
template void fill_gemm(Kernels<float>&);
template void fill_gemm(Kernels<double>&);

}  // namespace fastnn::FASTNN_TARGET
