// Sums over terms (samples and columns) that are cut into slices, to have work for a whole GPU, and
// added up in the slices' order by a second pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cuda/stream.h"

namespace prospr::cuda {

// Sums that are kept apart take at most this much memory.
constexpr std::int64_t kMostSliceBytes = std::int64_t{64} << 20;

// How many slices give `wanted` tasks where each slice makes `tasks`, and keep `size` sums each.
inline std::int64_t slices_for(std::int64_t wanted, std::int64_t tasks, std::int64_t most,
                               std::int64_t size, std::int64_t sum_bytes) {
  const std::int64_t slices =
      std::min({wanted / tasks, most, kMostSliceBytes / (size * sum_bytes)});
  return std::max<std::int64_t>(slices, 1);
}

// Sums that are kept apart: none where there is one slice, which is added to the result at once.
inline std::int64_t apart(std::int64_t slices, std::int64_t size) {
  return slices == 1 ? 0 : slices * size;
}

// curvature[size] += the sums of slices[count, size], in order. Does nothing for one slice.
template <typename Sum>
std::string add_slices(const Sum* slices, std::int64_t count, std::int64_t size, Sum* curvature,
                       Stream stream);

}  // namespace prospr::cuda
