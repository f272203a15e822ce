// Max-pooling by windows that do not overlap, and the two linear maps between windows and images
// that its derivatives of every order are made of.
//
// Images are [samples, height, width, channels], row-major. The windows tile them from the upper
// left; rows and columns that do not fill a window belong to none. A tensor with one value per
// window and channel is [samples, height / window_height, width / window_width, channels]. A
// position is the number of an element within its window, row by row.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/shape.h"

namespace prospr {

struct Windows {
  std::int64_t samples;
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  std::int64_t window_height;
  std::int64_t window_width;

  std::int64_t rows() const { return height / window_height; }
  std::int64_t columns() const { return width / window_width; }
  Shape pooled() const;  // of a maximum per window
};

// A position must fit into a byte, and an image must have a window.
std::string check(const Windows& windows);

// Fills in `windows` from the shape of an image.
std::string check_image(const Shape& image, std::int64_t window_height, std::int64_t window_width,
                        Windows* windows);

// The largest element of each window and its position, of equal ones the first; a NaN if there is
// one, of several the last.
template <typename T>
struct MaxPool {
  const T* image;
  T* maxima;                // written
  std::uint8_t* positions;  // written
};

// Zeros, but for each window's value at its position. A position outside of its window is nowhere.
template <typename T>
struct MaxUnpool {
  const T* values;
  const std::uint8_t* positions;
  T* image;  // written
};

// For each window the image's element at its position, zero where that is outside: the transpose of
// MaxUnpool.
template <typename T>
struct GatherPooled {
  const T* image;
  const std::uint8_t* positions;
  T* values;  // written
};

}  // namespace prospr
