// The largest of many scores, on the CPU: exactly so many, ties to the lower index.
//
// The scores are neither moved nor sorted. A sample of them tells between which two keys
// (core/order_key.h) the smallest score that is kept probably is. One pass over memory counts the
// keys above that window and those in each bin of it, further ones do the same in the bin that must
// hold the key, and the last one writes the masks. If the guess was wrong, the search begins again
// with the window of all keys. T is float, double, core::Half or core::BFloat16. Results are the
// same for every split into threads and every instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/order_key.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"

namespace prospr::cpu {

template <typename T>
struct ScoreTensor {
  const T* scores;
  std::int64_t size;   // at least 1
  std::uint8_t* mask;  // all of it is written: see Selection::packed
};

// Ranks the scores of all tensors together; those of an earlier tensor have the lower indices.
template <typename T>
struct Selection {
  std::vector<ScoreTensor<T>> tensors;
  std::int64_t keep;      // how many in all
  std::int64_t min_keep;  // how many of each tensor at least, all of a tensor that has fewer
  bool packed;  // masks of a bit a score, the first in a byte's highest bit and the last byte
                // filled up with zeros; else of a byte a score, 0 or 1
};

// What is wrong with these numbers, empty if nothing is.
std::string check_selection(const std::vector<std::int64_t>& sizes, std::int64_t keep,
                            std::int64_t min_keep);

// Needs what check_selection accepts. Returns which tensor holds a NaN, and then no mask is to be
// used; else empty.
template <typename T>
std::string run(const Selection<T>& selection, InstructionSet instruction_set,
                const ParallelFor& parallel_for);

}  // namespace prospr::cpu
