#include "kernels/normalisation.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

// The one shape of the inputs "tensors", which come first.
absl::Status merged_tensors(InferenceContext* context, ShapeHandle* shape,
                            DimensionHandle* channels) {
  std::int64_t count;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &count));
  if (count > static_cast<std::int64_t>(kMostTensors)) {
    return absl::InvalidArgumentError("there must be 1 to " + std::to_string(kMostTensors) +
                                      " tensors, not " + std::to_string(count));
  }
  TF_RETURN_IF_ERROR(context->WithRankAtLeast(context->input(0), 1, shape));
  for (std::int64_t i = 1; i < count; ++i) {
    TF_RETURN_IF_ERROR(context->Merge(*shape, context->input(i), shape));
  }
  *channels = context->RankKnown(*shape) ? context->Dim(*shape, -1) : context->UnknownDim();
  return absl::OkStatus();
}

// Checks the input "tensors", and fills in pointers, rows and channels.
template <template <typename> class Arguments, typename T>
absl::Status read_tensors(OpKernelContext* context, Arguments<T>* arguments) {
  tensorflow::OpInputList tensors;
  TF_RETURN_IF_ERROR(context->input_list("tensors", &tensors));
  std::vector<Shape> shapes;
  for (const Tensor& tensor : tensors) {
    shapes.push_back(shape_of(tensor));
    arguments->tensors.push_back(data_of<T>(tensor));
  }
  return status_of(check_tensors(shapes, &arguments->rows, &arguments->channels));
}

}  // namespace

REGISTER_OP("Prospr>ChannelProducts")
    .Input("tensors: N * T")
    .Output("products: double")
    .Attr("N: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensors;
      DimensionHandle channels;
      TF_RETURN_IF_ERROR(merged_tensors(context, &tensors, &channels));
      const std::int64_t count = context->num_inputs();
      context->set_output(0, context->MakeShape({count + 1, count + 1, channels}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Sums of the products of tensors with each other, for each channel.

products[i, j, c] = sum over all axes but the last of tensors[i][..., c] * tensors[j][..., c], the
last i and j standing for a tensor of ones. Products and sums are in double. The result is the same
bits for every number of threads, and symmetric in i and j to the bit.

tensors: 1 to 3 tensors of one shape [..., C], with at least one element.
products: [N + 1, N + 1, C].
)doc");

template <typename Device, typename T>
class ChannelProductsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    ChannelProducts<T> products{};
    OP_REQUIRES_OK(context, read_tensors(context, &products));
    const std::int64_t size = context->num_inputs() + 1;
    OP_REQUIRES_OK(context,
                   allocate(context, 0, {size, size, products.channels}, &products.products));
    OP_REQUIRES_OK(context, launch<Device>(context, products));
  }
};
PROSPR_REGISTER(ChannelProducts, OnCpu, Floats);

REGISTER_OP("Prospr>ChannelCombinations")
    .Input("tensors: N * T")
    .Input("coefficients: T")
    .Output("results: R * T")
    .Attr("N: int >= 1")
    .Attr("R: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle tensors;
      DimensionHandle channels;
      TF_RETURN_IF_ERROR(merged_tensors(context, &tensors, &channels));
      const std::int64_t count = context->num_inputs() - 1;
      ShapeHandle coefficients;
      TF_RETURN_IF_ERROR(context->Merge(
          context->input(count), context->MakeShape({context->num_outputs(), count + 1, channels}),
          &coefficients));
      for (int i = 0; i < context->num_outputs(); ++i) context->set_output(i, tensors);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Linear combinations of tensors, with coefficients for each channel.

results[r][..., c] = sum over i of coefficients[r, i, c] * tensors[i][..., c], the last i standing
for a tensor of ones. The result is the same bits for every number of threads.

tensors: 1 to 3 tensors of one shape [..., C], with at least one element.
coefficients: [R, N + 1, C].
results: R tensors in the shape of the tensors.
)doc");

template <typename Device, typename T>
class ChannelCombinationsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    ChannelCombinations<T> combinations{};
    OP_REQUIRES_OK(context, read_tensors(context, &combinations));
    const std::int64_t count = context->num_inputs() - 1;
    const Tensor& coefficients = context->input(count);
    OP_REQUIRES_OK(context, status_of(check_shape(
                                "coefficients", shape_of(coefficients),
                                {context->num_outputs(), count + 1, combinations.channels})));
    combinations.coefficients = data_of<T>(coefficients);
    combinations.results.resize(context->num_outputs());
    for (int i = 0; i < context->num_outputs(); ++i) {
      OP_REQUIRES_OK(context,
                     allocate(context, i, shape_of(context->input(0)), &combinations.results[i]));
    }
    OP_REQUIRES_OK(context, launch<Device>(context, combinations));
  }
};
PROSPR_REGISTER(ChannelCombinations, OnCpu, Floats);

}  // namespace prospr::ops
