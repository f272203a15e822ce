#include "cpu/select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>

#include "cpu/select_kernels.h"

namespace prospr::cpu {
namespace {

using core::Key;

constexpr double kNanosecondsPerScore = 0.3;

// Scores of one tensor that one thread works on without a break. Whole bytes of a packed mask.
constexpr std::int64_t kChunk = 1 << 15;

// The first guess comes from a sample: one score per kSampleStride, at most kLargestSample.
constexpr std::int64_t kSampleStride = 32;
constexpr std::int64_t kLargestSample = 1 << 14;

struct Chunk {
  std::size_t tensor;
  std::int64_t begin;
  std::int64_t size;
};

// Kept are the scores whose key is greater than `key`, and the first `ties` of those that have it.
template <typename T>
struct Threshold {
  Key<T> key;
  std::int64_t ties;
};

template <typename T>
Window<T> window_between(Key<T> low, Key<T> high) {
  int shift = 0;
  while (static_cast<Key<T>>(high - low) >> shift >= kMaxBins) ++shift;
  return {low, high, shift};
}

// Ranks the scores of several tensors together.
template <typename T>
class Ranking {
 public:
  Ranking(const std::vector<ScoreTensor<T>>& tensors, bool packed, const SelectKernels<T>& kernels,
          const ParallelFor& parallel_for)
      : tensors_(tensors), packed_(packed), kernels_(kernels), parallel_for_(parallel_for) {
    for (std::size_t tensor = 0; tensor < tensors.size(); ++tensor) {
      const std::int64_t size = tensors[tensor].size;
      for (std::int64_t begin = 0; begin < size; begin += kChunk) {
        chunks_.push_back({tensor, begin, std::min(kChunk, size - begin)});
      }
    }
  }

  // Returns the lowest number of a tensor that holds a NaN, or how many tensors there are.
  std::size_t find_threshold(std::int64_t keep, Threshold<T>* threshold) const {
    for (Window<T> window = guess(keep);;) {
      const Counts counts = count(window);
      if (counts.first_nan < tensors_.size()) return counts.first_nan;
      std::int64_t ties = keep - counts.above;
      const std::int64_t inside =
          std::accumulate(counts.bins.begin(), counts.bins.end(), std::int64_t{0});
      if ((ties <= 0 && keep > 0) || ties > inside) {  // the guess was wrong
        window = window_between<T>(0, core::kLargestKey<T>);
        continue;
      }
      std::size_t bin = counts.bins.size() - 1;
      while (ties > counts.bins[bin]) ties -= counts.bins[bin--];
      const auto low = static_cast<Key<T>>(window.low + (static_cast<Key<T>>(bin) << window.shift));
      if (window.shift == 0) {
        *threshold = {low, ties};
        return tensors_.size();
      }
      const auto last = static_cast<Key<T>>((Key<T>{1} << window.shift) - 1);
      window = window_between<T>(low, window.high - low < last ? window.high : low + last);
    }
  }

  // Writes the masks; returns how many are kept of each tensor.
  std::vector<std::int64_t> mark(const Threshold<T>& threshold) const {
    std::vector<Marked> marked(chunks_.size());
    for_chunks([&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        marked[i] = kernels_.mark(scores_of(chunks_[i]), chunks_[i].size, threshold.key, packed_,
                                  mask_of(chunks_[i]));
      }
    });

