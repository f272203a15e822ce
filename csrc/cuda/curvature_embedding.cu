// The places (positions of all samples) are sorted by word, so that each word's are together, and
// within a word by sample, as what is squared is the sum over one sample. A key is there only once,
// so the order is the same in every run: blocks sort runs of keys in shared memory, and runs are
// merged by counting, for each key, the smaller ones in the other runs.
//
// Then the sorted places are cut into chunks, so that a frequent word is not one thread's work. A
// thread takes a few outputs of one chunk and all columns. What a word has in several chunks is
// kept apart, and added up in order by a last pass.
#include <limits>
#include <utility>

#include "cuda/curvature.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kSortThreads = 256;
constexpr int kRun = 1024;  // keys that a block sorts

// Of a block that merges: its threads along x take a key each, those along y some of the runs.
constexpr int kMergeKeys = 32;
constexpr int kMergeParts = 8;
constexpr int kMergeThreads = kMergeKeys * kMergeParts;
constexpr int kMergedRuns = 64;

constexpr int kChunk = 16;  // places
constexpr int kChunkThreads = 128;
constexpr int kColumnsAtOnce = 5;  // their reads do not wait for one another

using Key = std::int64_t;
constexpr Key kNoKey = std::numeric_limits<Key>::max();

// A key is a word, then a sample, then a position, in bits.
struct KeyBits {
  int sample;
  int position;
};

// Bits that hold the numbers below `count`.
int bits_for(std::int64_t count) {
  int bits = 0;
  while (bits < 63 && std::int64_t{1} << bits < count) ++bits;
  return bits;
}

KeyBits bits_of(const EmbeddingShape& shape) {
  return {bits_for(shape.samples), bits_for(shape.positions)};
}

// A word and a sample.
__device__ Key group_of(Key key, KeyBits bits) { return key >> bits.position; }
__device__ Key word_of(Key key, KeyBits bits) { return key >> (bits.sample + bits.position); }
__device__ std::int64_t place_of(Key key, const EmbeddingShape& shape, KeyBits bits) {
  const Key sample = group_of(key, bits) & ((Key{1} << bits.sample) - 1);
  return sample * shape.positions + (key & ((Key{1} << bits.position) - 1));
}

// What is no word comes after all words.
template <typename Index>
__device__ Key key_of(const Index* indices, std::int64_t place, const EmbeddingShape& shape,
                      KeyBits bits) {
  const auto index = static_cast<std::int64_t>(indices[place]);
  const Key word = index >= 0 && index < shape.vocabulary ? index : shape.vocabulary;
  const Key sample = place / shape.positions;
  return (((word << bits.sample) | sample) << bits.position) | (place - sample * shape.positions);
}

// Makes keys and sorts each run of them: a bitonic sort.
template <typename Index>
__global__ void __launch_bounds__(kSortThreads)
    sort_runs(EmbeddingShape shape, KeyBits bits, const Index* indices, Key* keys) {
  __shared__ Key shared[kRun];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t places = shape.samples * shape.positions;
  for (std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kRun; begin < places;
       begin += static_cast<std::int64_t>(gridDim.x) * kRun) {
    for (int i = thread; i < kRun; i += kSortThreads) {
      shared[i] = begin + i < places ? key_of(indices, begin + i, shape, bits) : kNoKey;
    }
    for (int run = 2; run <= kRun; run *= 2) {
      for (int distance = run / 2; distance > 0; distance /= 2) {
        __syncthreads();
#pragma unroll
        for (int pair = thread; pair < kRun / 2; pair += kSortThreads) {
          const int i = 2 * pair - (pair & (distance - 1));
          const Key first = shared[i];
          const Key second = shared[i + distance];
          // Runs at an odd multiple of their length are sorted downwards.
          if ((first > second) == ((i & run) == 0)) {
            shared[i] = second;
            shared[i + distance] = first;
          }
        }
      }
    }
    __syncthreads();
    for (int i = thread; i < kRun && begin + i < places; i += kSortThreads) {
      keys[begin + i] = shared[i];
    }
    __syncthreads();
  }
}

