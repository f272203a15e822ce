#include "kernels/pooling.h"

#include <limits>

namespace prospr {
namespace {

constexpr std::int64_t kMostElements = std::numeric_limits<std::uint8_t>::max() + 1;

}  // namespace

Shape Windows::pooled() const { return {samples, rows(), columns(), channels}; }

std::string check(const Windows& windows) {
  const std::int64_t height = windows.window_height;
  const std::int64_t width = windows.window_width;
  const std::string window = std::to_string(height) + " x " + std::to_string(width);
  if (height < 1 || width < 1 || height > kMostElements || width > kMostElements / height) {
    return "a window of " + window + " was given; it must have 1 to " +
           std::to_string(kMostElements) + " elements";
  }
  if (windows.height < height || windows.width < width) {
    return "a window of " + window + " does not fit into an image of " +
           std::to_string(windows.height) + " x " + std::to_string(windows.width);
  }
  return "";
}

std::string check_image(const Shape& image, std::int64_t window_height, std::int64_t window_width,
                        Windows* windows) {
  if (std::string wrong = check_axes("image", image, 4); !wrong.empty()) return wrong;
  *windows = {image[0], image[1], image[2], image[3], window_height, window_width};
  return check(*windows);
}

}  // namespace prospr
