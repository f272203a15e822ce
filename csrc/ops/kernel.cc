#include "ops/kernel.h"

namespace prospr::ops {

absl::Status status_of(const std::string& wrong) {
  return wrong.empty() ? absl::OkStatus() : absl::InvalidArgumentError(wrong);
}

}  // namespace prospr::ops
