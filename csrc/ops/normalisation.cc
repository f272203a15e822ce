#include "kernels/normalisation.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

// Merges the shapes of `tensors`, [..., C], and of `vectors`, [C], and of "moments", [2, C]; -1 for
// none.
absl::Status merged(InferenceContext* context, std::initializer_list<int> tensors,
                    std::initializer_list<int> vectors, int moments, ShapeHandle* tensor,
                    ShapeHandle* vector) {
  *tensor = context->UnknownShape();
  for (const int i : tensors)
    TF_RETURN_IF_ERROR(context->Merge(*tensor, context->input(i), tensor));
  TF_RETURN_IF_ERROR(context->WithRankAtLeast(*tensor, 1, tensor));
  DimensionHandle channels =
      context->RankKnown(*tensor) ? context->Dim(*tensor, -1) : context->UnknownDim();
  *vector = context->Vector(channels);
  for (const int i : vectors)
    TF_RETURN_IF_ERROR(context->Merge(*vector, context->input(i), vector));
  if (moments < 0) return absl::OkStatus();
  ShapeHandle pair = context->Matrix(2, context->Dim(*vector, 0));
  return context->Merge(pair, context->input(moments), &pair);
}

// What a kernel is given, checked: the named inputs that are tensors, and those per channel.
absl::Status read_batch(OpKernelContext* context, std::initializer_list<const char*> tensors,
                        std::initializer_list<const char*> per_channel, BatchShape* shape) {
  const auto named = [&](std::initializer_list<const char*> names,
                         std::vector<NamedShape>* shapes) -> absl::Status {
    for (const char* name : names) {
      const Tensor* tensor;
      TF_RETURN_IF_ERROR(context->input(name, &tensor));
      shapes->push_back({name, shape_of(*tensor)});
    }
    return absl::OkStatus();
  };
  std::vector<NamedShape> of_tensors;
  std::vector<NamedShape> of_vectors;
  TF_RETURN_IF_ERROR(named(tensors, &of_tensors));
  TF_RETURN_IF_ERROR(named(per_channel, &of_vectors));
  if (per_channel.size() == 0) {
    return status_of(check_batch(of_tensors, of_vectors, nullptr, shape));
  }
  const Tensor* moments;
  TF_RETURN_IF_ERROR(context->input("moments", &moments));
  const Shape of_moments = shape_of(*moments);
  return status_of(check_batch(of_tensors, of_vectors, &of_moments, shape));
}

}  // namespace

REGISTER_OP("Prospr>BatchMoments")
    .Input("x: T")
    .Output("mean: T")
    .Output("variance: T")
    .Output("moments: double")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      ShapeHandle vector;
      TF_RETURN_IF_ERROR(merged(context, {0}, {}, -1, &tensor, &vector));
      context->set_output(0, vector);
      context->set_output(1, vector);
      context->set_output(2, context->Matrix(2, context->Dim(vector, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Mean and variance of each channel, over all axes but the last.

Sums are in double on the CPU, of x less its first row. The result is the same bits for every number
of threads.

x: [..., C], with at least one element.
mean: [C].
variance: [C], that of the batch itself: a mean of squares.
moments: [2, C], mean and variance in double, for BatchNorm and its gradients.
)doc");

template <typename Device, typename T>
class BatchMomentsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    BatchShape shape;
    OP_REQUIRES_OK(context, read_batch(context, {"x"}, {}, &shape));
    BatchMoments<T> moments{data_of<T>(context->input(0)), nullptr, nullptr, nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, {shape.channels}, &moments.mean));
    OP_REQUIRES_OK(context, allocate(context, 1, {shape.channels}, &moments.variance));
    OP_REQUIRES_OK(context, allocate(context, 2, {2, shape.channels}, &moments.moments));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, moments));
  }
};
PROSPR_REGISTER(BatchMoments, OnCpu, Floats);

REGISTER_OP("Prospr>BatchNorm")
    .Input("x: T")
    .Input("scale: T")
    .Input("offset: T")
    .Input("moments: double")
    .Input("epsilon: double")
    .Output("y: T")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      ShapeHandle vector;
      TF_RETURN_IF_ERROR(merged(context, {0}, {1, 2}, 3, &tensor, &vector));
      context->set_output(0, tensor);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Batch normalisation: scale * (x - mean) / sqrt(variance + epsilon) + offset.

Its gradient at x is that through the moments too, which must be those of x. The result is the same
bits for every number of threads.

x: [..., C], with at least one element.
scale: [C].
offset: [C].
moments: [2, C], mean and variance of x: the last output of BatchMoments.
epsilon: A scalar.
y: In the shape of x.
)doc");

