// Where a convolution's patches lie in a sample that is stored with its zeros, in elements.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/curvature.h"

namespace prospr::cpu {

std::int64_t padded_sample_size(const ConvShape& shape);

// The offset of each output pixel's patch.
std::vector<std::int64_t> position_offsets(const ConvShape& shape);

// The offset of each element of the first group's patch from its first element.
std::vector<std::int64_t> patch_offsets(const ConvShape& shape);

// The window of each output pixel, of those that tile the output; both row-major.
std::vector<std::int32_t> windows_of_positions(const ConvShape& shape,
                                               const std::int64_t windows[ConvShape::kAxes]);

}  // namespace prospr::cpu
