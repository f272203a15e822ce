#include <type_traits>

#include "cuda/launch.h"
#include "cuda/select.h"
#include "kernels/select.h"

namespace prospr::cuda {
namespace {

using core::Key;

constexpr int kThreads = 256;
constexpr int kPackBytes = 16;
template <typename T>
constexpr int kLanes = kPackBytes / sizeof(T);
// Loads that a thread has under way before it uses the first; of 16 scores, which registers hold.
template <typename T>
constexpr int kPacksInFlight = kLanes<T> < 4 ? 4 : 16 / kLanes<T>;
// Scores of one tensor that a block works on without a break: a round of loads.
template <typename T>
constexpr int kChunk = kThreads * kPacksInFlight<T> * kLanes<T>;
constexpr int kDigitBits = 11;
constexpr int kMostBins = 1 << kDigitBits;
// Counters of a digit in shared memory, side by side. Scores have few different highest digits, and
// so the threads of a warp, if they shared one, would have to take turns at it.
constexpr int kCopies = 4;
// Blocks of a multiprocessor: registers are left for the loads under way.
constexpr int kResident = 5;
// Blocks that count, for 132 multiprocessors. Each adds its counters to those in memory once.
constexpr std::int64_t kCountBlocks = 132 * kResident;
// Tensors that fit into the arguments of a launch.
constexpr int kTensorsPerLaunch = 64;
constexpr int kBanks = 32;

template <typename T>
struct Chunk {
  const T* scores;
  std::uint8_t* mask;
  int size;
  int tensor;
};

// `first_chunk` is the number of its first chunk among those of all tensors.
template <typename T>
struct TensorChunks {
  ScoreTensor<T> tensor;
  std::int64_t first_chunk;
};

template <typename T>
struct Tensors {
  TensorChunks<T> tensor[kTensorsPerLaunch];
  int size;
  int first;  // the number of the first of them among all
  std::int64_t end_chunk;
};

using Bin = unsigned long long;  // what atomicAdd takes

// What is known of the threshold, the key of the smallest score that is kept.
struct State {
  std::uint64_t known;    // its highest digits
  std::int64_t wanted;    // how many scores are kept whose key begins with them
  std::uint64_t least;    // keys of at least this are kept; in the end
  bool resolved;          // no others are: there are no ties to split, and `least` has been found
  unsigned blocks_ended;  // of the launch that is running
};

// Scores of a chunk at the threshold, when some are kept and some are not.
struct Ties {
  unsigned here;
  unsigned kept;
};

template <typename T>
struct alignas(kPackBytes) Pack {
  T lane[kLanes<T>];
};

// Bytes of a mask that are stored at once.
template <int kBytes>
struct alignas(kBytes) Marks {
  std::uint8_t byte[kBytes];
};

__device__ bool on_boundary(const void* pointer, unsigned bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// The compiler cannot see that what a chunk points to is no shared memory.
__device__ void assume_global([[maybe_unused]] const void* pointer) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(pointer));
#endif
}

// visit(group, keys) for each group of kItems scores of a block's [0, groups * kItems). Scores
// begin on a boundary of packs.
template <int kItems, typename T, typename Visit>
__device__ void for_each_group(const T* scores, int groups, const Visit& visit) {
  constexpr int kPacks = kItems / kLanes<T>;
  constexpr int kGroups = kPacksInFlight<T> / kPacks;
  const auto* const packs = reinterpret_cast<const Pack<T>*>(scores);
  assume_global(scores);
  const auto visit_packs = [&](int group, const Pack<T>* loaded) {
    Key<T> keys[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      keys[k] = core::order_key(loaded[k / kLanes<T>].lane[k % kLanes<T>]);
    }
    visit(group, keys);
  };
  int group = static_cast<int>(threadIdx.x);
  for (; group + (kGroups - 1) * kThreads < groups; group += kGroups * kThreads) {
    Pack<T> loaded[kPacksInFlight<T>];
#pragma unroll
    for (int k = 0; k < kPacksInFlight<T>; ++k) {
      loaded[k] = packs[(group + k / kPacks * kThreads) * kPacks + k % kPacks];
    }
#pragma unroll
    for (int k = 0; k < kGroups; ++k) visit_packs(group + k * kThreads, loaded + k * kPacks);
  }
  for (; group < groups; group += kThreads) {
    Pack<T> loaded[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) loaded[k] = packs[group * kPacks + k];
    visit_packs(group, loaded);
  }
}

// The sum of `mine` over the threads of the block before this one.
__device__ std::int64_t sum_before(std::int64_t mine) {
  __shared__ std::int64_t sums[2][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  std::int64_t sum = mine;
  int side = 0;
  for (int step = 1; step < kThreads; step *= 2) {
    sums[side][thread] = sum;
    __syncthreads();
    if (thread >= step) sum += sums[side][thread - step];
    side = 1 - side;
  }
  __syncthreads();
  return sum - mine;
}

// For all threads of a block, whether the others of the launch have ended; then what they wrote can
// be read. The fences order what the whole block did, as it meets before and after.
__device__ bool is_last_block(unsigned* blocks_ended) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(blocks_ended, 1u) == gridDim.x - 1;
    __threadfence();
    if (last) *blocks_ended = 0;
  }
  __syncthreads();
  return last;
}

