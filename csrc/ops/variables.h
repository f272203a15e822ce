// Resource variables that an op updates in place.
#pragma once

#include <string>
#include <vector>

#include "ops/launch.h"
#include "tensorflow/core/framework/resource_var.h"

namespace prospr::ops {

// Several distinct variables, locked (in address order) from `lock` until destruction.
class LockedVariables {
 public:
  struct Argument {
    std::string name;  // the op's input
    tensorflow::DataType dtype;
  };

  // Fails, having changed nothing, unless the arguments are distinct, initialised variables of the
  // given dtypes, and all have one non-empty shape, which the inputs called `tensors` must share.
  absl::Status lock(OpKernelContext* context, const std::vector<Argument>& arguments,
                    const std::vector<std::string>& tensors);

  // Gives every variable a buffer of its own: whoever has read one may still hold the old.
  template <typename Device>
  absl::Status make_writable(OpKernelContext* context);

  // Only after make_writable.
  template <typename T>
  T* data(int index) {
    return variables_[index]->tensor()->flat<T>().data();
  }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<tensorflow::mutex_lock> locks_;
};

// Shape function of an op over `variables` resources, then tensors of their shape, then scalars.
absl::Status same_shape_then_scalars(InferenceContext* context, int variables, int tensors);

}  // namespace prospr::ops
