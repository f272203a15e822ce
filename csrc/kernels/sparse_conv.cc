#include "kernels/sparse_conv.h"

#include <limits>

namespace prospr {
namespace {

constexpr std::int64_t kMostTaps = std::numeric_limits<std::int32_t>::max();

}  // namespace

Shape SparseConvShape::output() const { return {rows(), columns(), filters, samples}; }

std::string check(const SparseConvShape& shape, const SparsePattern& pattern) {
  const std::string kernel =
      std::to_string(shape.kernel_height) + " x " + std::to_string(shape.kernel_width);
  if (shape.kernel_height < 1 || shape.kernel_width < 1 || shape.height < shape.kernel_height ||
      shape.width < shape.kernel_width) {
    return "a filter of " + kernel + " does not fit into an image of " +
           std::to_string(shape.height) + " x " + std::to_string(shape.width);
  }
  if (shape.channels < 0 || shape.kernel_height > kMostTaps / shape.kernel_width ||
      shape.channels > kMostTaps / (shape.kernel_height * shape.kernel_width)) {
    return "a filter of " + kernel + " x " + std::to_string(shape.channels) +
           " was given; it must have 0 to " + std::to_string(kMostTaps) + " elements";
  }
  const std::int64_t taps = shape.kernel_height * shape.kernel_width * shape.channels;
  for (std::int64_t k = 0; k < shape.weights; ++k) {
    if (pattern.taps[k] < 0 || pattern.taps[k] >= taps) {
      return "tap " + std::to_string(k) + " is " + std::to_string(pattern.taps[k]) +
             "; it must be in [0, " + std::to_string(taps) + "), as a filter has elements";
    }
  }
  std::int64_t before = 0;
  for (std::int64_t f = 0; f <= shape.filters; ++f) {
    const std::int64_t split = pattern.splits[f];
    if (split < before || split > shape.weights || (f == 0 && split != 0) ||
        (f == shape.filters && split != shape.weights)) {
      return "split " + std::to_string(f) + " is " + std::to_string(split) +
             "; the splits must rise from 0 to the number of weights, " +
             std::to_string(shape.weights);
    }
    before = split;
  }
  return "";
}

std::string check_filters(const Shape& image, const Shape& taps, const Shape& splits,
                          const SparsePattern& pattern, const Shape& kernel_size,
                          SparseConvShape* shape) {
  std::string wrong = check_axes("image", image, 4);
  if (wrong.empty()) wrong = check_axes("taps", taps, 1);
  if (wrong.empty()) wrong = check_axes("splits", splits, 1);
  if (!wrong.empty()) return wrong;
  if (splits[0] == 0)
    return "splits is empty; it must have one element more than there are filters";
  *shape = {image[0],       image[1],       image[2],      image[3],
            kernel_size[0], kernel_size[1], splits[0] - 1, taps[0]};
  return check(*shape, pattern);
}

}  // namespace prospr
