// Products of a few rows with 4-bit and 8-bit weights, without unpacking the weights to memory.
//
//   weight    w = scale * q + low          in blocks of 32 along the input, q unsigned (ggml's Q4_1; Q8_0 with low = -128 scale)
//   input     x = unit * i                 in the same blocks, i signed 8-bit, quantised here row by row
//   product   sum over blocks of scale * unit * (q . i) + low * unit * sum(i)
//
// Integer dot products are exact, and every row is summed in the same order however many rows there are: a row's result
// does not depend on the others. Weights of 16 outputs lie beside each other (a tile), so that a vector register holds
// one number of each; a tile is read once for all rows.
//
// Letters: M rows, N outputs, K inputs, B = K / 32 blocks, T = N / 16 tiles.

#include <ATen/Parallel.h>
#include <torch/library.h>
#include <ATen/ATen.h>
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 32, TILE = 16, GROUPS = BLOCK / 4, ROWS = 8;

struct Rows {
  std::vector<int8_t> numbers;  // (M, K)
  std::vector<float> units;     // (M, B)
  std::vector<float> sums;      // (M, B), unit * sum of the block's numbers
};

template <typename scalar>
Rows quantised(const scalar* x, int64_t num_rows, int64_t num_inputs) {
  const int64_t blocks = num_inputs / BLOCK;
  Rows rows{std::vector<int8_t>(num_rows * num_inputs), std::vector<float>(num_rows * blocks),
            std::vector<float>(num_rows * blocks)};
  at::parallel_for(0, num_rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin * blocks; place < end * blocks; ++place) {
      const scalar* from = x + place * BLOCK;
      int8_t* to = rows.numbers.data() + place * BLOCK;
      float largest = 0.f;
      for (int64_t i = 0; i < BLOCK; ++i) largest = std::max(largest, std::abs(static_cast<float>(from[i])));
      const float unit = largest / 127.f, inverse = largest > 0.f ? 127.f / largest : 0.f;
      int32_t sum = 0;
      for (int64_t i = 0; i < BLOCK; ++i) {
        const int32_t number = static_cast<int32_t>(std::nearbyintf(static_cast<float>(from[i]) * inverse));
        to[i] = static_cast<int8_t>(number);
        sum += number;
      }
      rows.units[place] = unit;
      rows.sums[place] = unit * static_cast<float>(sum);
    }
  });
  return rows;
}

struct Weights {
  const uint8_t* numbers;  // (T, B, 256 or 512): groups of 4 inputs of 16 outputs; in 4 bits groups g and g + 4 share a byte
  const at::Half* scales;  // (T, B, 16)
  const at::Half* lows;    // (T, B, 16)
};

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__) && !defined(EAGLE_HSD_PLAIN)
#define EAGLE_HSD_BYTES 1

template <int bits>
inline void unpack(const uint8_t* from, __m512i (&groups)[GROUPS]) {
  if constexpr (bits == 8) {
    for (int g = 0; g < GROUPS; ++g) groups[g] = _mm512_loadu_si512(from + 64 * g);
  } else {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int g = 0; g < GROUPS / 2; ++g) {
      const __m512i both = _mm512_loadu_si512(from + 64 * g);
      groups[g] = _mm512_and_si512(both, nibble);
      groups[g + GROUPS / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    }
  }
}

inline __m512 halves(const at::Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

template <int bits, int num_rows>
void tile_of_rows(const Weights& weights, const Rows& rows, int64_t tile, int64_t first, int64_t blocks, float* out,
                  int64_t stride) {
  constexpr int64_t bytes = BLOCK * TILE * bits / 8;
  __m512 sums[num_rows];
  for (int m = 0; m < num_rows; ++m) sums[m] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t place = tile * blocks + b;
    __m512i groups[GROUPS];
    unpack<bits>(weights.numbers + place * bytes, groups);
    const __m512 scale = halves(weights.scales + place * TILE), low = halves(weights.lows + place * TILE);
    for (int m = 0; m < num_rows; ++m) {
      const int64_t row = (first + m) * blocks + b;
      const int32_t* numbers = reinterpret_cast<const int32_t*>(rows.numbers.data() + row * BLOCK);
      __m512i dot = _mm512_setzero_si512();
      for (int g = 0; g < GROUPS; ++g) dot = _mm512_dpbusd_epi32(dot, groups[g], _mm512_set1_epi32(numbers[g]));
      const __m512 unit = _mm512_mul_ps(scale, _mm512_set1_ps(rows.units[row]));
      sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), unit, sums[m]);
      sums[m] = _mm512_fmadd_ps(low, _mm512_set1_ps(rows.sums[row]), sums[m]);
    }
  }
  for (int m = 0; m < num_rows; ++m) _mm512_storeu_ps(out + m * stride, sums[m]);
}

#else

