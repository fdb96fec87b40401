// Products of a few rows with a weight as it is stored: it is read once, and no second copy is kept.
//
// Every output is summed along the input in 16 partial sums, in the same order however many rows there are: a row's result
// does not depend on the others. bfloat16 is multiplied in pairs where the processor can, and elsewhere as float32.
//
// Letters: M rows, N outputs, K inputs.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "lanes.h"

namespace {

template <typename scalar>
struct Task {
  const scalar *x, *weight, *bias;  // (M, K), (N, K), (N) or null
  scalar* out;                      // (M, N)
  int64_t num_rows, num_outputs, num_inputs;
};

#ifdef EAGLE_HSD_WIDE

constexpr int64_t ROWS = 8, OUTPUTS = 8;  // of a strip, whose weights are fetched while the one before is computed

// One step along the input: `size` numbers, of which the first so many are there.
template <typename scalar>
struct Step;

template <>
struct Step<float> {
  static constexpr int64_t size = 16;

  static __m512 load(const float* from, __mmask32 mask) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from); }
  static __m512 add(__m512 sum, __m512 x, __m512 weight) { return _mm512_fmadd_ps(x, weight, sum); }
};

template <>
struct Step<at::BFloat16> {
#ifdef EAGLE_HSD_PAIRS
  static constexpr int64_t size = 32;

  static __m512bh load(const at::BFloat16* from, __mmask32 mask) { return (__m512bh)_mm512_maskz_loadu_epi16(mask, from); }
  static __m512 add(__m512 sum, __m512bh x, __m512bh weight) { return _mm512_dpbf16_ps(sum, x, weight); }
#else
  static constexpr int64_t size = 16;

  static __m512 load(const at::BFloat16* from, __mmask32 mask) {
    const __m256i halves = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static __m512 add(__m512 sum, __m512 x, __m512 weight) { return _mm512_fmadd_ps(x, weight, sum); }
#endif
};

inline __m512 halved(__m512 a, __m512 b) {  // of four words each, sums of two: a a b b
  const __m512 low = _mm512_shuffle_ps(a, b, 0x88), high = _mm512_shuffle_ps(a, b, 0xdd);
  return _mm512_add_ps(low, high);
}

// Sums of the lanes of 16 vectors; every vector's in the same order.
inline __m512 lane_sums(const __m512 (&parts)[16]) {
  __m512 fours[4];
  for (int i = 0; i < 4; ++i)  // 16 bytes of it: a partial sum of each of four vectors
    fours[i] = halved(halved(parts[4 * i], parts[4 * i + 1]), halved(parts[4 * i + 2], parts[4 * i + 3]));
  const auto folded = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return folded(folded(fours[0], fours[1]), folded(fours[2], fours[3]));
}

template <typename scalar, int rows, int outputs>
void tile(const Task<scalar>& t, int64_t row, int64_t output) {
  using Numbers = Step<scalar>;
  const scalar *x = t.x + row * t.num_inputs, *weight = t.weight + output * t.num_inputs;
  __m512 sum[rows * outputs];
#pragma GCC unroll 16
  for (int i = 0; i < rows * outputs; ++i) sum[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < t.num_inputs; k += Numbers::size) {
    const __mmask32 mask = first_of(std::min(t.num_inputs - k, Numbers::size));
    decltype(Numbers::load(x, mask)) numbers[rows];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) numbers[m] = Numbers::load(x + m * t.num_inputs + k, mask);
#pragma GCC unroll 8
    for (int n = 0; n < outputs; ++n) {
      _mm_prefetch(reinterpret_cast<const char*>(weight + (n + OUTPUTS) * t.num_inputs + k), _MM_HINT_T0);
      const auto own = Numbers::load(weight + n * t.num_inputs + k, mask);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) sum[m * outputs + n] = Numbers::add(sum[m * outputs + n], numbers[m], own);
    }
  }
  __m512 parts[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) parts[i] = i < rows * outputs ? sum[i] : _mm512_setzero_ps();
  float sums[16];
  _mm512_storeu_ps(sums, lane_sums(parts));
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < outputs; ++n) {
      const float offset = t.bias ? number(t.bias[output + n]) : 0.f;
      t.out[(row + m) * t.num_outputs + output + n] = static_cast<scalar>(sums[m * outputs + n] + offset);
    }
}

// All rows with up to 8 outputs, whose weights stay in the nearest cache meanwhile.
template <typename scalar>
void strip(const Task<scalar>& t, int64_t output, int64_t count) {
  in_groups<ROWS>(t.num_rows, [&](auto rows, int64_t row) {
    constexpr int wide = 16 / rows >= 8 ? 8 : 16 / rows >= 4 ? 4 : 2;
    in_groups<wide>(count, [&](auto outputs, int64_t n) { tile<scalar, rows, outputs>(t, row, output + n); });
  });
}

template <typename scalar>
void multiply(const Task<scalar>& t) {
  const int64_t strips = (t.num_outputs + OUTPUTS - 1) / OUTPUTS;
  const int64_t grain = std::max<int64_t>(1, 65536 / (t.num_rows * t.num_inputs * OUTPUTS));  // worth waking a thread for
  at::parallel_for(0, strips, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) strip(t, i * OUTPUTS, std::min(OUTPUTS, t.num_outputs - i * OUTPUTS));
  });
}

template <typename scalar>
at::Tensor multiplied(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  at::Tensor out = at::empty(sizes, x.options());
  multiply(Task<scalar>{x.const_data_ptr<scalar>(), weight.const_data_ptr<scalar>(),
                        bias.defined() ? bias.const_data_ptr<scalar>() : nullptr, out.data_ptr<scalar>(),
                        x.numel() / x.size(-1), weight.size(0), weight.size(1)});
  return out;
}

#endif

// x (.., K), weight (N, K), bias (N) -> (.., N), all bfloat16 or all float32
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
#ifdef EAGLE_HSD_WIDE
  TORCH_CHECK(x.size(-1) == weight.size(1), "input has ", x.size(-1), " columns, the weight ", weight.size(1));
  TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "input is ", x.scalar_type(), ", the weight ", weight.scalar_type());
  const at::Tensor offset = bias ? bias->contiguous() : at::Tensor();
  return x.scalar_type() == at::kFloat ? multiplied<float>(x.contiguous(), weight.contiguous(), offset)
                                       : multiplied<at::BFloat16>(x.contiguous(), weight.contiguous(), offset);
#else
  return at::linear(x, weight, bias);
#endif
}

bool has_product() {
#ifdef EAGLE_HSD_WIDE
  return true;
#else
  return false;
#endif
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(eagle_hsd, m) {
  m.def("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def("has_product() -> bool", has_product);
}

TORCH_LIBRARY_IMPL(eagle_hsd, CPU, m) { m.impl("product", product); }