// Cuts tensors into chunks, and sets everything else to how it begins. `results` are the first
// tensor with a NaN, or how many tensors there are, and how many scores are kept of each.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    prepare(const Tensors<T> tensors, bool packed, std::int64_t keep, Chunk<T>* chunks, Bin* bins,
            State* state, Bin* results, std::int64_t tensor_count) {
  if (global_thread() == 0) {
    *state = {0, keep, 0, false, 0};
    results[0] = static_cast<Bin>(tensor_count);
  }
  for (std::int64_t i = global_thread(); i < kMostBins; i += global_threads()) bins[i] = 0;
  for (std::int64_t i = global_thread(); i < tensor_count; i += global_threads()) {
    results[1 + i] = 0;
  }
  for (std::int64_t i = tensors.tensor[0].first_chunk + global_thread(); i < tensors.end_chunk;
       i += global_threads()) {
    int low = 0;
    int high = tensors.size;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (tensors.tensor[middle].first_chunk <= i ? low : high) = middle;
    }
    const ScoreTensor<T> all = tensors.tensor[low].tensor;
    const std::int64_t begin = (i - tensors.tensor[low].first_chunk) * kChunk<T>;
    const std::int64_t left = all.size - begin;
    chunks[i] = {all.scores + begin, all.mask + (packed ? begin / 8 : begin),
                 left < kChunk<T> ? static_cast<int>(left) : kChunk<T>, tensors.first + low};
  }
}

// Finds the next digit of the threshold from how many keys have each, counted down from the
// highest, and sets the bins to 0. Run by one block.
__device__ void choose_digit(int shift, int digit_bits, Bin* bins, State* state) {
  constexpr int kOwn = kMostBins / kThreads;
  const int first = (1 << digit_bits) - 1 - static_cast<int>(threadIdx.x) * kOwn;
  std::int64_t own[kOwn];
  std::int64_t sum = 0;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    own[k] = first >= k ? static_cast<std::int64_t>(atomicExch(&bins[first - k], Bin{0})) : 0;
    sum += own[k];
  }
  const State was = *state;
  // Behind the barriers of this sum, one thread writes the state that all have read.
  std::int64_t above = sum_before(sum);
  // With nothing to keep the threshold is the largest key that there is.
  const std::int64_t rank = was.wanted > 0 ? was.wanted : 1;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    if (above < rank && rank <= above + own[k]) {
      const std::uint64_t known = was.known << digit_bits | static_cast<unsigned>(first - k);
      const std::int64_t wanted = was.wanted - above;
      const bool resolved = wanted == own[k];
      state->known = known;
      state->wanted = wanted;
      state->least = resolved ? known << shift : known + 1;
      state->resolved = resolved;
    }
    above += own[k];
  }
}

