#include "kernels/block_normalisation.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

absl::Status tensor_shape(InferenceContext* context, int tensors, ShapeHandle* tensor,
                          DimensionHandle* channels) {
  *tensor = context->UnknownShape();
  for (int i = 0; i < tensors; ++i) {
    TF_RETURN_IF_ERROR(context->Merge(*tensor, context->input(i), tensor));
  }
  TF_RETURN_IF_ERROR(context->WithRankAtLeast(*tensor, 3, tensor));
  *channels = context->RankKnown(*tensor) ? context->Dim(*tensor, -2) : context->UnknownDim();
  return absl::OkStatus();
}

// Has what BlockNorm and its gradient share.
class BlockNormOpBase : public OpKernel {
 public:
  explicit BlockNormOpBase(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(context, context->GetAttr("ceiling", &ceiling_));
    OP_REQUIRES_OK(context, context->GetAttr("N", &residuals_));
    OP_REQUIRES(context, residuals_ == 0 || (residuals_ == 1 && relu_),
                absl::InvalidArgumentError("there may be one residual, and only with a ReLU"));
  }

 protected:
  // Reads all but the gradient, `tensors` of them; checks all.
  template <typename T, typename Arguments>
  absl::Status read_inputs(OpKernelContext* context, std::initializer_list<const char*> tensors,
                           BlockNormShape* shape, Arguments* arguments) const {
    std::int32_t samples;
    TF_RETURN_IF_ERROR(read_scalar(context, "samples", &samples));
    TF_RETURN_IF_ERROR(read_scalar(context, "epsilon", &arguments->epsilon));
    std::vector<NamedShape> shapes;
    const Tensor* tensor;
    for (const char* name : tensors) {
      TF_RETURN_IF_ERROR(context->input(name, &tensor));
      shapes.push_back({name, shape_of(*tensor)});
    }
    arguments->x = data_of<T>(*tensor);
    arguments->residual = nullptr;
    if (residuals_ > 0) {
      tensorflow::OpInputList residual;
      TF_RETURN_IF_ERROR(context->input_list("residual", &residual));
      shapes.push_back({"residual", shape_of(residual[0])});
      arguments->residual = data_of<T>(residual[0]);
    }
    std::vector<NamedShape> per_channel;
    TF_RETURN_IF_ERROR(context->input("scale", &tensor));
    per_channel.push_back({"scale", shape_of(*tensor)});
    arguments->scale = data_of<T>(*tensor);
    TF_RETURN_IF_ERROR(context->input("offset", &tensor));
    per_channel.push_back({"offset", shape_of(*tensor)});
    arguments->offset = data_of<T>(*tensor);
    TF_RETURN_IF_ERROR(context->input("moments", &tensor));
    const Shape moments = shape_of(*tensor);
    arguments->moments = data_of<double>(*tensor);
    arguments->relu = relu_;
    arguments->ceiling = ceiling_;
    return status_of(check_block_norm(shapes, samples, per_channel, &moments, shape));
  }

  bool relu_;
  float ceiling_;
  int residuals_;
};

}  // namespace

REGISTER_OP("Prospr>BlockMoments")
    .Input("x: T")
    .Input("samples: int32")
    .Output("mean: T")
    .Output("variance: T")
    .Output("moments: double")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      DimensionHandle channels;
      TF_RETURN_IF_ERROR(tensor_shape(context, 1, &tensor, &channels));
      context->set_output(0, context->Vector(channels));
      context->set_output(1, context->Vector(channels));
      context->set_output(2, context->Matrix(2, channels));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Mean and variance of each channel of blocks of samples.

The result is the same bits for every number of threads.

x: [ceil(samples / 16), ..., C, 16], with at least one element.
samples: Number of samples, a scalar, at least 1; what lies behind the last one does not count.
mean: [C].
variance: [C], that of the batch itself: a mean of squares.
moments: [2, C], mean and variance in double, for BlockNorm and its gradient.
)doc");

template <typename Device, typename T>
class BlockMomentsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    std::int32_t samples;
    OP_REQUIRES_OK(context, read_scalar(context, "samples", &samples));
    BlockNormShape shape;
    OP_REQUIRES_OK(context,
                   status_of(check_block_norm({{"x", shape_of(x)}}, samples, {}, nullptr, &shape)));
    BlockMoments<T> moments{data_of<T>(x), nullptr, nullptr, nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, {shape.channels}, &moments.mean));
    OP_REQUIRES_OK(context, allocate(context, 1, {shape.channels}, &moments.variance));
    OP_REQUIRES_OK(context, allocate(context, 2, {2, shape.channels}, &moments.moments));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, moments));
  }
};
PROSPR_REGISTER(BlockMoments, OnCpu, Floats, "samples");

