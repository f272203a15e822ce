// Attributes that several ops read in the same way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"

namespace prospr::ops {

// A height and a width, from an attribute of an op.
template <typename Context>
absl::Status read_pair(Context* context, const char* name, std::vector<std::int64_t>* pair) {
  TF_RETURN_IF_ERROR(context->GetAttr(name, pair));
  const auto fits = [](std::int64_t size) { return size > 0 && size <= 0x7fffffff; };
  if (pair->size() == 2 && fits((*pair)[0]) && fits((*pair)[1])) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) +
                                    " must be a height and a width, both positive 32-bit numbers");
}

}  // namespace prospr::ops
