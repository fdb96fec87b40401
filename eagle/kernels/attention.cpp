// Attention whose result for a query depends on the keys it sees and on nothing else.
//
// The visible keys of a query are a list, and all that is computed is a function of that list: blocks of 16 keys and runs of
// 256 are counted along it. A tree's node, for which entries of other branches lie in between, gets bit for bit what plain
// decoding computes. Stock kernels sum blocks of keys in an order that depends on how many queries there are.
//
// Most of the list is the same for all nodes of a tree and for the heads that share keys: such blocks are read once.
//
// Letters: M queries, T keys, C capacity of a cache, d head size; heads of queries and of keys.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "lanes.h"

namespace {

constexpr int64_t RUN = 256;        // keys between two looks at the largest score
constexpr int64_t MOST = 48;        // queries (of all heads that share keys) that share a block
constexpr float UNSEEN = -1e30f;    // additive masks hold the lowest finite number of their type
constexpr int64_t HEADER = 5;       // numbers of a sight before its columns

// The keys a query sees of a sequence: first the `run` ones from `start` on, then `rest`, all ascending.
struct Sight {
  int64_t start = 0, run = 0, sequence = 0;
  std::vector<int32_t> rest;

  int64_t count() const { return run + static_cast<int64_t>(rest.size()); }
  int64_t key(int64_t rank) const { return rank < run ? start + rank : rest[rank - run]; }
  void see(int64_t key) {
    if (run == 0) start = key;
    if (rest.empty() && key == start + run) ++run;
    else rest.push_back(static_cast<int32_t>(key));
  }
  bool begins_like(const Sight& other) const { return start == other.start && sequence == other.sequence; }
};

// Keys and values of a sequence: entry t of a head at head * stride + t * step.
template <typename scalar>
struct Entries {
  scalar *key, *value;
  int64_t key_head, key_step, value_head, value_step;
};

template <typename scalar>
struct Problem {
  const scalar* query;  // at (head, position): head * stride + position * step, then d numbers
  std::vector<Entries<scalar>> sequences;
  int64_t num_queries, num_heads, num_key_heads, key_size, value_size, query_head, query_step;
  float scale;

  int64_t group() const { return num_heads / num_key_heads; }
};

template <typename scalar>
struct Block {  // 16 keys of a list; where there are fewer, the last one again
  const scalar* rows[LANES];

  Block(const Sight& sight, int64_t rank, const scalar* base, int64_t step) {
    const int64_t last = sight.count() - 1;
    for (int64_t lane = 0; lane < LANES; ++lane) rows[lane] = base + sight.key(std::min(rank + lane, last)) * step;
  }
};

// Queries of some rows and of all heads that share keys, against the keys of one head.
template <typename scalar>
struct Chunk {
  using Numbers = Lanes<scalar>;

  const Problem<scalar>& p;
  const std::vector<Sight>& sights;
  const int64_t key_head, first, num_rows, group, count;  // `count` queries
  int64_t longest = 0, shared = 0;                         // ranks; `shared`: of blocks that all see
  std::vector<typename Numbers::Word> queries, keys, values, weights;
  std::vector<float> scores, mixed, largest, total;
  const int64_t query_words, width;

  Chunk(const Problem<scalar>& problem, const std::vector<Sight>& all, int64_t head, int64_t from, int64_t rows)
      : p(problem), sights(all), key_head(head), first(from), num_rows(rows), group(problem.group()), count(rows * group),
        query_words(Numbers::words(problem.key_size)), width((problem.value_size + LANES - 1) / LANES * LANES) {
    shared = std::numeric_limits<int64_t>::max();
    for (int64_t row = 0; row < num_rows; ++row) {
      longest = std::max(longest, sight(row).count());
      shared = std::min(shared, sight(row).begins_like(sight(0)) ? sight(row).run / LANES * LANES : 0);
    }
    queries.resize(count * query_words);
    keys.resize(query_words * LANES);
    values.resize(Numbers::PAIRS * width);
    weights.resize(count * Numbers::PAIRS);
    scores.resize(count * RUN);
    mixed.assign(count * width, 0.f);
    largest.assign(count, -INFINITY);
    total.assign(count, 0.f);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = first + i / group, of = key_head * group + i % group;
      Numbers::load_query(p.query + of * p.query_head + row * p.query_step, p.key_size, &queries[i * query_words]);
    }
  }

