#include <cstring>

#include "cuda/launch.h"
#include "cuda/select.h"
#include "kernels/select.h"

namespace prospr::cuda {
namespace {

using core::Key;

constexpr int kThreads = 256;
// Scores of one tensor that a block works on without a break.
constexpr std::int64_t kChunk = 1 << 15;
constexpr int kDigitBits = 11;
constexpr int kMostBins = 1 << kDigitBits;

template <typename T>
struct Chunk {
  const T* scores;
  std::uint8_t* mask;
  std::int64_t size;
};

// The scores of a chunk whose key is above the threshold, and those whose key equals it.
struct Count {
  std::int64_t above;
  std::int64_t tied;
};

using Bin = unsigned long long;  // what atomicAdd takes

// Adds to bins[digit] for each score whose key, from bit `shift` on, is `known` and then the digit.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_digits(const Chunk<T>* chunks, std::int64_t chunk_count, std::uint64_t known, int shift,
                 int digit_bits, Bin* bins, std::uint8_t* chunk_has_nan) {
  __shared__ unsigned own[kMostBins];
  const int bin_count = 1 << digit_bits;
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    const Chunk<T> chunk = chunks[i];
    for (int bin = static_cast<int>(threadIdx.x); bin < bin_count; bin += kThreads) own[bin] = 0;
    __syncthreads();
    bool nan = false;
    for (std::int64_t k = threadIdx.x; k < chunk.size; k += kThreads) {
      const Key<T> key = core::order_key(chunk.scores[k]);
      nan = nan || key > core::kLargestKey<T>;
      const std::uint64_t digits = std::uint64_t{key} >> shift;
      if (digits >> digit_bits == known) {
        atomicAdd(&own[digits & static_cast<unsigned>(bin_count - 1)], 1u);
      }
    }
    // Integers: their sum is the same in any order. The vote is a barrier too.
    const bool any_nan = __syncthreads_or(nan);
    for (int bin = static_cast<int>(threadIdx.x); bin < bin_count; bin += kThreads) {
      if (own[bin] != 0) atomicAdd(&bins[bin], Bin{own[bin]});
    }
    if (threadIdx.x == 0) chunk_has_nan[i] = any_nan;
    __syncthreads();
  }
}

// Writes the masks of what is above the threshold, and counts.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    mark_above(const Chunk<T>* chunks, std::int64_t chunk_count, Key<T> threshold, bool packed,
               Count* counts) {
  __shared__ unsigned shared_above;
  __shared__ unsigned shared_tied;
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    const Chunk<T> chunk = chunks[i];
    if (threadIdx.x == 0) shared_above = shared_tied = 0;
    __syncthreads();
    unsigned above = 0;
    unsigned tied = 0;
    const auto is_above = [&](std::int64_t k) {
      const Key<T> key = core::order_key(chunk.scores[k]);
      above += key > threshold;
      tied += key == threshold;
      return key > threshold;
    };
    if (packed) {
      for (std::int64_t byte = threadIdx.x; 8 * byte < chunk.size; byte += kThreads) {
        unsigned bits = 0;
        for (int k = 0; k < 8 && 8 * byte + k < chunk.size; ++k) {
          if (is_above(8 * byte + k)) bits |= 0x80u >> k;
        }
        chunk.mask[byte] = static_cast<std::uint8_t>(bits);
      }
    } else {
      for (std::int64_t k = threadIdx.x; k < chunk.size; k += kThreads) {
        chunk.mask[k] = is_above(k);
      }
    }
    atomicAdd(&shared_above, above);
    atomicAdd(&shared_tied, tied);
    __syncthreads();
    if (threadIdx.x == 0) counts[i] = {shared_above, shared_tied};
    __syncthreads();
  }
}

