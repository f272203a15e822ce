#include "kernels/select.h"

namespace prospr {

std::string check_selection(const Shape& sizes, std::int64_t keep, std::int64_t min_keep) {
  if (min_keep < 0) return "min_keep is " + std::to_string(min_keep) + "; it must be at least 0";
  std::int64_t all = 0;
  std::int64_t least = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) {
      return "scores[" + std::to_string(i) + "] is empty; at least one element is needed";
    }
    all += sizes[i];
    least += std::min(min_keep, sizes[i]);
  }
  if (keep < 0 || keep > all) {
    return "keep is " + std::to_string(keep) + "; it must be at least 0 and at most " +
           std::to_string(all) + ", the number of scores";
  }
  if (least > keep) {
    return "min_keep is " + std::to_string(min_keep) + ", which keeps " + std::to_string(least) +
           " scores of " + std::to_string(sizes.size()) + " tensors; keep is only " +
           std::to_string(keep);
  }
  return "";
}

}  // namespace prospr