// Adds to bins[digit] for each score whose key, from bit `shift` on, is what is known of the
// threshold and then the digit; the last block finds the threshold's. A pass that goes the other
// way than the one before finds what that read last in the cache. The first pass counts every
// score, and looks for NaN.
template <bool kFirst, typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    count_digits(const Chunk<T>* chunks, std::int64_t chunk_count, bool backwards, int shift,
                 int digit_bits, Bin* bins, State* state, Bin* results) {
  using Digits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  alignas(kPackBytes) __shared__ unsigned own[kMostBins * kCopies];
  if (!kFirst && state->resolved) return;
  const Digits bin_count = Digits{1} << digit_bits;
  const Digits lowest = kFirst ? 0 : static_cast<Digits>(state->known) << digit_bits;
  unsigned* const copy = own + threadIdx.x % kCopies;
  for (unsigned i = threadIdx.x; i < bin_count * kCopies; i += kThreads) own[i] = 0;
  __syncthreads();
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    const Chunk<T> chunk = chunks[backwards ? chunk_count - 1 - i : i];
    Key<T> largest = 0;
    const auto count = [&](Key<T> key) {
      if (kFirst) largest = key > largest ? key : largest;
      const Digits bin = (Digits{key} >> shift) - lowest;
      if (kFirst || bin < bin_count) atomicAdd(&copy[static_cast<unsigned>(bin) * kCopies], 1u);
    };
    const int groups = on_boundary(chunk.scores, kPackBytes) ? chunk.size / kLanes<T> : 0;
    for_each_group<kLanes<T>>(chunk.scores, groups, [&](int, const Key<T>(&keys)[kLanes<T>]) {
#pragma unroll
      for (int k = 0; k < kLanes<T>; ++k) count(keys[k]);
    });
    for (int k = groups * kLanes<T> + static_cast<int>(threadIdx.x); k < chunk.size;
         k += kThreads) {
      count(core::order_key(chunk.scores[k]));
    }
    if (kFirst && largest > core::kLargestKey<T>)
      atomicMin(&results[0], static_cast<Bin>(chunk.tensor));
  }
  __syncthreads();
  for (unsigned bin = threadIdx.x; bin < bin_count; bin += kThreads) {
    Bin sum = 0;
#pragma unroll
    for (int k = 0; k < kCopies; ++k) sum += own[bin * kCopies + k];
    // Integers: their sum is the same in any order.
    if (sum != 0) atomicAdd(&bins[bin], sum);
  }
  if (is_last_block(&state->blocks_ended)) choose_digit(shift, digit_bits, bins, state);
}

// Writes a chunk's mask: 1 where the key is `least` or more. Returns how many of this thread's
// scores are kept, and in the upper half how many are just below.
template <bool kPacked, typename T>
__device__ unsigned mark_chunk(const Chunk<T>& chunk, Key<T> least) {
  constexpr int kItems = kPacked ? 8 : kLanes<T>;
  assume_global(chunk.mask);
  const auto below = static_cast<Key<T>>(least - 1);
  unsigned counts = 0;
  const auto is_kept = [&](Key<T> key) {
    counts += key == below ? 1u << 16 : key >= least ? 1u : 0u;
    return key >= least;
  };
  const bool wide =
      on_boundary(chunk.scores, kPackBytes) && (kPacked || on_boundary(chunk.mask, kItems));
  const int groups = wide ? chunk.size / kItems : 0;
  for_each_group<kItems>(chunk.scores, groups, [&](int group, const Key<T>(&keys)[kItems]) {
    if constexpr (kPacked) {
      unsigned bits = 0;
#pragma unroll
      for (int k = 0; k < kItems; ++k) bits |= is_kept(keys[k]) ? 0x80u >> k : 0;
      chunk.mask[group] = static_cast<std::uint8_t>(bits);
    } else {
      Marks<kItems> marks;
#pragma unroll
      for (int k = 0; k < kItems; ++k) marks.byte[k] = is_kept(keys[k]);
      reinterpret_cast<Marks<kItems>*>(chunk.mask)[group] = marks;
    }
  });
  const int rest = groups * kItems;
  if constexpr (kPacked) {
    for (int byte = rest / 8 + static_cast<int>(threadIdx.x); 8 * byte < chunk.size;
         byte += kThreads) {
      unsigned bits = 0;
      for (int k = 0; k < 8 && 8 * byte + k < chunk.size; ++k) {
        if (is_kept(core::order_key(chunk.scores[8 * byte + k]))) bits |= 0x80u >> k;
      }
      chunk.mask[byte] = static_cast<std::uint8_t>(bits);
    }
  } else {
    for (int k = rest + static_cast<int>(threadIdx.x); k < chunk.size; k += kThreads) {
      chunk.mask[k] = is_kept(core::order_key(chunk.scores[k]));
    }
  }
  return counts;
}

// Ties go to the first chunks that have any. Run by one block.
template <typename T>
__device__ void share_ties(const Chunk<T>* chunks, std::int64_t chunk_count, std::int64_t wanted,
                           Ties* ties, Bin* kept) {
  const std::int64_t part = (chunk_count + kThreads - 1) / kThreads;
  const std::int64_t begin = threadIdx.x * part;
  const std::int64_t end = begin + part < chunk_count ? begin + part : chunk_count;
  std::int64_t sum = 0;
#pragma unroll 4
  for (std::int64_t i = begin; i < end; ++i) sum += ties[i].here;
  std::int64_t left = wanted - sum_before(sum);
#pragma unroll 1
  for (std::int64_t i = begin; i < end; ++i) {
    const unsigned here = ties[i].here;
    const unsigned taken = left >= here ? here : left > 0 ? static_cast<unsigned>(left) : 0;
    left -= here;
    ties[i].kept = taken;
    if (taken > 0) atomicAdd(&kept[chunks[i].tensor], Bin{taken});
  }
}