  const Sight& sight(int64_t row) const { return sights[first + row]; }
  const Entries<scalar>& entries(const Sight& list) const { return p.sequences[list.sequence]; }

  // visit(first query, number of queries, whose list) for every block of a run
  template <typename Visit>
  void blocks(int64_t begin, Visit&& visit) {
    const int64_t end = std::min(begin + RUN, longest);
    for (int64_t rank = begin; rank < end; rank += LANES) {
      if (rank + LANES <= shared) {
        visit(rank, 0, count, sight(0));
        continue;
      }
      for (int64_t row = 0; row < num_rows; ++row)
        if (rank < sight(row).count()) visit(rank, row * group, group, sight(row));
    }
  }

  void score(int64_t begin) {
    blocks(begin, [&](int64_t rank, int64_t from, int64_t number, const Sight& list) {
      const Entries<scalar>& own = entries(list);
      const Block<scalar> block(list, rank, own.key + key_head * own.key_head, own.key_step);
      Numbers::load_keys(block.rows, p.key_size, keys.data());
      in_groups<8>(number, [&](auto size, int64_t i) {
        const int64_t query = from + i;
        Numbers::template score<size>(keys.data(), query_words, &queries[query * query_words],
                                      &scores[query * RUN + rank - begin], RUN);
      });
    });
  }

  void weigh(int64_t begin) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t seen = std::min(sight(i / group).count() - begin, RUN);
      if (seen <= 0) continue;
      float *row = &scores[i * RUN], *sums = &mixed[i * width], top = largest[i];
      const int64_t padded = (seen + LANES - 1) / LANES * LANES;
      std::fill(row + seen, row + padded, UNSEEN);
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < padded; ++j) {
        row[j] *= p.scale;
        top = row[j] > top ? row[j] : top;
      }
      float parts[LANES] = {};  // sums in an order that no compiler chooses
      for (int64_t j = 0; j < padded; j += LANES)
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; ++lane) {
          row[j + lane] = exponential(row[j + lane] - top);
          parts[lane] += row[j + lane];
        }
      const float fade = exponential(largest[i] - top);
      float sum = 0.f;
      for (int64_t lane = 0; lane < LANES; ++lane) sum += parts[lane];
      total[i] = total[i] * fade + sum;
      for (int64_t j = 0; j < width; ++j) sums[j] *= fade;
      largest[i] = top;
    }
  }

  void mix(int64_t begin) {
    blocks(begin, [&](int64_t rank, int64_t from, int64_t number, const Sight& list) {
      const Entries<scalar>& own = entries(list);
      const Block<scalar> block(list, rank, own.value + key_head * own.value_head, own.value_step);
      Numbers::load_values(block.rows, p.value_size, width, values.data());
      for (int64_t i = from; i < from + number; ++i)
        Numbers::load_weights(&scores[i * RUN + rank - begin], &weights[i * Numbers::PAIRS]);
      in_groups<8>(number, [&](auto size, int64_t i) {
        const int64_t query = from + i;
        Numbers::template mix<size>(values.data(), width, &weights[query * Numbers::PAIRS], &mixed[query * width]);
      });
    });
  }

  // out (M, heads, d)
  void attend(scalar* out) {
    for (int64_t begin = 0; begin < longest; begin += RUN) {
      score(begin);
      weigh(begin);
      mix(begin);
    }
    for (int64_t i = 0; i < count; ++i) {
      scalar* to = out + ((first + i / group) * p.num_heads + key_head * group + i % group) * p.value_size;
      const float inverse = 1.f / total[i];
      for (int64_t j = 0; j < p.value_size; ++j) to[j] = static_cast<scalar>(mixed[i * width + j] * inverse);
    }
  }
};

