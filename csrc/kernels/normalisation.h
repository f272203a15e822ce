// The parts of batch normalisation and its derivatives: sums of products of tensors per channel,
// and linear combinations of tensors with coefficients per channel.
//
// All tensors are [rows, channels], row-major, and up to kMostTensors of them are given.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/shape.h"

namespace prospr {

constexpr std::size_t kMostTensors = 3;

template <typename T>
struct ChannelProducts {
  std::int64_t rows;
  std::int64_t channels;
  std::vector<const T*> tensors;
  // [k + 1, k + 1, channels] for k tensors; written. It may not overlap with the tensors.
  double* products;
};

template <typename T>
struct ChannelCombinations {
  std::int64_t rows;
  std::int64_t channels;
  std::vector<const T*> tensors;
  const T* coefficients;    // [results, k + 1, channels]
  std::vector<T*> results;  // written; none may overlap with another or with the tensors
};

// Fills in rows and channels from the shapes of the tensors, [..., channels].
std::string check_tensors(const std::vector<Shape>& tensors, std::int64_t* rows,
                          std::int64_t* channels);

}  // namespace prospr