// Marks the first `ties[i]` scores of chunk i that are at the threshold. A thread has a part of the
// chunk to itself, of whole bytes, and waits to hear how many come before it.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    mark_ties(const Chunk<T>* chunks, std::int64_t chunk_count, Key<T> threshold, bool packed,
              const std::int64_t* ties) {
  constexpr std::int64_t kPart = kChunk / kThreads;
  __shared__ int before[kThreads];
  for (std::int64_t i = blockIdx.x; i < chunk_count; i += gridDim.x) {
    if (ties[i] == 0) continue;
    const Chunk<T> chunk = chunks[i];
    const std::int64_t begin = threadIdx.x * kPart;
    const std::int64_t end = begin + kPart < chunk.size ? begin + kPart : chunk.size;
    int tied = 0;
    for (std::int64_t k = begin; k < end; ++k) {
      tied += core::order_key(chunk.scores[k]) == threshold;
    }
    before[threadIdx.x] = tied;
    __syncthreads();
    if (threadIdx.x == 0) {
      int sum = 0;
      for (int thread = 0; thread < kThreads; ++thread) {
        const int here = before[thread];
        before[thread] = sum;
        sum += here;
      }
    }
    __syncthreads();
    std::int64_t left = ties[i] - before[threadIdx.x];
    for (std::int64_t k = begin; left > 0 && k < end; ++k) {
      if (core::order_key(chunk.scores[k]) != threshold) continue;
      if (packed) {
        chunk.mask[k / 8] |= static_cast<std::uint8_t>(0x80u >> k % 8);
      } else {
        chunk.mask[k] = 1;
      }
      --left;
    }
    __syncthreads();
  }
}

// Where things lie in the scratch, each on a multiple of 16 bytes.
struct Scratch {
  std::int64_t chunks;
  std::int64_t bins;
  std::int64_t counts;
  std::int64_t ties;
  std::int64_t has_nan;
  std::int64_t bytes;
};

Scratch scratch_for(std::int64_t chunk_count) {
  std::int64_t bytes = 0;
  const auto take = [&](std::int64_t size) {
    const std::int64_t begin = bytes;
    bytes += ceil_divide(size, 16) * 16;
    return begin;
  };
  Scratch scratch{};
  // A chunk is as large for every T.
  scratch.chunks = take(chunk_count * static_cast<std::int64_t>(sizeof(Chunk<float>)));
  scratch.bins = take(kMostBins * static_cast<std::int64_t>(sizeof(Bin)));
  scratch.counts = take(chunk_count * static_cast<std::int64_t>(sizeof(Count)));
  scratch.ties = take(chunk_count * static_cast<std::int64_t>(sizeof(std::int64_t)));
  scratch.has_nan = take(chunk_count);
  scratch.bytes = bytes;
  return scratch;
}

// Ranks the scores of several tensors together. Each step returns false if something failed.
template <typename T>
class Ranking {
 public:
  Ranking(const std::vector<ScoreTensor<T>>& tensors, bool packed, void* scratch, Stream stream,
          std::string* failure)
      : tensors_(tensors.size()),
        packed_(packed),
        memory_(static_cast<char*>(scratch)),
        stream_(stream),
        failure_(failure) {
    for (std::size_t tensor = 0; tensor < tensors.size(); ++tensor) {
      const ScoreTensor<T>& all = tensors[tensor];
      for (std::int64_t begin = 0; begin < all.size; begin += kChunk) {
        chunks_.push_back({all.scores + begin, all.mask + (packed ? begin / 8 : begin),
                           std::min(kChunk, all.size - begin)});
        tensor_of_.push_back(tensor);
      }
    }
    at_ = scratch_for(size());
  }

  // Finds the key of the smallest score that is kept, and how many of that key are. `nan` becomes
  // the lowest number of a tensor that holds one, or how many tensors there are.
  bool find_threshold(std::int64_t keep, Key<T>* threshold, std::int64_t* ties, std::size_t* nan) {
    if (!upload(at_.chunks, chunks_)) return false;
    std::uint64_t known = 0;
    *ties = keep;
    for (int shift = 8 * sizeof(Key<T>); shift > 0;) {
      const bool first = shift == 8 * sizeof(Key<T>);
      const int digit_bits = std::min(kDigitBits, shift);
      shift -= digit_bits;
      std::vector<Bin> bins(std::size_t{1} << digit_bits, 0);
      std::vector<std::uint8_t> has_nan(chunks_.size());
      if (!upload(at_.bins, bins) ||
          !run("count_digits", count_digits<T>, known, shift, digit_bits, part<Bin>(at_.bins),
               part<std::uint8_t>(at_.has_nan)) ||
          !download(at_.bins, &bins) || (first && !download(at_.has_nan, &has_nan)) || !wait()) {
        return false;
      }
      if (first) {
        const auto found = std::find(has_nan.begin(), has_nan.end(), 1);
        *nan = found == has_nan.end() ? tensors_ : tensor_of_[found - has_nan.begin()];
        if (*nan < tensors_) return true;
      }
      // With nothing to keep this is the largest key that there is.
      std::size_t bin = bins.size() - 1;
      while (bin > 0 && (*ties > static_cast<std::int64_t>(bins[bin]) || bins[bin] == 0)) {
        *ties -= static_cast<std::int64_t>(bins[bin--]);
      }
      known = known << digit_bits | bin;
    }
    *threshold = static_cast<Key<T>>(known);
    return true;
  }

