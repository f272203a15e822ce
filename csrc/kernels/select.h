// The largest of many scores: exactly so many, ties to the lower index. T is float, double,
// core::Half or core::BFloat16.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/order_key.h"
#include "kernels/shape.h"

namespace prospr {

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
  bool packed;  // masks of 1 bit per score, the first in a byte's highest bit and the last byte
                // filled up with zeros; else of 1 byte per score, 0 or 1
};

std::string check_selection(const Shape& sizes, std::int64_t keep, std::int64_t min_keep);

// `rank(tensors, keep, &kept)` marks the best `keep` of some tensors and says how many that are of
// each; what it returns, unless empty, went wrong, ends the selection and is returned from here.
//
// A tensor that has fewer than min_keep among the best of all gets that many by itself. The others
// share what is then left, which is less, so that another one may come to have too few.
template <typename T, typename Rank>
std::string keep_at_least(const Selection<T>& selection, Rank&& rank) {
  std::vector<ScoreTensor<T>> together = selection.tensors;
  std::int64_t keep = selection.keep;
  while (!together.empty()) {
    std::vector<std::int64_t> kept;
    if (std::string wrong = rank(together, keep, &kept); !wrong.empty()) return wrong;
    std::vector<ScoreTensor<T>> others;
    for (std::size_t i = 0; i < together.size(); ++i) {
      const std::int64_t least = std::min(selection.min_keep, together[i].size);
      if (kept[i] >= least) {
        others.push_back(together[i]);
        continue;
      }
      std::vector<std::int64_t> own;
      if (std::string wrong = rank({together[i]}, least, &own); !wrong.empty()) return wrong;
      keep -= least;
    }
    if (others.size() == together.size()) break;
    together = std::move(others);
  }
  return "";
}

}  // namespace prospr
