// The single-threaded loops of ConvInputGradient. curvature_input_gradient_kernels.cc is compiled
// once per instruction set.
//
// An output pixel adds a combination of its channels' kernels to the patch of inputs that it sees.
// Each piece of a patch is summed over the channels whose factor is not zero in registers, for
// several columns at a time.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"
#include "cpu/dispatch.h"

namespace prospr::cpu {

// Vectors of a run at most.
constexpr std::int64_t kRunVectors = 2;

// Neighbours in a patch that are neighbours in the padded input too.
struct Run {
  std::int64_t offset;  // of the first in the padded input, from that of the patch
  std::int64_t patch;   // the first, as an element of the patch
  std::int64_t length;
  std::int64_t packed;  // of the first in a packed kernel's channel, where whole vectors are kept
};

template <typename T>
struct InputGradientPlan {
  ConvInputGradient<T> conv;
  std::int64_t padded_sample;            // elements of a sample with its zeros
  std::int64_t pixels;                   // of the output
  const std::int64_t* position_offsets;  // [pixels], of patches in a padded sample
  const std::int32_t* windows;           // [pixels], of each pixel
  const Run* runs;                       // of a patch
  std::int64_t run_count;
  std::int64_t packed_channel;  // elements of a packed kernel's channel
  T* kernel;                    // by pack: [output_channels, packed_channel]
  std::int64_t blocks;          // of columns; a task is a sample and one of them
};

// Where a block of columns begins.
template <typename T>
PROSPR_HD std::int64_t column_begin(const InputGradientPlan<T>& plan, std::int64_t block) {
  return plan.conv.shape.columns * block / plan.blocks;
}

template <typename T>
struct InputGradientScratch {
  T* padded;               // [columns of a block, padded sample], and kRunVectors vectors
  T* values;               // [output channels, columns of a block], of one pixel
  std::int32_t* channels;  // [output channels], those of a pixel that are not zero
};

template <typename T>
struct InputGradientKernels {
  std::int64_t lanes;  // of a vector
  // Fills output channels [begin, end) of plan.kernel.
  void (*pack)(const InputGradientPlan<T>& plan, std::int64_t begin, std::int64_t end);
  // Writes the gradient of tasks [begin, end).
  void (*backpropagate)(const InputGradientPlan<T>& plan, std::int64_t begin, std::int64_t end,
                        const InputGradientScratch<T>& scratch);
};

}  // namespace prospr::cpu
