#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/curvature.h"
#include "cpu/curvature_embedding_kernels.h"

namespace prospr::cpu {
namespace {

// Factors that a core reads from memory per nanosecond, roughly.
constexpr double kSpeed = 3;

}  // namespace

template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, InstructionSet instruction_set,
                const ParallelFor& parallel_for) {
  const EmbeddingShape& shape = embedding.shape;
  const std::int64_t size = shape.samples * shape.positions;

  // A counting sort of the places by word: each word belongs to one thread, and its places keep
  // their order.
  // The indices are copied first: memory that someone else may write is not looked at twice.
  const std::vector<Index> indices(embedding.indices, embedding.indices + size);
  std::vector<std::int64_t> words(shape.vocabulary + 1, 0);
  for (std::int64_t place = 0; place < size; ++place) {
    const auto word = static_cast<std::int64_t>(indices[place]);
    if (word < 0 || word >= shape.vocabulary) {
      return "indices has " + std::to_string(word) + " at position " + std::to_string(place) +
             " (flattened); it must be at least 0 and less than " +
             std::to_string(shape.vocabulary);
    }
    ++words[word + 1];
  }
  for (std::int64_t word = 0; word < shape.vocabulary; ++word) words[word + 1] += words[word];
  std::vector<std::int64_t> places(size);
  std::vector<std::int64_t> next(words.begin(), words.end() - 1);
  for (std::int64_t place = 0; place < size; ++place) {
    places[next[indices[place]]++] = place;
  }

  const EmbeddingPlan<T> plan{shape, embedding.factors, embedding.curvature, places.data(),
                              words.data()};
  const EmbeddingKernel<T> kernel = dispatch<EmbeddingKernel<T>>(instruction_set);
  const double factors = static_cast<double>(size) * static_cast<double>(shape.columns) *
                         static_cast<double>(shape.outputs);
  parallel_for(shape.vocabulary, factors / kSpeed / static_cast<double>(shape.vocabulary),
               [&](std::int64_t begin, std::int64_t end) {
                 AlignedBuffer<core::Accumulator<T>> scratch(shape.outputs);
                 kernel(plan, begin, end, scratch.data());
               });
  return "";
}

#define INSTANTIATE(T, Index) \
  template std::string run(const EmbeddingCurvature<T, Index>&, InstructionSet, const ParallelFor&)
INSTANTIATE(float, std::int32_t);
INSTANTIATE(float, std::int64_t);
INSTANTIATE(double, std::int32_t);
INSTANTIATE(double, std::int64_t);
INSTANTIATE(core::Half, std::int32_t);
INSTANTIATE(core::Half, std::int64_t);
INSTANTIATE(core::BFloat16, std::int32_t);
INSTANTIATE(core::BFloat16, std::int64_t);
#undef INSTANTIATE

}  // namespace prospr::cpu