// key and value: of the sequences' shape, but for the number of entries
template <typename scalar>
at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                  std::vector<Entries<scalar>> sequences, const std::vector<Sight>& sights, double scale) {
  const Problem<scalar> p{query.const_data_ptr<scalar>(), std::move(sequences), query.size(2), query.size(1), key.size(1),
                          query.size(3), value.size(3), query.stride(1), query.stride(2), static_cast<float>(scale)};
  at::Tensor out = at::empty({1, p.num_queries, p.num_heads, p.value_size}, query.options());
  scalar* to = out.data_ptr<scalar>();
  const int64_t fair = (p.num_queries * p.num_key_heads + at::get_num_threads() - 1) / at::get_num_threads();
  const int64_t rows = std::clamp<int64_t>(std::min(MOST / p.group(), fair), 1, p.num_queries);
  std::vector<int64_t> starts;  // of chunks whose queries begin with the same key, so that they share blocks
  for (int64_t row = 0; row < p.num_queries; ++row)
    if (starts.empty() || row - starts.back() == rows || !sights[row].begins_like(sights[starts.back()]))
      starts.push_back(row);
  const int64_t chunks = static_cast<int64_t>(starts.size());
  starts.push_back(p.num_queries);
  at::parallel_for(0, chunks * p.num_key_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t chunk = item / p.num_key_heads, first = starts[chunk];
      Chunk<scalar>(p, sights, item % p.num_key_heads, first, starts[chunk + 1] - first).attend(to);
    }
  });
  return out;
}

at::Tensor by_rows(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

void check(const at::Tensor& query, const at::Tensor& key) {
  TORCH_CHECK(query.size(0) == 1, "one run of tokens at a time, got ", query.size(0));
  TORCH_CHECK(query.size(1) % key.size(1) == 0, query.size(1), " heads cannot share ", key.size(1), " heads of keys");
  const bool is_known = query.scalar_type() == at::kBFloat16 || query.scalar_type() == at::kFloat;
  TORCH_CHECK(is_known && key.scalar_type() == query.scalar_type(), "bfloat16 or float32, the same for all");
}

template <typename scalar>
at::Tensor of_one(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                  const std::vector<Sight>& sights, double scale) {
  const Entries<scalar> all{const_cast<scalar*>(key.const_data_ptr<scalar>()),
                            const_cast<scalar*>(value.const_data_ptr<scalar>()),
                            key.stride(1), key.stride(2), value.stride(1), value.stride(2)};
  return attend<scalar>(query, key, value, {all}, sights, scale);
}

// query (1, heads, M, d), key and value (1, key heads, T, d), mask (1, 1, M, T), additive, null: causal, the queries are the
// last keys -> (1, M, heads, d)
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const std::optional<at::Tensor>& mask, double scale) {
  check(query, key);
  const int64_t num_queries = query.size(2), num_keys = key.size(2);
  std::vector<Sight> sights(num_queries);
  const at::Tensor numbers = mask ? by_rows(mask->to(at::kFloat)) : at::Tensor();
  const float* from = mask ? numbers.const_data_ptr<float>() : nullptr;
  for (int64_t row = 0; row < num_queries; ++row) {
    if (!mask) sights[row].run = num_keys - num_queries + row + 1;
    else
      for (int64_t t = 0; t < num_keys; ++t)
        if (from[row * numbers.stride(2) + t] > UNSEEN) sights[row].see(t);
  }
  const at::Tensor q = by_rows(query), k = by_rows(key), v = by_rows(value);
  return q.scalar_type() == at::kBFloat16 ? of_one<at::BFloat16>(q, k, v, sights, scale)
                                          : of_one<float>(q, k, v, sights, scale);
}

// What a sight says of a query: the first entry of its prefix that it sees, the prefix's end, where E columns begin, its own
// entry, the number of its sequence; then which of the columns it sees.
struct Told {
  const int32_t* from;

  int64_t first() const { return from[0]; }
  int64_t end() const { return from[1]; }
  int64_t columns() const { return from[2]; }
  int64_t place() const { return from[3]; }
  int64_t sequence() const { return from[4]; }
  bool sees(int64_t column) const { return from[HEADER + column] != 0; }
};