    // Ties go to the first chunks that have any; from here on `tied` says how many of them do.
    std::vector<std::int64_t> kept(tensors_.size(), 0);
    std::int64_t ties = threshold.ties;
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      marked[i].tied = std::min(marked[i].tied, ties);
      ties -= marked[i].tied;
      kept[chunks_[i].tensor] += marked[i].above + marked[i].tied;
    }
    for_chunks([&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        mark_ties(chunks_[i], threshold.key, marked[i].tied);
      }
    });
    return kept;
  }

 private:
  struct Counts {
    std::int64_t above = 0;
    std::vector<std::int64_t> bins;
    std::size_t first_nan;
  };

  Counts count(const Window<T>& window) const {
    const auto bins =
        static_cast<std::size_t>(static_cast<Key<T>>(window.high - window.low) >> window.shift) + 1;
    Counts all;
    all.bins.resize(bins, 0);
    all.first_nan = tensors_.size();
    std::mutex mutex;
    for_chunks([&](std::size_t begin, std::size_t end) {
      Counts own = {0, std::vector<std::int64_t>(bins, 0), tensors_.size()};
      for (std::size_t i = begin; i < end; ++i) {
        const Counted counted =
            kernels_.count(scores_of(chunks_[i]), chunks_[i].size, window, own.bins.data());
        own.above += counted.above;
        if (counted.nan) own.first_nan = std::min(own.first_nan, chunks_[i].tensor);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      all.above += own.above;
      for (std::size_t bin = 0; bin < bins; ++bin) all.bins[bin] += own.bins[bin];
      all.first_nan = std::min(all.first_nan, own.first_nan);
    });
    return all;
  }

  // Where the threshold probably is: three standard deviations about its rank in a sample.
  Window<T> guess(std::int64_t keep) const {
    if (keep == 0) return window_between<T>(core::kLargestKey<T>, core::kLargestKey<T>);
    std::int64_t size = 0;
    for (const ScoreTensor<T>& tensor : tensors_) size += tensor.size;
    const std::int64_t stride = std::max(kSampleStride, size / kLargestSample);
    std::vector<Key<T>> sample;
    std::int64_t next = stride / 2;
    for (const ScoreTensor<T>& tensor : tensors_) {
      for (; next < tensor.size; next += stride) {
        sample.push_back(core::order_key(tensor.scores[next]));
      }
      next -= tensor.size;
    }

    const auto samples = static_cast<double>(sample.size());
    const double share = static_cast<double>(keep) / static_cast<double>(size);
    const double spread = 3 * std::sqrt(samples * share * (1 - share)) + 1;
    const auto key_at = [&](double rank) {
      if (rank < 0) return core::kLargestKey<T>;
      if (rank >= samples) return Key<T>{0};
      const auto place = sample.begin() + static_cast<std::ptrdiff_t>(rank);
      std::nth_element(sample.begin(), place, sample.end(), std::greater<Key<T>>());
      return *place;
    };
    const Key<T> low = key_at(samples * share + spread);
    return window_between<T>(low, key_at(samples * share - spread));
  }

  template <typename Work>
  void for_chunks(const Work& work) const {
    parallel_for_(static_cast<std::int64_t>(chunks_.size()), kNanosecondsPerScore * kChunk,
                  [&](std::int64_t begin, std::int64_t end) {
                    work(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
                  });
  }

  const T* scores_of(const Chunk& chunk) const {
    return tensors_[chunk.tensor].scores + chunk.begin;
  }

  std::uint8_t* mask_of(const Chunk& chunk) const {
    return tensors_[chunk.tensor].mask + (packed_ ? chunk.begin / 8 : chunk.begin);
  }

  void mark_ties(const Chunk& chunk, Key<T> key, std::int64_t ties) const {
    const T* const scores = scores_of(chunk);
    std::uint8_t* const mask = mask_of(chunk);
    for (std::int64_t i = 0; ties > 0 && i < chunk.size; ++i) {
      if (core::order_key(scores[i]) != key) continue;
      if (packed_) {
        mask[i / 8] |= static_cast<std::uint8_t>(0x80u >> i % 8);
      } else {
        mask[i] = 1;
      }
      --ties;
    }
  }

  const std::vector<ScoreTensor<T>>& tensors_;
  const bool packed_;
  const SelectKernels<T> kernels_;
  const ParallelFor& parallel_for_;
  std::vector<Chunk> chunks_;
};

}  // namespace

template <typename T>
std::string run(const Selection<T>& selection, InstructionSet instruction_set,
                const ParallelFor& parallel_for) {
  const auto kernels = dispatch<SelectKernels<T>>(instruction_set);

  return keep_at_least(selection,
                       [&](const std::vector<ScoreTensor<T>>& tensors, std::int64_t keep,
                           std::vector<std::int64_t>* kept) -> std::string {
                         const Ranking<T> ranking(tensors, selection.packed, kernels, parallel_for);
                         Threshold<T> threshold;
                         const std::size_t nan = ranking.find_threshold(keep, &threshold);
                         if (nan < tensors.size())
                           return "scores[" + std::to_string(nan) + "] holds NaN";
                         *kept = ranking.mark(threshold);
                         return "";
                       });
}

template std::string run(const Selection<float>&, InstructionSet, const ParallelFor&);
template std::string run(const Selection<double>&, InstructionSet, const ParallelFor&);
template std::string run(const Selection<core::Half>&, InstructionSet, const ParallelFor&);
template std::string run(const Selection<core::BFloat16>&, InstructionSet, const ParallelFor&);

}  // namespace prospr::cpu
