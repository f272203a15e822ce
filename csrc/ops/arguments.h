// What an op is given, in the words of kernels/: shapes, pointers and scalars, and what is wrong
// with them as a status.
#pragma once

#include <string>
#include <vector>

#include "core/half.h"
#include "kernels/shape.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The kernels' name for each of TensorFlow's element types.
template <typename T>
struct KernelType {
  using Type = T;
};
template <>
struct KernelType<Eigen::half> {
  using Type = core::Half;
};
template <>
struct KernelType<tensorflow::bfloat16> {
  using Type = core::BFloat16;
};

template <typename T>
const typename KernelType<T>::Type* data_of(const Tensor& tensor) {
  return reinterpret_cast<const typename KernelType<T>::Type*>(tensor.flat<T>().data());
}

Shape shape_of(const TensorShape& shape);
inline Shape shape_of(const Tensor& tensor) { return shape_of(tensor.shape()); }

// InvalidArgument, unless `wrong` is empty.
absl::Status status_of(const std::string& wrong);

// Allocates output `index`; InvalidArgument if no tensor can have the shape.
template <typename T>
absl::Status allocate(OpKernelContext* context, int index, const Shape& shape, T** data) {
  TensorShape wanted;
  TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape(shape, &wanted));
  Tensor* output;
  TF_RETURN_IF_ERROR(context->allocate_output(index, wanted, &output));
  *data = output->flat<T>().data();
  return absl::OkStatus();
}

// The input of that name, which must be a scalar.
template <typename T>
absl::Status read_scalar(OpKernelContext* context, const std::string& name, T* value) {
  const Tensor* tensor;
  TF_RETURN_IF_ERROR(context->input(name, &tensor));
  if (tensor->dims() != 0) {
    return absl::InvalidArgumentError(name + " must be a scalar, not of shape " +
                                      text(shape_of(*tensor)));
  }
  *value = tensor->scalar<T>()();
  return absl::OkStatus();
}

// A height and a width, from an attribute of an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_pair(Context* context, const char* name, Shape* pair) {
  TF_RETURN_IF_ERROR(context->GetAttr(name, pair));
  return status_of(check_pair(name, *pair));
}

// The shapes of the first `count` inputs, or of none unless all of them are fully known.
std::vector<Shape> known_shapes(InferenceContext* context, int count);

}  // namespace prospr::ops
