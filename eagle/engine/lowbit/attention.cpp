// Attention whose result for a query depends on the keys it sees and on nothing else.
//
// The visible keys of a query are listed first, and all that follows is a function of that list: a tree's node, for which
// entries of other branches lie in between, gets bit for bit what plain decoding computes. Stock kernels sum blocks of
// keys, in an order that depends on how many queries there are.
//
// Letters: M queries, T keys, d head size, heads of queries and of keys.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

namespace {

constexpr float UNSEEN = -1e30f;  // additive masks hold the lowest finite number of their type

inline float number(float x) { return x; }
inline float number(at::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// exp of numbers up to 0, to 2e-7 (Cephes): unlike the library's, it is vectorised
inline float exponential(float x) {
  x = x < -87.f ? -87.f : x;
  const float n = std::floor(x * 1.44269504f + 0.5f);
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

template <typename scalar>
struct Problem {
  const scalar *query, *key, *value;  // at (head, position): head * stride + position * step, then d numbers
  const scalar* mask;                 // (M, T) with a stride of a query; null: causal, the queries are the last keys
  int64_t num_heads, heads_a_key, num_queries, num_keys, size;
  int64_t query_head, query_step, key_head, key_step, value_head, value_step, mask_step;
  float scale;
};

template <typename scalar>
void one_query(const Problem<scalar>& p, int64_t head, int64_t place, std::vector<int32_t>& seen, std::vector<float>& scores,
               std::vector<float>& mixed, scalar* out) {
  const int64_t last = p.num_keys - p.num_queries + place;
  seen.clear();
  for (int64_t t = 0; t < p.num_keys; ++t) {
    const bool is_seen = p.mask ? number(p.mask[place * p.mask_step + t]) > UNSEEN : t <= last;
    if (is_seen) seen.push_back(static_cast<int32_t>(t));
  }
  const int64_t count = static_cast<int64_t>(seen.size());
  scores.resize(count);
  const scalar* from = p.query + head * p.query_head + place * p.query_step;
  const scalar* keys = p.key + head / p.heads_a_key * p.key_head;
  const scalar* values = p.value + head / p.heads_a_key * p.value_head;
  std::vector<float>& query = mixed;
  for (int64_t i = 0; i < p.size; ++i) query[i] = number(from[i]) * p.scale;
  float largest = -INFINITY;
  for (int64_t j = 0; j < count; ++j) {
    const scalar* key = keys + seen[j] * p.key_step;
    float sum = 0.f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < p.size; ++i) sum += query[i] * number(key[i]);
    scores[j] = sum;
    largest = std::max(largest, sum);
  }
  float total = 0.f;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = exponential(scores[j] - largest);
    total += scores[j];
  }
  std::fill(mixed.begin(), mixed.end(), 0.f);
  for (int64_t j = 0; j < count; ++j) {
    const scalar* value = values + seen[j] * p.value_step;
    const float weight = scores[j];
#pragma omp simd
    for (int64_t i = 0; i < p.size; ++i) mixed[i] += weight * number(value[i]);
  }
  for (int64_t i = 0; i < p.size; ++i) out[i] = static_cast<scalar>(mixed[i] / total);
}

template <typename scalar>
void attend(const Problem<scalar>& p, scalar* out) {
  at::parallel_for(0, p.num_heads * p.num_queries, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> seen;
    std::vector<float> scores, mixed(p.size);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / p.num_queries, place = item % p.num_queries;
      one_query(p, head, place, seen, scores, mixed, out + (place * p.num_heads + head) * p.size);
    }
  });
}

template <typename scalar>
at::Tensor run(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask,
               double scale) {
  at::Tensor out = at::empty({1, query.size(2), query.size(1), query.size(3)}, query.options());
  const Problem<scalar> p{query.const_data_ptr<scalar>(), key.const_data_ptr<scalar>(), value.const_data_ptr<scalar>(),
                          mask ? mask->const_data_ptr<scalar>() : nullptr,
                          query.size(1), query.size(1) / key.size(1), query.size(2), key.size(2), query.size(3),
                          query.stride(1), query.stride(2), key.stride(1), key.stride(2), value.stride(1), value.stride(2),
                          mask ? mask->stride(2) : 0, static_cast<float>(scale)};
  attend(p, out.data_ptr<scalar>());
  return out;
}

// query (1, heads, M, d), key and value (1, key heads, T, d), mask (1, 1, M, T) of their type -> (1, M, heads, d)
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const std::optional<at::Tensor>& mask, double scale) {
  TORCH_CHECK(query.size(0) == 1, "one sequence at a time, got ", query.size(0));
  const auto rows = [](const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); };
  const at::Tensor q = rows(query), k = rows(key), v = rows(value);
  const auto m = mask ? std::optional<at::Tensor>(rows(mask->to(query.scalar_type()))) : std::nullopt;
  return query.scalar_type() == at::kBFloat16 ? run<at::BFloat16>(q, k, v, m, scale) : run<float>(q, k, v, m, scale);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(eagle_hsd_lowbit, m) {
  m.def("attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(eagle_hsd_lowbit, CPU, m) { m.impl("attention", attention); }
