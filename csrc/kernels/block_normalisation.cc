#include "kernels/block_normalisation.h"

namespace prospr {

std::string check_block_norm(const std::vector<NamedShape>& tensors, std::int64_t samples,
                             const std::vector<NamedShape>& per_channel, const Shape* moments,
                             BlockNormShape* shape) {
  const auto& [name, first] = tensors.front();
  std::string wrong = check_not_empty(name, first);
  if (wrong.empty()) wrong = check_same_shape(tensors);
  if (!wrong.empty()) return wrong;
  constexpr std::int64_t kMostSamples = std::int64_t{1} << 40;
  if (samples < 1 || samples > kMostSamples) {
    return "samples is " + std::to_string(samples) + "; it must be in [1, 2^40]";
  }
  if (first.size() < 3 || first.back() != kBlockLanes || first[0] != blocks_of(samples)) {
    return must_be(name, first,
                   "[" + std::to_string(blocks_of(samples)) + ",...,channels," +
                       std::to_string(kBlockLanes) + "] for " + std::to_string(samples) +
                       " samples");
  }
  shape->samples = samples;
  shape->channels = first[first.size() - 2];
  shape->positions = product(first.begin() + 1, first.end() - 2);
  for (const auto& [vector, given] : per_channel) {
    wrong = check_shape(vector, given, {shape->channels});
    if (!wrong.empty()) return wrong;
  }
  return moments == nullptr ? "" : check_shape("moments", *moments, {2, shape->channels});
}

}  // namespace prospr