// How many of `count` keys, in order, are smaller than `key`; `run` is a power of two and not less
// than count.
__device__ std::int64_t rank_among(const Key* keys, std::int64_t count, std::int64_t run, Key key) {
  std::int64_t rank = 0;
  for (std::int64_t step = run; step > 0; step /= 2) {
    if (rank + step <= count && keys[rank + step - 1] < key) rank += step;
  }
  return rank;
}

// Merges up to kMergedRuns neighbouring runs at a time.
__global__ void __launch_bounds__(kMergeThreads)
    merge_runs(const Key* keys, std::int64_t places, std::int64_t run, Key* merged) {
  __shared__ std::int64_t ranks[kMergeParts][kMergeKeys];
  const int x = static_cast<int>(threadIdx.x) % kMergeKeys;
  const int y = static_cast<int>(threadIdx.x) / kMergeKeys;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kMergeKeys; first < places;
       first += static_cast<std::int64_t>(gridDim.x) * kMergeKeys) {
    const std::int64_t i = first + x;
    // A block's keys are of one run.
    const std::int64_t own = first / run;
    const std::int64_t first_run = own / kMergedRuns * kMergedRuns;
    std::int64_t rank = 0;
    if (i < places) {
      const Key key = keys[i];
      for (int of = y; of < kMergedRuns; of += kMergeParts) {
        const std::int64_t begin = (first_run + of) * run;
        if (begin >= places) break;
        const std::int64_t count = places - begin < run ? places - begin : run;
        rank += first_run + of == own ? i - begin : rank_among(keys + begin, count, run, key);
      }
    }
    ranks[y][x] = rank;
    __syncthreads();
    if (y == 0 && i < places) {
      for (int part = 1; part < kMergeParts; ++part) rank += ranks[part][x];
      merged[first_run * run + rank] = keys[i];
    }
    __syncthreads();
  }
}

// What one access moves: its address is a multiple of its size.
template <typename T, int kLanes>
struct alignas(kLanes * sizeof(T)) Pack {
  T lane[kLanes];
};
// Outputs per thread: at most 16 bytes of factors, and of sums.
template <typename T>
constexpr int kPackLanes = 16 / sizeof(core::Accumulator<T>);

// Where a chunk keeps what it has of the word that began before it, and of the one that goes on
// behind it.
template <typename Sum>
struct Split {
  Sum* sums;  // [chunks, 2, outputs]
  std::int64_t outputs;

  __device__ Sum* before(std::int64_t chunk) const { return sums + 2 * chunk * outputs; }
  __device__ Sum* behind(std::int64_t chunk) const { return before(chunk) + outputs; }
};

template <int kLanes, typename Sum>
__device__ void add(const Pack<Sum, kLanes>& sum, Sum* to) {
  auto* const result = reinterpret_cast<Pack<Sum, kLanes>*>(to);
  Pack<Sum, kLanes> total = *result;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) total.lane[i] += sum.lane[i];
  *result = total;
}