// Writes the masks of what is kept without a look at ties that must be split. Where there are such
// ties, it counts them, and the last block shares out which are kept.
template <bool kPacked, typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    mark(const Chunk<T>* chunks, std::int64_t chunk_count, bool backwards, State* state, Ties* ties,
         Bin* kept) {
  __shared__ unsigned sums[kBanks];
  const bool split = !state->resolved;
  const auto least = static_cast<Key<T>>(state->least);
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    const std::int64_t at = backwards ? chunk_count - 1 - i : i;
    const Chunk<T> chunk = chunks[at];
    if (threadIdx.x < kBanks) sums[threadIdx.x] = 0;
    const unsigned counts = mark_chunk<kPacked>(chunk, least);
    __syncthreads();
    atomicAdd(&sums[threadIdx.x % kBanks], counts);
    __syncthreads();
    if (threadIdx.x == 0) {
      static_assert(kChunk<T> < 1 << 16);
      unsigned all = 0;
#pragma unroll 8
      for (int k = 0; k < kBanks; ++k) all += sums[k];
      if ((all & 0xFFFF) != 0) atomicAdd(&kept[chunk.tensor], Bin{all & 0xFFFF});
      if (split) ties[at] = {all >> 16, 0};
    }
    __syncthreads();
  }
  if (split && is_last_block(&state->blocks_ended)) {
    share_ties(chunks, chunk_count, state->wanted, ties, kept);
  }
}

// Marks the first `kept` of a chunk's scores at the threshold, those above being marked. A thread
// has a part of the chunk to itself, of whole bytes.
template <bool kPacked, typename T>
__device__ void mark_first_ties(const Chunk<T>& chunk, Key<T> threshold, unsigned kept) {
  constexpr int kPart = kChunk<T> / kThreads;
  static_assert(kPart % 8 == 0);
  const int begin = static_cast<int>(threadIdx.x) * kPart;
  const int end = begin + kPart < chunk.size ? begin + kPart : chunk.size;
  int here = 0;
  for (int k = begin; k < end; ++k) here += core::order_key(chunk.scores[k]) == threshold;
  std::int64_t left = kept - sum_before(here);
  for (int k = begin; left > 0 && k < end; ++k) {
    if (core::order_key(chunk.scores[k]) != threshold) continue;
    if (kPacked) {
      chunk.mask[k / 8] |= static_cast<std::uint8_t>(0x80u >> k % 8);
    } else {
      chunk.mask[k] = 1;
    }
    --left;
  }
}

// Marks the ties that are kept, if some are and some are not: all of the first chunks, some of one.
template <bool kPacked, typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    mark_ties(const Chunk<T>* chunks, std::int64_t chunk_count, const State* state,
              const Ties* ties) {
  if (state->resolved) return;
  const auto threshold = static_cast<Key<T>>(state->known);
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    const Ties tied = ties[i];
    if (tied.kept == 0) continue;
    if (tied.kept == tied.here) {
      mark_chunk<kPacked>(chunks[i], threshold);
    } else {
      mark_first_ties<kPacked>(chunks[i], threshold, tied.kept);
    }
  }
}

// Where things lie in the scratch, each on a multiple of 16 bytes.
struct Scratch {
  std::int64_t chunks;
  std::int64_t bins;
  std::int64_t state;
  std::int64_t ties;
  std::int64_t results;
  std::int64_t bytes;
};

Scratch scratch_for(std::int64_t chunk_count, std::int64_t tensor_count) {
  std::int64_t bytes = 0;
  const auto take = [&](std::int64_t count, std::size_t size) {
    const std::int64_t begin = bytes;
    bytes += ceil_divide(count * static_cast<std::int64_t>(size), 16) * 16;
    return begin;
  };
  Scratch scratch{};
  scratch.chunks = take(chunk_count, sizeof(Chunk<float>));  // as large for every T
  scratch.bins = take(kMostBins, sizeof(Bin));
  scratch.state = take(1, sizeof(State));
  scratch.ties = take(chunk_count, sizeof(Ties));
  scratch.results = take(1 + tensor_count, sizeof(Bin));
  scratch.bytes = bytes;
  return scratch;
}

template <typename T>
std::int64_t count_chunks(const std::vector<ScoreTensor<T>>& tensors) {
  std::int64_t chunks = 0;
  for (const auto& tensor : tensors) chunks += ceil_divide(tensor.size, kChunk<T>);
  return chunks;
}