template <int bits, int num_rows>
void tile_of_rows(const Weights& weights, const Rows& rows, int64_t tile, int64_t first, int64_t blocks, float* out,
                  int64_t stride) {
  constexpr int64_t bytes = BLOCK * TILE * bits / 8;
  float sums[num_rows][TILE] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t place = tile * blocks + b;
    uint8_t groups[GROUPS][TILE][4];
    const uint8_t* from = weights.numbers + place * bytes;
    for (int64_t i = 0; i < GROUPS * TILE * 4; ++i) {
      uint8_t* to = &groups[0][0][0] + i;
      const int64_t half = GROUPS * TILE * 2;
      *to = bits == 8 ? from[i] : (i < half ? from[i] & 15 : from[i - half] >> 4);
    }
    for (int m = 0; m < num_rows; ++m) {
      const int64_t row = (first + m) * blocks + b;
      const int8_t* numbers = rows.numbers.data() + row * BLOCK;
      for (int64_t o = 0; o < TILE; ++o) {
        int32_t dot = 0;
        for (int64_t g = 0; g < GROUPS; ++g)
          for (int64_t i = 0; i < 4; ++i) dot += int32_t(groups[g][o][i]) * int32_t(numbers[4 * g + i]);
        const float scale = weights.scales[place * TILE + o], low = weights.lows[place * TILE + o];
        sums[m][o] = std::fma(static_cast<float>(dot), scale * rows.units[row], sums[m][o]);
        sums[m][o] = std::fma(low, rows.sums[row], sums[m][o]);
      }
    }
  }
  for (int m = 0; m < num_rows; ++m)
    for (int64_t o = 0; o < TILE; ++o) out[m * stride + o] = sums[m][o];
}

#endif

template <int bits, int num_rows>
void some_rows(const Weights& weights, const Rows& rows, int64_t tile, int64_t first, int64_t left, int64_t blocks,
               float* out, int64_t stride) {
  if constexpr (num_rows > 0) {
    if (left == num_rows) return tile_of_rows<bits, num_rows>(weights, rows, tile, first, blocks, out, stride);
    some_rows<bits, num_rows - 1>(weights, rows, tile, first, left, blocks, out, stride);
  }
}

template <int bits>
void multiply(const Weights& weights, const Rows& rows, int64_t num_rows, int64_t blocks, int64_t tiles, float* out) {
  const int64_t stride = tiles * TILE;
  const int64_t grain = std::max<int64_t>(1, 32768 / (num_rows * blocks * BLOCK));  // tiles worth waking a thread for
  at::parallel_for(0, tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      for (int64_t first = 0; first < num_rows; first += ROWS)
        some_rows<bits, ROWS>(weights, rows, tile, first, std::min(ROWS, num_rows - first), blocks,
                              out + first * stride + tile * TILE, stride);
  });
}

// x (.., K) float32 or bfloat16; numbers (T, B, 256 or 512) uint8; scales and lows (T, B, 16) float16 as int16;
// bias (N) of x's type -> (.., N) of x's type
at::Tensor linear(const at::Tensor& x, const at::Tensor& numbers, const at::Tensor& scales, const at::Tensor& lows,
                  const std::optional<at::Tensor>& bias) {
  const int64_t tiles = numbers.size(0), blocks = numbers.size(1), bits = numbers.size(2) * 8 / (BLOCK * TILE);
  TORCH_CHECK(x.size(-1) == blocks * BLOCK, "input has ", x.size(-1), " columns, weights ", blocks * BLOCK);
  TORCH_CHECK(bits == 4 || bits == 8, "weights have ", bits, " bits, 4 and 8 are known");
  const at::Tensor own = x.contiguous();
  const int64_t num_rows = own.numel() / own.size(-1);
  std::vector<int64_t> sizes = own.sizes().vec();
  sizes.back() = tiles * TILE;
  at::Tensor out = at::empty(sizes, own.options().dtype(at::kFloat));
  const Weights weights{numbers.const_data_ptr<uint8_t>(),
                        reinterpret_cast<const at::Half*>(scales.const_data_ptr<int16_t>()),
                        reinterpret_cast<const at::Half*>(lows.const_data_ptr<int16_t>())};
  const Rows rows = own.scalar_type() == at::kBFloat16
                        ? quantised(own.const_data_ptr<at::BFloat16>(), num_rows, own.size(-1))
                        : quantised(own.const_data_ptr<float>(), num_rows, own.size(-1));
  if (bits == 4) multiply<4>(weights, rows, num_rows, blocks, tiles, out.data_ptr<float>());
  else multiply<8>(weights, rows, num_rows, blocks, tiles, out.data_ptr<float>());
  if (bias.has_value()) out.add_(*bias);
  return out.to(own.scalar_type());
}

bool has_low_bit() {
#ifdef EAGLE_HSD_BYTES
  return true;
#else
  return false;
#endif
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(eagle_hsd, m) {
  m.def("has_low_bit() -> bool", has_low_bit);
  m.def("low_bit_linear(Tensor x, Tensor numbers, Tensor scales, Tensor lows, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(eagle_hsd, CPU, m) { m.impl("low_bit_linear", linear); }