// A chunk has the words' samples that begin in it, to their end.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kChunkThreads, 5)
    add_chunks(EmbeddingShape shape, KeyBits bits, const T* factors, const Key* keys,
               core::Accumulator<T>* curvature, Split<core::Accumulator<T>> split) {
  using Sum = core::Accumulator<T>;
  using Factors = Pack<T, kLanes>;
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t packs = shape.outputs / kLanes;
  const std::int64_t chunks = (places + kChunk - 1) / kChunk;
  for (std::int64_t task = global_thread(); task < chunks * packs; task += global_threads()) {
    const std::int64_t chunk = task / packs;
    const std::int64_t output = (task - chunk * packs) * kLanes;
    std::int64_t i = chunk * kChunk;
    const std::int64_t end = places - i < kChunk ? places : i + kChunk;
    Key word = word_of(keys[i], bits);
    const Key next_word = end < places ? word_of(keys[end], bits) : shape.vocabulary;
    bool began_before = false;
    if (i > 0) {
      const Key before = keys[i - 1];
      began_before = word_of(before, bits) == word;
      while (i < end && group_of(keys[i], bits) == group_of(before, bits)) ++i;
    }
    while (word < shape.vocabulary) {
      Pack<Sum, kLanes> sum = {};
      while (i < end && word_of(keys[i], bits) == word) {
        const Key group = group_of(keys[i], bits);
        std::int64_t next = i + 1;
        while (next < places && group_of(keys[next], bits) == group) ++next;
        for (std::int64_t column = 0; column < shape.columns; column += kColumnsAtOnce) {
          Sum products[kColumnsAtOnce][kLanes] = {};
          for (std::int64_t at = i; at < next; ++at) {
            const std::int64_t row = column * places + place_of(keys[at], shape, bits);
            const T* const from = factors + row * shape.outputs + output;
            Factors read[kColumnsAtOnce] = {};
#pragma unroll
            for (int c = 0; c < kColumnsAtOnce; ++c) {
              if (column + c < shape.columns) {
                read[c] = *reinterpret_cast<const Factors*>(from + c * places * shape.outputs);
              }
            }
#pragma unroll
            for (int c = 0; c < kColumnsAtOnce; ++c) {
#pragma unroll
              for (int k = 0; k < kLanes; ++k) products[c][k] += core::widen(read[c].lane[k]);
            }
          }
#pragma unroll
          for (int c = 0; c < kColumnsAtOnce; ++c) {
#pragma unroll
            for (int k = 0; k < kLanes; ++k) sum.lane[k] += products[c][k] * products[c][k];
          }
        }
        i = next;
      }
      if (began_before) {
        *reinterpret_cast<Pack<Sum, kLanes>*>(split.before(chunk) + output) = sum;
      } else if (word == next_word) {
        *reinterpret_cast<Pack<Sum, kLanes>*>(split.behind(chunk) + output) = sum;
      } else {
        add<kLanes>(sum, curvature + word * shape.outputs + output);
      }
      if (i >= end) break;
      word = word_of(keys[i], bits);
      began_before = false;
    }
  }
}

// Adds up the words that are in several chunks, each where it begins.
template <typename Sum, int kLanes>
__global__ void __launch_bounds__(kChunkThreads)
    add_split_words(EmbeddingShape shape, KeyBits bits, const Key* keys, Sum* curvature,
                    Split<Sum> split) {
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t packs = shape.outputs / kLanes;
  const std::int64_t chunks = (places + kChunk - 1) / kChunk;
  const auto word_at = [&](std::int64_t place) { return word_of(keys[place], bits); };
  for (std::int64_t task = global_thread(); task < (chunks - 1) * packs; task += global_threads()) {
    const std::int64_t chunk = task / packs;
    const std::int64_t output = (task - chunk * packs) * kLanes;
    const std::int64_t begin = chunk * kChunk;
    const Key word = word_at(begin + kChunk);
    if (word >= shape.vocabulary || word_at(begin + kChunk - 1) != word) continue;
    if (begin > 0 && word_at(begin - 1) == word) continue;
    // The last chunk that begins with it.
    std::int64_t last = chunk + 1;
    std::int64_t beyond = chunks;
    while (beyond - last > 1) {
      const std::int64_t middle = last + (beyond - last) / 2;
      if (word_at(middle * kChunk) == word) {
        last = middle;
      } else {
        beyond = middle;
      }
    }
    auto sum = *reinterpret_cast<const Pack<Sum, kLanes>*>(split.behind(chunk) + output);
#pragma unroll 8
    for (std::int64_t of = chunk + 1; of <= last; ++of) {
      const auto more = *reinterpret_cast<const Pack<Sum, kLanes>*>(split.before(of) + output);
#pragma unroll
      for (int k = 0; k < kLanes; ++k) sum.lane[k] += more.lane[k];
    }
    add<kLanes>(sum, curvature + word * shape.outputs + output);
  }
}

