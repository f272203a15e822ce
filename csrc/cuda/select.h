// The largest of many scores, on a GPU: the arguments and the masks of cpu/select.h, on device
// memory.
//
// The keys are ranked digit by digit, from the highest on: a pass over memory counts how many
// scores have each digit below the digits that are known, and the host picks the one that must be
// that of the smallest score that is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/select.h"
#include "cuda/stream.h"

namespace prospr::cuda {

using cpu::ScoreTensor;
using cpu::Selection;

// Bytes of device memory that `run` needs beside its arguments, for tensors of these sizes.
std::int64_t select_scratch_bytes(const std::vector<std::int64_t>& sizes);

// Needs what cpu::check_selection accepts. Waits for `stream`, a few times: whether a score is NaN,
// and where ties end, is only known then. Returns which tensor holds a NaN, and then no mask is to
// be used; else empty. `failure` becomes what went wrong with a launch or a copy, or stays empty.
template <typename T>
std::string run(const Selection<T>& selection, void* scratch, Stream stream, std::string* failure);

}  // namespace prospr::cuda
