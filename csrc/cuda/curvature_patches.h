// Where the patches of a convolution's output pixels lie in its input. Included by .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/curvature.h"

namespace prospr::cuda {

// A row of the matrix product: an output pixel of a sample, and a column (several, or a distance).
struct Row {
  std::uint32_t pixel[ConvShape::kAxes];
  std::int64_t column;
  std::int64_t sample;
};

PROSPR_HD Row row_at(std::int64_t index, const ConvShape& shape, std::int64_t columns) {
  Row row;
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    row.pixel[axis] = static_cast<std::uint32_t>(index % shape.output_size[axis]);
    index /= shape.output_size[axis];
  }
  row.column = index % columns;
  row.sample = index / columns;
  return row;
}

// The row `step` rows on: an addition, digit by digit, which takes no division.
__device__ inline void advance(Row& row, const Row& step, const ConvShape& shape,
                               std::int64_t columns) {
  std::uint32_t carry = 0;
#pragma unroll
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    const auto size = static_cast<std::uint32_t>(shape.output_size[axis]);
    row.pixel[axis] += step.pixel[axis] + carry;
    carry = row.pixel[axis] >= size;
    if (carry != 0) row.pixel[axis] -= size;
  }
  row.column += step.column + carry;
  carry = row.column >= columns;
  if (carry != 0) row.column -= columns;
  row.sample += step.sample + carry;
}

// A coordinate that no sum with another one brings into the input, and the axes where a corner and
// a tap have it that do not exist: not the same, or the two might meet.
constexpr std::uint32_t kNowhere = std::uint32_t{1} << 31;
constexpr int kCornerNowhere = 1;
constexpr int kTapNowhere = 2;

// The corner of a patch in the input. Coordinates before the input are negative numbers without
// their sign, and so larger than any size.
struct alignas(16) Corner {
  std::int64_t offset;  // in elements, from the first channel of the group
  std::uint32_t at[ConvShape::kAxes];
};

__device__ inline Corner corner_of(const std::uint32_t pixel[], std::int64_t sample,
                                   std::int64_t first_channel, const ConvShape& shape) {
  Corner corner;
  corner.offset = sample;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    corner.at[axis] =
        static_cast<std::uint32_t>(pixel[axis] * shape.strides[axis] - shape.padding_before[axis]);
    corner.offset =
        corner.offset * shape.input_size[axis] + static_cast<std::int32_t>(corner.at[axis]);
  }
  corner.offset = corner.offset * shape.input_channels + first_channel;
  return corner;
}

// An element of a patch, from its corner.
struct Tap {
  std::int64_t offset;
  std::uint32_t at[ConvShape::kAxes];
};

__device__ inline Tap tap_at(std::int64_t element, const ConvShape& shape, std::int64_t channels) {
  Tap tap;
  const std::int64_t channel = element % channels;
  std::int64_t rest = element / channels;
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    tap.at[axis] =
        static_cast<std::uint32_t>(rest % shape.kernel_size[axis] * shape.dilations[axis]);
    rest /= shape.kernel_size[axis];
  }
  tap.offset = tap.at[0];
  for (int axis = 1; axis < ConvShape::kAxes; ++axis) {
    tap.offset = tap.offset * shape.input_size[axis] + tap.at[axis];
  }
  tap.offset = tap.offset * shape.input_channels + channel;
  return tap;
}

// Whether an element lies in the input and not among the zeros around it. No branches: three of
// them for each element took longer than the products that it takes part in.
__device__ inline bool is_inside(const Corner& corner, const Tap& tap, const ConvShape& shape) {
  bool inside = true;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    inside &= corner.at[axis] + tap.at[axis] < static_cast<std::uint32_t>(shape.input_size[axis]);
  }
  return inside;
}

}  // namespace prospr::cuda