// Marks the best `keep` of some tensors together; `results` are those of `prepare`, on the host.
// Waits for the stream once, at the end. Returns what went wrong with a launch or a copy.
template <bool kPacked, typename T>
std::string rank(const std::vector<ScoreTensor<T>>& tensors, std::int64_t keep, void* scratch,
                 Stream stream, std::vector<Bin>* results) {
  const auto tensor_count = static_cast<std::int64_t>(tensors.size());
  const std::int64_t chunk_count = count_chunks(tensors);
  const Scratch at = scratch_for(chunk_count, tensor_count);
  char* const memory = static_cast<char*>(scratch);
  auto* const chunks = reinterpret_cast<Chunk<T>*>(memory + at.chunks);
  auto* const bins = reinterpret_cast<Bin*>(memory + at.bins);
  auto* const state = reinterpret_cast<State*>(memory + at.state);
  auto* const ties = reinterpret_cast<Ties*>(memory + at.ties);
  auto* const found = reinterpret_cast<Bin*>(memory + at.results);

  std::string wrong;
  const auto run = [&](const char* name, auto kernel, std::int64_t blocks,
                       const auto&... arguments) {
    if (wrong.empty()) {
      wrong = launch(name, kernel, static_cast<unsigned>(blocks), kThreads, stream, arguments...);
    }
  };
  std::int64_t first_chunk = 0;
  for (std::int64_t first = 0; first < tensor_count; first += kTensorsPerLaunch) {
    Tensors<T> some{};
    some.first = static_cast<int>(first);
    some.size = static_cast<int>(std::min<std::int64_t>(kTensorsPerLaunch, tensor_count - first));
    some.end_chunk = first_chunk;
    for (int i = 0; i < some.size; ++i) {
      const ScoreTensor<T>& tensor = tensors[static_cast<std::size_t>(first + i)];
      some.tensor[i] = {tensor, some.end_chunk};
      some.end_chunk += ceil_divide(tensor.size, kChunk<T>);
    }
    const std::int64_t items = std::max<std::int64_t>(kMostBins, some.end_chunk - first_chunk);
    run("prepare_selection", prepare<T>, blocks_for(items, kThreads), some, kPacked, keep, chunks,
        bins, state, found, tensor_count);
    first_chunk = some.end_chunk;
  }

  const std::int64_t count_blocks = std::min(chunk_count, kCountBlocks);
  constexpr int kKeyBits = 8 * sizeof(Key<T>);
  bool backwards = false;
  for (int shift = kKeyBits; shift > 0; backwards = !backwards) {
    const auto count = shift == kKeyBits ? count_digits<true, T> : count_digits<false, T>;
    const int digit_bits = std::min(kDigitBits, shift);
    shift -= digit_bits;
    run("count_digits", count, count_blocks, chunks, chunk_count, backwards, shift, digit_bits,
        bins, state, found);
  }
  run("mark_above", mark<kPacked, T>, blocks_for(chunk_count, 1), chunks, chunk_count, backwards,
      state, ties, found + 1);
  run("mark_ties", mark_ties<kPacked, T>, count_blocks, chunks, chunk_count, state, ties);

  results->resize(static_cast<std::size_t>(1 + tensor_count));
  if (wrong.empty()) {
    wrong = checked("select", cudaMemcpyAsync(results->data(), found, results->size() * sizeof(Bin),
                                              cudaMemcpyDeviceToHost, stream));
  }
  return wrong.empty() ? checked("select", cudaStreamSynchronize(stream)) : wrong;
}

}  // namespace

template <typename T>
std::int64_t scratch_bytes(const Selection<T>& selection) {
  return scratch_for(count_chunks(selection.tensors),
                     static_cast<std::int64_t>(selection.tensors.size()))
      .bytes;
}

template <typename T>
std::string run(const Selection<T>& selection, void* scratch, Stream stream, std::string* failure) {
  return keep_at_least(selection, [&](const std::vector<ScoreTensor<T>>& tensors, std::int64_t keep,
                                      std::vector<std::int64_t>* kept) {
    std::vector<Bin> results;
    const auto rank_all = selection.packed ? rank<true, T> : rank<false, T>;
    std::string wrong = rank_all(tensors, keep, scratch, stream, &results);
    if (!wrong.empty()) {
      *failure = wrong;
    } else if (results[0] < tensors.size()) {
      wrong = "scores[" + std::to_string(results[0]) + "] holds NaN";
    } else {
      kept->assign(results.begin() + 1, results.end());
    }
    return wrong;
  });
}

#define INSTANTIATE(T)                                      \
  template std::int64_t scratch_bytes(const Selection<T>&); \
  template std::string run(const Selection<T>&, void*, Stream, std::string*)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(core::Half);
INSTANTIATE(core::BFloat16);
#undef INSTANTIATE

}  // namespace prospr::cuda
