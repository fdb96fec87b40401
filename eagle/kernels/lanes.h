// Sixteen keys at a time: scores of some queries, and values mixed by their weights. What is computed for a query does not
// depend on how many are computed beside it.
//
// Lanes<float>, and Lanes<BFloat16> where the processor has AVX512-BF16: there numbers are multiplied in pairs, and weights
// are rounded to bfloat16 as in torch's own kernel. Elsewhere bfloat16 becomes float32 when it is read.

#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(EAGLE_HSD_PLAIN)
#include <immintrin.h>
#define EAGLE_HSD_WIDE 1  // registers of 16 numbers
#ifdef __AVX512BF16__
#define EAGLE_HSD_PAIRS 1  // and products of bfloat16 in pairs
#endif
#endif

namespace {

constexpr int64_t LANES = 16;

inline float number(float x) { return x; }
inline float number(at::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// exp of numbers up to 0, to 2e-7 (Cephes): unlike the library's it is vectorised, and so is rounding by a large summand
inline float exponential(float x) {
  x = x < -87.f ? -87.f : x;
  const float n = (x * 1.44269504f + 12582912.f) - 12582912.f;
  float r = x - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) y = y * r + c;
  y = y * r * r + r + 1.f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return y * power;
}

// work(size, first) for `count` things, `most` at a time; `size` is a constant
template <int most, typename Work>
void in_groups(int64_t count, Work&& work, int64_t first = 0) {
  if constexpr (most > 0) {
    for (; count - first >= most; first += most) work(std::integral_constant<int, most>(), first);
    in_groups<most - 1>(count, work, first);
  }
}

template <typename scalar>
struct Lanes {
  using Word = float;
  static constexpr int64_t PAIRS = LANES;  // words of the weights of a block

  static int64_t words(int64_t size) { return size; }

  static void load_query(const scalar* from, int64_t size, Word* to) {
    for (int64_t i = 0; i < size; ++i) to[i] = number(from[i]);
  }

  static void load_keys(const scalar* const* rows, int64_t size, Word* to) {  // -> (d, 16)
    for (int64_t i = 0; i < size; ++i)
      for (int64_t lane = 0; lane < LANES; ++lane) to[i * LANES + lane] = number(rows[lane][i]);
  }

  static void load_values(const scalar* const* rows, int64_t size, int64_t width, Word* to) {  // -> (16, width)
    for (int64_t lane = 0; lane < LANES; ++lane)
      for (int64_t i = 0; i < width; ++i) to[lane * width + i] = i < size ? number(rows[lane][i]) : 0.f;
  }

  static void load_weights(const float* from, Word* to) { std::copy(from, from + LANES, to); }

  template <int count>
  static void score(const Word* keys, int64_t num_words, const Word* queries, float* scores, int64_t stride) {
    float sums[count][LANES] = {};
    for (int64_t i = 0; i < num_words; ++i)
      for (int q = 0; q < count; ++q)
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; ++lane) sums[q][lane] += keys[i * LANES + lane] * queries[q * num_words + i];
    for (int q = 0; q < count; ++q) std::copy(sums[q], sums[q] + LANES, scores + q * stride);
  }

  template <int count>
  static void mix(const Word* values, int64_t width, const Word* weights, float* mixed) {
    for (int64_t at = 0; at < width; at += LANES) {
      float sums[count][LANES];
      for (int q = 0; q < count; ++q) std::copy(mixed + q * width + at, mixed + q * width + at + LANES, sums[q]);
      for (int64_t key = 0; key < LANES; ++key)
        for (int q = 0; q < count; ++q)
#pragma omp simd
          for (int64_t lane = 0; lane < LANES; ++lane)
            sums[q][lane] += values[key * width + at + lane] * weights[q * LANES + key];
      for (int q = 0; q < count; ++q) std::copy(sums[q], sums[q] + LANES, mixed + q * width + at);
    }
  }
};

#ifdef EAGLE_HSD_WIDE

inline __mmask32 first_of(int64_t count) { return count >= 32 ? ~__mmask32(0) : (__mmask32(1) << count) - 1; }

#endif

#ifdef EAGLE_HSD_PAIRS

// Columns of 16 rows of 16 words: to[i] holds word i of every row.
inline void transpose(const __m512i (&rows)[16], __m512i* to) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 4
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // b[4 k + j]: words j, j + 4, .. of rows 4 k .. 4 k + 3
    const __m512i even = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), odd = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88), odd2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    to[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
    to[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    to[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
    to[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
}

template <>
struct Lanes<at::BFloat16> {
  using Word = uint32_t;  // two numbers
  static constexpr int64_t PAIRS = LANES / 2;

  static int64_t words(int64_t size) { return (size + 31) / 32 * 16; }

  static __m512i load(const at::BFloat16* from, int64_t left) { return _mm512_maskz_loadu_epi16(first_of(left), from); }

  static void load_query(const at::BFloat16* from, int64_t size, Word* to) {
    for (int64_t i = 0; i < size; i += 32) _mm512_storeu_si512(to + i / 2, load(from + i, size - i));
  }

  static void load_keys(const at::BFloat16* const* rows, int64_t size, Word* to) {  // -> (d / 2, 16)
    for (int64_t i = 0; i < size; i += 32) {
      __m512i part[16], turned[16];
#pragma GCC unroll 16
      for (int64_t lane = 0; lane < LANES; ++lane) part[lane] = load(rows[lane] + i, size - i);
      transpose(part, turned);
#pragma GCC unroll 16
      for (int64_t word = 0; word < 16; ++word) _mm512_storeu_si512(to + (i / 2 + word) * LANES, turned[word]);
    }
  }

  static void load_values(const at::BFloat16* const* rows, int64_t size, int64_t width, Word* to) {  // -> (8, width)
    for (int64_t pair = 0; pair < PAIRS; ++pair)
      for (int64_t i = 0; i < width; i += 16) {
        const __mmask16 mask = static_cast<__mmask16>(first_of(std::min<int64_t>(size - i, 16)));
        const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * pair] + i));
        const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * pair + 1] + i));
        _mm512_storeu_si512(to + pair * width + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
  }

  static void load_weights(const float* from, Word* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)));
  }

  static __m512 product(__m512 sum, const Word* numbers, Word pair) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(numbers), (__m512bh)_mm512_set1_epi32(static_cast<int>(pair)));
  }

  template <int count>
  static void score(const Word* keys, int64_t num_words, const Word* queries, float* scores, int64_t stride) {
    __m512 sums[count];
#pragma GCC unroll 8
    for (int q = 0; q < count; ++q) sums[q] = _mm512_setzero_ps();
    for (int64_t i = 0; i < num_words; ++i)
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) sums[q] = product(sums[q], keys + i * LANES, queries[q * num_words + i]);
#pragma GCC unroll 8
    for (int q = 0; q < count; ++q) _mm512_storeu_ps(scores + q * stride, sums[q]);
  }

  template <int count>
  static void mix(const Word* values, int64_t width, const Word* weights, float* mixed) {
    for (int64_t at = 0; at < width; at += LANES) {
      __m512 sums[count];
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) sums[q] = _mm512_loadu_ps(mixed + q * width + at);
      for (int64_t pair = 0; pair < PAIRS; ++pair)
#pragma GCC unroll 8
        for (int q = 0; q < count; ++q) sums[q] = product(sums[q], values + pair * width + at, weights[q * PAIRS + pair]);
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) _mm512_storeu_ps(mixed + q * width + at, sums[q]);
    }
  }
};

#endif

}  // namespace