bool on_boundary(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

// Sorts into one of the two, each for one key per place; which one.
template <typename Index>
std::string sort(const EmbeddingShape& shape, KeyBits bits, const Index* indices, Key* keys,
                 Key* other, Stream stream, const Key** sorted) {
  const std::int64_t places = shape.samples * shape.positions;
  std::string wrong = launch("sort_runs", sort_runs<Index>, blocks_for(places, kRun), kSortThreads,
                             stream, shape, bits, indices, keys);
  for (std::int64_t run = kRun; run < places && wrong.empty(); run *= kMergedRuns) {
    wrong = launch("merge_runs", merge_runs, blocks_for(places, kMergeKeys), kMergeThreads, stream,
                   static_cast<const Key*>(keys), places, run, other);
    std::swap(keys, other);
  }
  *sorted = keys;
  return wrong;
}

template <int kLanes, typename T>
std::string add_words(const EmbeddingShape& shape, const T* factors, const Key* keys,
                      core::Accumulator<T>* curvature, core::Accumulator<T>* apart, Stream stream) {
  using Sum = core::Accumulator<T>;
  const std::int64_t chunks = ceil_divide(shape.samples * shape.positions, kChunk);
  const unsigned blocks = blocks_for(chunks * (shape.outputs / kLanes), kChunkThreads);
  const KeyBits bits = bits_of(shape);
  const Split<Sum> split{apart, shape.outputs};
  const std::string wrong =
      launch("embedding_curvature", add_chunks<T, kLanes>, blocks, kChunkThreads, stream, shape,
             bits, factors, keys, curvature, split);
  if (!wrong.empty() || chunks == 1) return wrong;
  return launch("add_split_words", add_split_words<Sum, kLanes>, blocks, kChunkThreads, stream,
                shape, bits, keys, curvature, split);
}

// Sums that are kept apart.
std::int64_t split_sums(const EmbeddingShape& shape) {
  return 2 * ceil_divide(shape.samples * shape.positions, kChunk) * shape.outputs;
}

}  // namespace

std::string check_limits(const EmbeddingShape& shape) {
  const KeyBits bits = bits_of(shape);
  // One more than the vocabulary, for what is no word.
  if (bits_for(shape.vocabulary + 1) + bits.sample + bits.position < 64) return "";
  return "a vocabulary of " + std::to_string(shape.vocabulary) + " words in " +
         std::to_string(shape.samples * shape.positions) + " places is too large for a GPU";
}

template <typename T, typename Index>
std::int64_t scratch_bytes(const EmbeddingCurvature<T, Index>& embedding) {
  const EmbeddingShape& shape = embedding.shape;
  return 2 * shape.samples * shape.positions * static_cast<std::int64_t>(sizeof(Key)) +
         split_sums(shape) * static_cast<std::int64_t>(sizeof(core::Accumulator<T>));
}

template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, void* scratch, Stream stream) {
  using Sum = core::Accumulator<T>;
  const EmbeddingShape& shape = embedding.shape;
  const std::int64_t places = shape.samples * shape.positions;
  if (places == 0 || shape.columns == 0 || shape.outputs == 0) return "";
  // Two arrays of keys, as long as whole packs of sums, and the sums.
  Key* const keys = static_cast<Key*>(scratch);
  Key* const other = keys + places;
  auto* const apart = reinterpret_cast<Sum*>(other + places);
  const Key* sorted = nullptr;
  const std::string wrong =
      sort(shape, bits_of(shape), embedding.indices, keys, other, stream, &sorted);
  if (!wrong.empty()) return wrong;
  constexpr int kLanes = kPackLanes<T>;
  const bool aligned = shape.outputs % kLanes == 0 &&
                       on_boundary(embedding.factors, kLanes * sizeof(T)) &&
                       on_boundary(embedding.curvature, kLanes * sizeof(Sum)) &&
                       on_boundary(apart, kLanes * sizeof(Sum));
  const auto add = aligned ? add_words<kLanes, T> : add_words<1, T>;
  return add(shape, embedding.factors, sorted, embedding.curvature, apart, stream);
}

#define INSTANTIATE_RUN(T, Index)                                           \
  template std::int64_t scratch_bytes(const EmbeddingCurvature<T, Index>&); \
  template std::string run(const EmbeddingCurvature<T, Index>&, void*, Stream)
#define INSTANTIATE(T)              \
  INSTANTIATE_RUN(T, std::int32_t); \
  INSTANTIATE_RUN(T, std::int64_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(core::Half);
INSTANTIATE(core::BFloat16);
#undef INSTANTIATE
#undef INSTANTIATE_RUN

}  // namespace prospr::cuda