REGISTER_OP("Prospr>BlockNorm")
    .Input("x: T")
    .Input("residual: N * T")
    .Input("scale: T")
    .Input("offset: T")
    .Input("moments: double")
    .Input("epsilon: double")
    .Input("samples: int32")
    .Output("y: T")
    .Attr("relu: bool")
    .Attr("ceiling: float")
    .Attr("N: int >= 0")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      DimensionHandle channels;
      int residuals;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &residuals));
      TF_RETURN_IF_ERROR(tensor_shape(context, 1 + residuals, &tensor, &channels));
      context->set_output(0, tensor);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Batch normalisation of blocks of samples, with the sum and the ReLU behind it: scale * (x - mean) /
sqrt(variance + epsilon) + offset + residual; if there is a ReLU, zero where that is less and the
ceiling where it is more.

Its gradient at x is that through the moments too, which must be those of x. The result is the same
bits for every number of threads.

x: [ceil(samples / 16), ..., C, 16], with at least one element.
residual: None, or one tensor in the shape of x, if there is a ReLU.
scale: [C].
offset: [C].
moments: [2, C], mean and variance of x: the last output of BlockMoments.
epsilon: A scalar.
samples: Number of samples, a scalar, at least 1.
relu: Whether there is a ReLU.
ceiling: Largest result of the ReLU, or infinity.
y: In the shape of x, zero behind the last sample.
)doc");

template <typename Device, typename T>
class BlockNormOp : public BlockNormOpBase {
 public:
  using BlockNormOpBase::BlockNormOpBase;

  void Compute(OpKernelContext* context) override {
    BlockNormShape shape;
    BlockNorm<T> norm{};
    OP_REQUIRES_OK(context, this->template read_inputs<T>(context, {"x"}, &shape, &norm));
    OP_REQUIRES_OK(context, allocate(context, 0, shape_of(context->input(0)), &norm.y));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, norm));
  }
};
PROSPR_REGISTER(BlockNorm, OnCpu, Floats, "epsilon", "samples");

REGISTER_OP("Prospr>BlockNormGradient")
    .Input("y_gradient: T")
    .Input("x: T")
    .Input("residual: N * T")
    .Input("scale: T")
    .Input("offset: T")
    .Input("moments: double")
    .Input("epsilon: double")
    .Input("samples: int32")
    .Output("x_gradient: T")
    .Output("residual_gradient: N * T")
    .Output("scale_gradient: T")
    .Output("offset_gradient: T")
    .Attr("relu: bool")
    .Attr("ceiling: float")
    .Attr("N: int >= 0")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      DimensionHandle channels;
      int residuals;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &residuals));
      TF_RETURN_IF_ERROR(tensor_shape(context, 2 + residuals, &tensor, &channels));
      for (int i = 0; i < 1 + residuals; ++i) context->set_output(i, tensor);
      context->set_output(1 + residuals, context->Vector(channels));
      context->set_output(2 + residuals, context->Vector(channels));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of BlockNorm, at x through the moments too.

The result is the same bits for every number of threads.

y_gradient: [ceil(samples / 16), ..., C, 16], the gradient at y, zero behind the last sample.
x: In the shape of y_gradient.
residual: That of BlockNorm.
scale: [C].
offset: [C].
moments: [2, C], mean and variance of x.
epsilon: A scalar.
samples: Number of samples, a scalar, at least 1.
relu: Whether there is a ReLU.
ceiling: Largest result of the ReLU, or infinity.
x_gradient: In the shape of x, zero behind the last sample.
residual_gradient: None, or one tensor in the shape of x.
scale_gradient: [C].
offset_gradient: [C].
)doc");

template <typename Device, typename T>
class BlockNormGradientOp : public BlockNormOpBase {
 public:
  using BlockNormOpBase::BlockNormOpBase;

  void Compute(OpKernelContext* context) override {
    BlockNormShape shape;
    BlockNormGradient<T> gradient{};
    OP_REQUIRES_OK(context,
                   this->template read_inputs<T>(context, {"y_gradient", "x"}, &shape, &gradient));
    const Shape tensor = shape_of(context->input(1));
    gradient.y_gradient = data_of<T>(context->input(0));
    OP_REQUIRES_OK(context, allocate(context, 0, tensor, &gradient.x_gradient));
    if (this->residuals_ > 0) {
      OP_REQUIRES_OK(context, allocate(context, 1, tensor, &gradient.residual_gradient));
    }
    const int next = 1 + this->residuals_;
    OP_REQUIRES_OK(context, allocate(context, next, {shape.channels}, &gradient.scale_gradient));
    OP_REQUIRES_OK(context,
                   allocate(context, next + 1, {shape.channels}, &gradient.offset_gradient));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, gradient));
  }
};
PROSPR_REGISTER(BlockNormGradient, OnCpu, Floats, "epsilon", "samples");

}  // namespace prospr::ops