template <typename scalar>
at::Tensor cached(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& table,
                  const at::Tensor& sight, double scale) {
  const int64_t count = query.size(2), heads = key.size(1), key_size = key.size(3), value_size = value.size(3);
  const int64_t width = sight.size(-1), num_sequences = table.size(0);
  const int64_t* rows = table.const_data_ptr<int64_t>();
  const auto capacity = [&](int64_t sequence) { return rows[3 * sequence + 2]; };
  std::vector<Entries<scalar>> sequences;
  for (int64_t i = 0; i < num_sequences; ++i)
    sequences.push_back({reinterpret_cast<scalar*>(rows[3 * i]), reinterpret_cast<scalar*>(rows[3 * i + 1]),
                         capacity(i) * key_size, key_size, capacity(i) * value_size, value_size});
  std::vector<Sight> sights(count);
  for (int64_t row = 0; row < count; ++row) {
    const Told told{sight.const_data_ptr<int32_t>() + row * width};
    TORCH_CHECK(told.sequence() >= 0 && told.sequence() < num_sequences, "no sequence ", told.sequence());
    const int64_t room = capacity(told.sequence());
    TORCH_CHECK(told.place() >= 0 && told.place() < room, "an entry at ", told.place(), ", room for ", room);
    Sight& own = sights[row];
    own.sequence = told.sequence();
    own.start = told.first();
    own.run = told.end() - told.first();
    bool is_inside = told.first() >= 0 && own.run >= 0 && told.end() <= room;
    for (int64_t j = 0; j < width - HEADER; ++j)
      if (told.sees(j)) {
        const int64_t at = told.columns() + j;
        is_inside = is_inside && at >= 0 && at < room;
        own.see(at);
      }
    TORCH_CHECK(is_inside && own.count() > 0, "a query outside of its cache");
  }
  const scalar *new_keys = key.const_data_ptr<scalar>(), *new_values = value.const_data_ptr<scalar>();
  for (int64_t row = 0; row < count; ++row) {
    const Told told{sight.const_data_ptr<int32_t>() + row * width};
    const Entries<scalar>& own = sequences[told.sequence()];
    for (int64_t head = 0; head < heads; ++head) {
      const scalar* from = new_keys + head * key.stride(1) + row * key.stride(2);
      std::copy_n(from, key_size, own.key + head * own.key_head + told.place() * own.key_step);
      from = new_values + head * value.stride(1) + row * value.stride(2);
      std::copy_n(from, value_size, own.value + head * own.value_head + told.place() * own.value_step);
    }
  }
  return attend<scalar>(query, key, value, std::move(sequences), sights, scale);
}

// Attention over caches of many sequences, into which the queries' own entries are written before: query (1, heads, M, d), key
// and value (1, key heads, M, d), table (B, 3) int64: where the keys and the values of each sequence lie, (key heads, C, d) of
// query's type, and its C; sight (1, 1, M, 5 + E) int32 -> (1, M, heads, d)
at::Tensor attend_cache(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& table,
                        const at::Tensor& sight, double scale) {
  check(query, key);
  TORCH_CHECK(table.scalar_type() == at::kLong && table.size(-1) == 3, "a table has three numbers a sequence");
  TORCH_CHECK(sight.scalar_type() == at::kInt && sight.size(2) == query.size(2), "a sight is for a query each");
  const at::Tensor q = by_rows(query), k = by_rows(key), v = by_rows(value);
  const at::Tensor places = table.contiguous(), seen = sight.contiguous();
  return q.scalar_type() == at::kBFloat16 ? cached<at::BFloat16>(q, k, v, places, seen, scale)
                                          : cached<float>(q, k, v, places, seen, scale);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(eagle_hsd, m) {
  m.def("attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale) -> Tensor");
  m.def("attend_cache(Tensor query, Tensor key, Tensor value, Tensor table, Tensor sight, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(eagle_hsd, CPU, m) {
  m.impl("attention", attention);
  m.impl("attend_cache", attend_cache);
}
