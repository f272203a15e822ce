#include "cpu/curvature_offsets.h"

namespace prospr::cpu {

std::int64_t padded_sample_size(const ConvShape& shape) {
  return padded_size(shape, 0) * padded_size(shape, 1) * padded_size(shape, 2) *
         shape.input_channels;
}

std::vector<std::int64_t> position_offsets(const ConvShape& shape) {
  std::vector<std::int64_t> offsets;
  for (std::int64_t z = 0; z < shape.output_size[0]; ++z) {
    for (std::int64_t y = 0; y < shape.output_size[1]; ++y) {
      for (std::int64_t x = 0; x < shape.output_size[2]; ++x) {
        const std::int64_t row =
            z * shape.strides[0] * padded_size(shape, 1) + y * shape.strides[1];
        offsets.push_back((row * padded_size(shape, 2) + x * shape.strides[2]) *
                          shape.input_channels);
      }
    }
  }
  return offsets;
}

std::vector<std::int64_t> patch_offsets(const ConvShape& shape) {
  std::vector<std::int64_t> offsets;
  for (std::int64_t z = 0; z < shape.kernel_size[0]; ++z) {
    for (std::int64_t y = 0; y < shape.kernel_size[1]; ++y) {
      for (std::int64_t x = 0; x < shape.kernel_size[2]; ++x) {
        const std::int64_t row =
            z * shape.dilations[0] * padded_size(shape, 1) + y * shape.dilations[1];
        const std::int64_t pixel =
            (row * padded_size(shape, 2) + x * shape.dilations[2]) * shape.input_channels;
        for (std::int64_t i = 0; i < shape.input_channels / shape.groups; ++i) {
          offsets.push_back(pixel + i);
        }
      }
    }
  }
  return offsets;
}

std::vector<std::int32_t> windows_of_positions(const ConvShape& shape,
                                               const std::int64_t windows[ConvShape::kAxes]) {
  std::vector<std::int32_t> result;
  const std::int64_t* const size = shape.output_size;
  for (std::int64_t z = 0; z < size[0]; ++z) {
    for (std::int64_t y = 0; y < size[1]; ++y) {
      const std::int64_t row = z * windows[0] / size[0] * windows[1] + y * windows[1] / size[1];
      for (std::int64_t x = 0; x < size[2]; ++x) {
        result.push_back(static_cast<std::int32_t>(row * windows[2] + x * windows[2] / size[2]));
      }
    }
  }
  return result;
}

}  // namespace prospr::cpu
