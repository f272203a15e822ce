// Resource variables that an op updates in place, and the checks that all of the ops share.
#pragma once

#include <string>
#include <vector>

#include "ops/device.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

// "weight has shape [3]; gradient must have the same, not [4]".
absl::Status check_same_shape(const std::string& name, const tensorflow::TensorShape& shape,
                              const std::string& other_name, const tensorflow::TensorShape& other);

absl::Status check_not_empty(const std::string& name, const tensorflow::TensorShape& shape);

// A finite scalar, >= 0.
template <typename T>
absl::Status read_scalar(tensorflow::OpKernelContext* context, const std::string& name, T* value);

// Several distinct variables, locked (in address order) from `lock` until destruction.
class LockedVariables {
 public:
  struct Argument {
    std::string name;  // the op's input
    tensorflow::DataType dtype;
  };

  // Fails, having changed nothing, unless the inputs are distinct, initialised variables of the
  // given dtypes and all of one non-empty shape.
  absl::Status lock(tensorflow::OpKernelContext* context, const std::vector<Argument>& arguments);

  const tensorflow::TensorShape& shape() const { return variables_[0]->tensor()->shape(); }

  // Gives every variable a buffer of its own: whoever has read one may still hold the old.
  template <typename Device>
  absl::Status make_writable(tensorflow::OpKernelContext* context);

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
absl::Status same_shape_then_scalars(tensorflow::shape_inference::InferenceContext* context,
                                     int variables, int tensors);

}  // namespace prospr::ops
