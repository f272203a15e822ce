// The places (positions of all samples) are sorted by word, so that each word's are together and
// its row of the table belongs to one block. A key, word * places + place, is there only once, so
// the order is the same in every run, whatever way it is sorted. It is a bitonic sort: its steps
// that fit a block's shared memory are done there, the others one launch each.
#include <limits>

#include "cuda/curvature.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kSortThreads = 256;
constexpr int kSortBlock = 2 * kSortThreads;  // keys

// A block takes one word: its threads along x the outputs, those along y the columns.
constexpr int kOutputThreads = 32;
constexpr int kColumnThreads = 8;
constexpr int kWordThreads = kOutputThreads * kColumnThreads;

using Key = std::int64_t;
constexpr Key kNoKey = std::numeric_limits<Key>::max();

// At least a block of keys, and a power of two.
std::int64_t padded_places(std::int64_t places) {
  std::int64_t padded = kSortBlock;
  while (padded < places) padded *= 2;
  return padded;
}

template <typename Index>
__global__ void __launch_bounds__(kSortThreads)
    make_keys(const Index* indices, std::int64_t places, std::int64_t vocabulary, Key* keys,
              std::int64_t padded) {
  for (std::int64_t place = global_thread(); place < padded; place += global_threads()) {
    const std::int64_t word = place < places ? static_cast<std::int64_t>(indices[place]) : -1;
    keys[place] = word >= 0 && word < vocabulary ? word * places + place : kNoKey;
  }
}

// Puts a pair in order: upwards in runs of `run` keys that lie at an even multiple of it.
__device__ void order(Key& first, Key& second, std::int64_t index, std::int64_t run) {
  const bool upwards = (index & run) == 0;
  if ((first > second) == upwards) {
    const Key key = first;
    first = second;
    second = key;
  }
}

// One step: pairs of keys that are `distance` apart.
__global__ void __launch_bounds__(kSortThreads)
    sort_step(Key* keys, std::int64_t padded, std::int64_t run, std::int64_t distance) {
  for (std::int64_t i = global_thread(); i < padded / 2; i += global_threads()) {
    const std::int64_t first = i / distance * 2 * distance + i % distance;
    order(keys[first], keys[first + distance], first, run);
  }
}

// The steps of distances kSortBlock / 2, ..., 1, of the runs [first_run, last_run].
__global__ void __launch_bounds__(kSortThreads)
    sort_block(Key* keys, std::int64_t padded, std::int64_t first_run, std::int64_t last_run) {
  __shared__ Key shared[kSortBlock];
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kSortBlock; begin < padded;
       begin += static_cast<std::int64_t>(gridDim.x) * kSortBlock) {
    shared[thread] = keys[begin + thread];
    shared[thread + kSortThreads] = keys[begin + thread + kSortThreads];
    for (std::int64_t run = first_run; run <= last_run; run *= 2) {
      for (int distance = static_cast<int>(run < kSortBlock ? run : kSortBlock) / 2; distance > 0;
           distance /= 2) {
        __syncthreads();
        const int first = thread / distance * 2 * distance + thread % distance;
        order(shared[first], shared[first + distance], begin + first, run);
      }
    }
    __syncthreads();
    keys[begin + thread] = shared[thread];
    keys[begin + thread + kSortThreads] = shared[thread + kSortThreads];
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kWordThreads, 4)
    add_words(EmbeddingShape shape, const T* factors, const Key* keys,
              core::Accumulator<T>* curvature) {
  using Sum = core::Accumulator<T>;
  __shared__ Sum sums[kColumnThreads][kOutputThreads];
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t tiles = (shape.outputs + kOutputThreads - 1) / kOutputThreads;
  const int x = static_cast<int>(threadIdx.x) % kOutputThreads;
  const int y = static_cast<int>(threadIdx.x) / kOutputThreads;
  for (std::int64_t task = blockIdx.x; task < places * tiles; task += gridDim.x) {
    const std::int64_t first = task / tiles;
    const std::int64_t output = task % tiles * kOutputThreads + x;
    // Only a word's first place is work. The whole block agrees on that.
    const Key key = keys[first];
    if (key == kNoKey) continue;
    const std::int64_t word = key / places;
    if (first > 0 && keys[first - 1] >= word * places) continue;
    const Key word_end = (word + 1) * places;

    Sum sum = 0;
    if (output < shape.outputs) {
      for (std::int64_t column = y; column < shape.columns; column += kColumnThreads) {
        const T* const from = factors + column * places * shape.outputs + output;
        std::int64_t i = first;
        while (i < places && keys[i] < word_end) {
          // The word's places in one sample.
          const std::int64_t place = keys[i] - word * places;
          const Key sample_end = word * places + (place / shape.positions + 1) * shape.positions;
          Sum product = 0;
          for (; i < places && keys[i] < sample_end; ++i) {
            product += core::widen(from[(keys[i] - word * places) * shape.outputs]);
          }
          sum += product * product;
        }
      }
    }
    sums[y][x] = sum;
    __syncthreads();
    if (y == 0 && output < shape.outputs) {
      for (int i = 1; i < kColumnThreads; ++i) sum += sums[i][x];
      curvature[word * shape.outputs + output] += sum;
    }
    __syncthreads();
  }
}

std::string sort(Key* keys, std::int64_t padded, Stream stream) {
  const unsigned blocks = blocks_for(padded / 2, kSortThreads);
  std::string wrong = launch("sort_block", sort_block, blocks, kSortThreads, stream, keys, padded,
                             std::int64_t{2}, std::int64_t{kSortBlock});
  for (std::int64_t run = 2 * kSortBlock; run <= padded; run *= 2) {
    for (std::int64_t distance = run / 2; distance >= kSortBlock && wrong.empty(); distance /= 2) {
      wrong =
          launch("sort_step", sort_step, blocks, kSortThreads, stream, keys, padded, run, distance);
    }
    if (!wrong.empty()) return wrong;
    wrong = launch("sort_block", sort_block, blocks, kSortThreads, stream, keys, padded, run, run);
  }
  return wrong;
}

}  // namespace

std::string check_limits(const EmbeddingShape& shape) {
  std::int64_t key;
  if (!__builtin_mul_overflow(shape.samples * shape.positions, shape.vocabulary, &key)) return "";
  return "a vocabulary of " + std::to_string(shape.vocabulary) + " words in " +
         std::to_string(shape.samples * shape.positions) + " places is too large for a GPU";
}

template <typename T, typename Index>
std::int64_t scratch_bytes(const EmbeddingCurvature<T, Index>& embedding) {
  return padded_places(embedding.shape.samples * embedding.shape.positions) *
         static_cast<std::int64_t>(sizeof(Key));
}

template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, void* scratch, Stream stream) {
  const EmbeddingShape& shape = embedding.shape;
  const std::int64_t places = shape.samples * shape.positions;
  const std::int64_t padded = padded_places(places);
  Key* const keys = static_cast<Key*>(scratch);
  std::string wrong =
      launch("make_keys", make_keys<Index>, blocks_for(padded, kSortThreads), kSortThreads, stream,
             embedding.indices, places, shape.vocabulary, keys, padded);
  if (wrong.empty()) wrong = sort(keys, padded, stream);
  if (!wrong.empty()) return wrong;
  const std::int64_t tasks = places * ceil_divide(shape.outputs, kOutputThreads);
  return launch("embedding_curvature", add_words<T>, blocks_for(tasks, 1), kWordThreads, stream,
                shape, embedding.factors, static_cast<const Key*>(keys), embedding.curvature);
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
