// The maps of kernels/pooling.h on a GPU: the arguments point to device memory, and the results are
// those of the CPU, to the bit.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "kernels/pooling.h"

namespace prospr::cuda {

template <typename Map>
std::string check_limits(const Windows&, const Map&) {
  return "";
}
template <typename Map>
std::int64_t scratch_bytes(const Windows&, const Map&) {
  return 0;
}

template <typename Map>
std::string run(const Windows& windows, const Map& map, void* no_scratch, Stream stream);

}  // namespace prospr::cuda
