#include "kernels/sparse_conv.h"

#include <algorithm>
#include <limits>

namespace prospr {
namespace {

constexpr std::int64_t kMostTaps = std::numeric_limits<std::int32_t>::max();

// Positions of a filter along an axis.
std::int64_t positions(std::int64_t size, std::int64_t span, std::int64_t stride, bool same) {
  if (same) return (size + stride - 1) / stride;
  return size < span ? 0 : (size - span) / stride + 1;
}

std::int64_t before(std::int64_t size, std::int64_t span, std::int64_t stride, bool same) {
  if (!same) return 0;
  return std::max<std::int64_t>(0,
                                (positions(size, span, stride, same) - 1) * stride + span - size) /
         2;
}

std::string check_sparse_matrix(const std::string& prefix, std::int64_t taps_below,
                                const std::int32_t* taps, std::int64_t weights,
                                const std::int32_t* splits, std::int64_t rows) {
  std::uint32_t largest = 0;  // a negative number is a large one
  for (std::int64_t k = 0; k < weights; ++k) {
    largest = std::max(largest, static_cast<std::uint32_t>(taps[k]));
  }
  if (weights > 0 && largest >= taps_below) {
    const auto* const wrong = std::find_if(taps, taps + weights, [&](std::int32_t tap) {
      return static_cast<std::uint32_t>(tap) >= taps_below;
    });
    return prefix + "tap " + std::to_string(wrong - taps) + " is " + std::to_string(*wrong) +
           "; it must be in [0, " + std::to_string(taps_below) + "), as a filter has elements";
  }
  std::int64_t last = 0;
  for (std::int64_t f = 0; f <= rows; ++f) {
    const std::int64_t split = splits[f];
    if (split < last || split > weights || (f == 0 && split != 0) ||
        (f == rows && split != weights)) {
      return prefix + "split " + std::to_string(f) + " is " + std::to_string(split) +
             "; the splits must rise from 0 to the number of weights, " + std::to_string(weights);
    }
    last = split;
  }
  return "";
}

std::string check_geometry(const Shape& image, const Window& window, std::int64_t filters,
                           std::int64_t weights, SparseConvShape* shape) {
  std::string wrong = check_axes("image", image, 5);
  if (!wrong.empty()) return wrong;
  if (image[4] != kBlockLanes) {
    return must_be("image", image,
                   "[blocks,height,width,channels," + std::to_string(kBlockLanes) + "]");
  }
  *shape = {image[0], image[1], image[2], image[3], window, filters, weights};
  const std::string kernel =
      std::to_string(window.kernel_height) + " x " + std::to_string(window.kernel_width);
  const auto most = static_cast<double>(kMostTaps);
  const std::int64_t span_height = window.span_height();
  const std::int64_t span_width = window.span_width();
  if (shape->height < 1 || shape->width < 1 ||
      (!window.same && (shape->height < span_height || shape->width < span_width))) {
    return "a filter that spans " + std::to_string(span_height) + " x " +
           std::to_string(span_width) + " does not fit into an image of " +
           std::to_string(shape->height) + " x " + std::to_string(shape->width);
  }
  const double elements = static_cast<double>(window.kernel_height) *
                          static_cast<double>(window.kernel_width) *
                          static_cast<double>(std::max(shape->channels, filters));
  if (shape->channels < 0 || filters < 0 || elements > most) {
    return "a filter of " + kernel + " x " + std::to_string(shape->channels) + " for " +
           std::to_string(filters) + " outputs was given; it must have 0 to " +
           std::to_string(kMostTaps) + " elements";
  }
  // What a kernel lays out at once, with the zeros around it, is counted in 32 bits.
  const auto size = [](std::int64_t one, std::int64_t other = 0) {
    return static_cast<double>(one) + static_cast<double>(other);
  };
  const double padded = size(shape->height, span_height) * size(shape->width, span_width) *
                        size(std::max<std::int64_t>({1, shape->channels, filters})) *
                        size(kBlockLanes);
  const double whole = padded * size(std::max<std::int64_t>(1, shape->blocks));
  if (padded > most || whole > 4e18) {
    return "an image of " + text(image) + " with " + std::to_string(filters) +
           " filters that span " + std::to_string(span_height) + " x " +
           std::to_string(span_width) + " is too large for offsets of 32 bits";
  }
  return "";
}

}  // namespace

std::int64_t SparseConvShape::rows() const {
  return positions(height, window.span_height(), window.stride_height, window.same);
}
std::int64_t SparseConvShape::columns() const {
  return positions(width, window.span_width(), window.stride_width, window.same);
}
std::int64_t SparseConvShape::above() const {
  return before(height, window.span_height(), window.stride_height, window.same);
}
std::int64_t SparseConvShape::left() const {
  return before(width, window.span_width(), window.stride_width, window.same);
}

std::string check_window(const Shape& kernel_size, const Shape& strides, const Shape& dilations,
                         bool same, Window* window) {
  std::string wrong = check_pair("kernel_size", kernel_size);
  if (wrong.empty()) wrong = check_pair("strides", strides);
  if (wrong.empty()) wrong = check_pair("dilations", dilations);
  if (!wrong.empty()) return wrong;
  *window = {kernel_size[0], kernel_size[1], strides[0], strides[1],
             dilations[0],   dilations[1],   same};
  return "";
}

std::string check_filters(const Shape& image, const Shape& taps, const Shape& splits,
                          const SparsePattern& pattern, const Window& window,
                          SparseConvShape* shape) {
  std::string wrong = check_axes("taps", taps, 1);
  if (wrong.empty()) wrong = check_axes("splits", splits, 1);
  if (!wrong.empty()) return wrong;
  if (splits[0] == 0)
    return "splits is empty; it must have one element more than there are filters";
  wrong = check_geometry(image, window, splits[0] - 1, taps[0], shape);
  if (!wrong.empty()) return wrong;
  return check_sparse_matrix("", window.kernel_height * window.kernel_width * shape->channels,
                             pattern.taps, shape->weights, pattern.splits, shape->filters);
}

std::string check_transposed(const Shape& image, std::int64_t filters, const Shape& taps,
                             const Shape& splits, const Shape& order,
                             const TransposedPattern& pattern, const Window& window,
                             SparseConvShape* shape) {
  std::string wrong = check_axes("image", image, 5);
  if (wrong.empty()) wrong = check_axes("taps", taps, 1);
  if (wrong.empty()) wrong = check_shape("splits", splits, {image[3] + 1});
  if (wrong.empty()) wrong = check_shape("order", order, taps);
  if (wrong.empty()) wrong = check_geometry(image, window, filters, taps[0], shape);
  if (wrong.empty()) {
    wrong = check_sparse_matrix("transposed ", window.kernel_height * window.kernel_width * filters,
                                pattern.taps, shape->weights, pattern.splits, shape->channels);
  }
  if (!wrong.empty()) return wrong;
  for (std::int64_t e = 0; e < shape->weights; ++e) {
    if (static_cast<std::uint32_t>(pattern.order[e]) >= shape->weights) {
      return "order " + std::to_string(e) + " is " + std::to_string(pattern.order[e]) +
             "; it must be in [0, " + std::to_string(shape->weights) + ")";
    }
  }
  return "";
}

}  // namespace prospr
