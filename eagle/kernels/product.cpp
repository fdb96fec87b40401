// Products of a few rows in bfloat16 with a weight as it is stored: it is read once, and no second copy is kept.
//
// Every output is summed along the input in 16 partial sums, in the same order however many rows there are: a row's result
// does not depend on the others.
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

struct Task {
  const at::BFloat16 *x, *weight, *bias;  // (M, K), (N, K), (N) or null
  at::BFloat16* out;                      // (M, N)
  int64_t num_rows, num_outputs, num_inputs;
};

#ifdef EAGLE_HSD_PAIRS

constexpr int64_t ROWS = 8, OUTPUTS = 8;  // of a strip, whose weights are fetched while the one before is computed

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

template <int rows, int outputs>
void tile(const Task& t, int64_t row, int64_t output) {
  const at::BFloat16 *x = t.x + row * t.num_inputs, *weight = t.weight + output * t.num_inputs;
  __m512 sum[rows * outputs];
#pragma GCC unroll 16
  for (int i = 0; i < rows * outputs; ++i) sum[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < t.num_inputs; k += 32) {
    const __mmask32 mask = first_of(t.num_inputs - k);
    __m512bh numbers[rows];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) numbers[m] = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + m * t.num_inputs + k);
#pragma GCC unroll 8
    for (int n = 0; n < outputs; ++n) {
      _mm_prefetch(reinterpret_cast<const char*>(weight + (n + OUTPUTS) * t.num_inputs + k), _MM_HINT_T0);
      const __m512bh own = (__m512bh)_mm512_maskz_loadu_epi16(mask, weight + n * t.num_inputs + k);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) sum[m * outputs + n] = _mm512_dpbf16_ps(sum[m * outputs + n], numbers[m], own);
    }
  }
  __m512 parts[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) parts[i] = i < rows * outputs ? sum[i] : _mm512_setzero_ps();
  __m512 sums = lane_sums(parts);
  if (t.bias) {
    float own[16] = {};
    for (int i = 0; i < rows * outputs; ++i) own[i] = number(t.bias[output + i % outputs]);
    sums = _mm512_add_ps(sums, _mm512_loadu_ps(own));
  }
  at::BFloat16 done[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(done), (__m256i)_mm512_cvtneps_pbh(sums));
  for (int m = 0; m < rows; ++m)
    std::memcpy(t.out + (row + m) * t.num_outputs + output, done + m * outputs, outputs * sizeof(at::BFloat16));
}

// All rows with up to 8 outputs, whose weights stay in the nearest cache meanwhile.
void strip(const Task& t, int64_t output, int64_t count) {
  in_groups<ROWS>(t.num_rows, [&](auto rows, int64_t row) {
    constexpr int wide = 16 / rows >= 8 ? 8 : 16 / rows >= 4 ? 4 : 2;
    in_groups<wide>(count, [&](auto outputs, int64_t n) { tile<rows, outputs>(t, row, output + n); });
  });
}

void multiply(const Task& t) {
  const int64_t strips = (t.num_outputs + OUTPUTS - 1) / OUTPUTS;
  const int64_t grain = std::max<int64_t>(1, 65536 / (t.num_rows * t.num_inputs * OUTPUTS));  // worth waking a thread for
  at::parallel_for(0, strips, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) strip(t, i * OUTPUTS, std::min(OUTPUTS, t.num_outputs - i * OUTPUTS));
  });
}

#endif

// x (.., K), weight (N, K), bias (N) -> (.., N), all bfloat16
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
#ifdef EAGLE_HSD_PAIRS
  TORCH_CHECK(x.size(-1) == weight.size(1), "input has ", x.size(-1), " columns, the weight ", weight.size(1));
  const at::Tensor own = x.contiguous(), rows = weight.contiguous();
  const at::Tensor offset = bias ? bias->contiguous() : at::Tensor();
  std::vector<int64_t> sizes = own.sizes().vec();
  sizes.back() = rows.size(0);
  at::Tensor out = at::empty(sizes, own.options());
  multiply(Task{own.const_data_ptr<at::BFloat16>(), rows.const_data_ptr<at::BFloat16>(),
                bias ? offset.const_data_ptr<at::BFloat16>() : nullptr, out.data_ptr<at::BFloat16>(),
                own.numel() / own.size(-1), rows.size(0), rows.size(1)});
  return out;
#else
  return at::linear(x, weight, bias);
#endif
}

bool has_product() {
#ifdef EAGLE_HSD_PAIRS
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