template <typename Device, typename T>
class BatchNormOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    BatchShape shape;
    OP_REQUIRES_OK(context, read_batch(context, {"x"}, {"scale", "offset"}, &shape));
    BatchNorm<T> norm{};
    OP_REQUIRES_OK(context, read_scalar(context, "epsilon", &norm.epsilon));
    norm.x = data_of<T>(context->input(0));
    norm.scale = data_of<T>(context->input(1));
    norm.offset = data_of<T>(context->input(2));
    norm.moments = data_of<double>(context->input(3));
    OP_REQUIRES_OK(context, allocate(context, 0, shape_of(context->input(0)), &norm.y));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, norm));
  }
};
PROSPR_REGISTER(BatchNorm, OnCpu, Floats);

REGISTER_OP("Prospr>BatchNormGradient")
    .Input("y_gradient: T")
    .Input("x: T")
    .Input("scale: T")
    .Input("moments: double")
    .Input("epsilon: double")
    .Output("x_gradient: T")
    .Output("scale_gradient: T")
    .Output("offset_gradient: T")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      ShapeHandle vector;
      TF_RETURN_IF_ERROR(merged(context, {0, 1}, {2}, 3, &tensor, &vector));
      context->set_output(0, tensor);
      context->set_output(1, vector);
      context->set_output(2, vector);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of BatchNorm, at x through the moments too.

The result is the same bits for every number of threads.

y_gradient: [..., C], the gradient at y.
x: In the shape of y_gradient.
scale: [C].
moments: [2, C], mean and variance of x.
epsilon: A scalar.
x_gradient: In the shape of x.
scale_gradient: [C].
offset_gradient: [C].
)doc");

template <typename Device, typename T>
class BatchNormGradientOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    BatchShape shape;
    OP_REQUIRES_OK(context, read_batch(context, {"y_gradient", "x"}, {"scale"}, &shape));
    BatchNormGradient<T> gradient{};
    OP_REQUIRES_OK(context, read_scalar(context, "epsilon", &gradient.epsilon));
    gradient.y_gradient = data_of<T>(context->input(0));
    gradient.x = data_of<T>(context->input(1));
    gradient.scale = data_of<T>(context->input(2));
    gradient.moments = data_of<double>(context->input(3));
    OP_REQUIRES_OK(context,
                   allocate(context, 0, shape_of(context->input(1)), &gradient.x_gradient));
    OP_REQUIRES_OK(context, allocate(context, 1, {shape.channels}, &gradient.scale_gradient));
    OP_REQUIRES_OK(context, allocate(context, 2, {shape.channels}, &gradient.offset_gradient));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, gradient));
  }
};
PROSPR_REGISTER(BatchNormGradient, OnCpu, Floats);

REGISTER_OP("Prospr>BatchNormSecondGradient")
    .Input("u: T")
    .Input("u_scale: T")
    .Input("u_offset: T")
    .Input("y_gradient: T")
    .Input("x: T")
    .Input("scale: T")
    .Input("moments: double")
    .Input("epsilon: double")
    .Output("by_y_gradient: T")
    .Output("by_x: T")
    .Output("by_scale: T")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensor;
      ShapeHandle vector;
      TF_RETURN_IF_ERROR(merged(context, {0, 3, 4}, {1, 2, 5}, 6, &tensor, &vector));
      context->set_output(0, tensor);
      context->set_output(1, tensor);
      context->set_output(2, vector);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of sum(u * x_gradient) + sum(u_scale * scale_gradient) + sum(u_offset *
offset_gradient), of what BatchNormGradient gives, at x through the moments too.

The result is the same bits for every number of threads.

u: [..., C].
u_scale: [C].
u_offset: [C].
y_gradient: In the shape of u.
x: In the shape of u.
scale: [C].
moments: [2, C], mean and variance of x.
epsilon: A scalar.
by_y_gradient: In the shape of u.
by_x: In the shape of u.
by_scale: [C].
)doc");

template <typename Device, typename T>
class BatchNormSecondGradientOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    BatchShape shape;
    OP_REQUIRES_OK(context, read_batch(context, {"u", "y_gradient", "x"},
                                       {"u_scale", "u_offset", "scale"}, &shape));
    BatchNormSecondGradient<T> gradient{};
    OP_REQUIRES_OK(context, read_scalar(context, "epsilon", &gradient.epsilon));
    gradient.u = data_of<T>(context->input(0));
    gradient.u_scale = data_of<T>(context->input(1));
    gradient.u_offset = data_of<T>(context->input(2));
    gradient.y_gradient = data_of<T>(context->input(3));
    gradient.x = data_of<T>(context->input(4));
    gradient.scale = data_of<T>(context->input(5));
    gradient.moments = data_of<double>(context->input(6));
    const Shape tensor = shape_of(context->input(0));
    OP_REQUIRES_OK(context, allocate(context, 0, tensor, &gradient.by_y_gradient));
    OP_REQUIRES_OK(context, allocate(context, 1, tensor, &gradient.by_x));
    OP_REQUIRES_OK(context, allocate(context, 2, {shape.channels}, &gradient.by_scale));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, gradient));
  }
};
PROSPR_REGISTER(BatchNormSecondGradient, OnCpu, Floats);

}  // namespace prospr::ops
