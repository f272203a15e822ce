// The largest of many scores, on a GPU: the masks are those of the CPU, and the arguments point to
// device memory.
//
// The keys are ranked digit by digit, from the highest on: a pass over memory counts how many
// scores have each digit below the digits that are known, and its last block picks the one that
// must be that of the smallest score that is kept.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "kernels/select.h"

namespace prospr::cuda {

template <typename T>
std::string check_limits(const Selection<T>&) {
  return "";
}

template <typename T>
std::int64_t scratch_bytes(const Selection<T>& selection);

// Needs what check_selection accepts. Waits for `stream` once, and again for each ranking that
// min_keep calls for: whether a score is NaN, and how many are kept of each tensor, is only known
// then. Returns which tensor holds a NaN, and then no mask is to be used; else empty. `failure`
// becomes what went wrong with a launch or a copy, or stays empty.
template <typename T>
std::string run(const Selection<T>& selection, void* scratch, Stream stream, std::string* failure);

}  // namespace prospr::cuda
