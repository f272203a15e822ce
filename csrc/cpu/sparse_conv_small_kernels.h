// The single-threaded loops of sparse_conv_small.h. sparse_conv_small_kernels.cc is compiled once
// per instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/sparse_conv_small.h"

namespace prospr::cpu {

// Channels and filters of an item, and positions of a tile at most.
constexpr std::int64_t kSmallLanes = 16;
constexpr std::int64_t kSmallTile = 128;

// How the images of a group are laid for a product: channel by channel, so that what a weight reads
// at all positions lies side by side, from its offset on. A channel is its pixels as they are
// (`direct`), or elements that are gathered from these and a zero: a frame with zeros around the
// image, one per phase of the strides, or, of small images, a row per element of the filter.
struct SmallPlan {
  std::int64_t samples;  // all images; 1 where all pixels are alike
  std::int64_t pixels;   // of an image
  std::int64_t channels;
  std::int64_t filters;
  std::int64_t group;      // images laid together
  std::int64_t results;    // outputs of an image, per filter
  std::int64_t positions;  // of a group; where a frame's rows meet, some that have no output
  std::int64_t tile;    // positions whose sums are kept side by side; 1, or a multiple of a vector
  std::int64_t stride;  // elements of a channel
  bool in_place;        // the image is read where it is
  bool direct;
  std::vector<std::int32_t>
      elements;                       // of a channel: which pixel of the group, or `group * pixels`
  std::vector<std::int32_t> targets;  // of a position: which output of the group, or -1
  // Of a weight, in units; in 16 bits where these are enough, since weights are read once for few
  // positions, from memory.
  std::int64_t unit;
  std::vector<std::uint16_t> short_offsets;
  std::vector<std::int32_t> offsets;
  std::vector<std::int32_t> splits;

  std::int64_t groups() const { return (samples + group - 1) / group; }
  std::int64_t tiles() const { return (positions + tile - 1) / tile; }
  std::int64_t group_size() const { return channels * stride + kSmallTile; }
  std::int64_t group_images(std::int64_t number) const {
    return number + 1 < groups() ? group : samples - number * group;
  }
};

// `lay` is for channels [begin, end) of groups * channel chunks, of kSmallLanes each; `multiply`
// for items [begin, end) of groups * tiles * filter chunks, in that order.
template <typename T>
struct SmallKernels {
  void (*lay)(const SmallPlan& plan, const T* image, T* scratch, std::int64_t begin,
              std::int64_t end);
  void (*multiply)(const SmallPlan& plan, const SparseConvSmall<T>& map, const T* scratch,
                   std::int64_t begin, std::int64_t end);
};

inline std::int64_t small_chunks(std::int64_t size) {
  return (size + kSmallLanes - 1) / kSmallLanes;
}

}  // namespace prospr::cpu