  // Writes the masks; `kept` becomes how many are kept of each tensor.
  bool mark(Key<T> threshold, std::int64_t ties, std::vector<std::int64_t>* kept) {
    std::vector<Count> counts(chunks_.size());
    if (!run("mark_above", mark_above<T>, threshold, packed_, part<Count>(at_.counts)) ||
        !download(at_.counts, &counts) || !wait()) {
      return false;
    }
    // Ties go to the first chunks that have any.
    kept->assign(tensors_, 0);
    std::vector<std::int64_t> tied(chunks_.size());
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      tied[i] = std::min(counts[i].tied, ties);
      ties -= tied[i];
      (*kept)[tensor_of_[i]] += counts[i].above + tied[i];
    }
    // Waited for, as what is uploaded ends here.
    return upload(at_.ties, tied) &&
           run("mark_ties", mark_ties<T>, threshold, packed_,
               static_cast<const std::int64_t*>(part<std::int64_t>(at_.ties))) &&
           wait();
  }

 private:
  std::int64_t size() const { return static_cast<std::int64_t>(chunks_.size()); }

  template <typename Value>
  Value* part(std::int64_t offset) const {
    return reinterpret_cast<Value*>(memory_ + offset);
  }

  bool succeeded(const std::string& wrong) const {
    if (!wrong.empty()) *failure_ = wrong;
    return wrong.empty();
  }

  template <typename Value>
  bool upload(std::int64_t offset, const std::vector<Value>& values) const {
    return succeeded(checked(
        "select", cudaMemcpyAsync(memory_ + offset, values.data(), values.size() * sizeof(Value),
                                  cudaMemcpyHostToDevice, stream_)));
  }

  template <typename Value>
  bool download(std::int64_t offset, std::vector<Value>* values) const {
    return succeeded(checked(
        "select", cudaMemcpyAsync(values->data(), memory_ + offset, values->size() * sizeof(Value),
                                  cudaMemcpyDeviceToHost, stream_)));
  }

  bool wait() const { return succeeded(checked("select", cudaStreamSynchronize(stream_))); }

  template <typename Kernel, typename... Arguments>
  bool run(const char* name, Kernel kernel, const Arguments&... arguments) const {
    return succeeded(launch(name, kernel, blocks_for(size(), 1), kThreads, stream_,
                            static_cast<const Chunk<T>*>(part<Chunk<T>>(at_.chunks)), size(),
                            arguments...));
  }

  const std::size_t tensors_;
  const bool packed_;
  char* const memory_;
  const Stream stream_;
  std::string* const failure_;
  std::vector<Chunk<T>> chunks_;
  std::vector<std::size_t> tensor_of_;
  Scratch at_;
};

}  // namespace

template <typename T>
std::int64_t scratch_bytes(const Selection<T>& selection) {
  std::int64_t chunks = 0;
  for (const auto& tensor : selection.tensors) chunks += ceil_divide(tensor.size, kChunk);
  return scratch_for(chunks).bytes;
}

template <typename T>
std::string run(const Selection<T>& selection, void* scratch, Stream stream, std::string* failure) {
  return keep_at_least(selection,
                       [&](const std::vector<ScoreTensor<T>>& tensors, std::int64_t keep,
                           std::vector<std::int64_t>* kept) -> std::string {
                         Ranking<T> ranking(tensors, selection.packed, scratch, stream, failure);
                         Key<T> threshold{};
                         std::int64_t ties = 0;
                         std::size_t nan = 0;
                         if (!ranking.find_threshold(keep, &threshold, &ties, &nan))
                           return *failure;
                         if (nan < tensors.size())
                           return "scores[" + std::to_string(nan) + "] holds NaN";
                         return ranking.mark(threshold, ties, kept) ? "" : *failure;
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
