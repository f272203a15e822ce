#include "kernels/curvature.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

// Attribute A must be the type in which sums of type T are kept.
absl::Status check_accumulator_type(InferenceContext* context) {
  tensorflow::DataType type;
  tensorflow::DataType accumulator;
  TF_RETURN_IF_ERROR(context->GetAttr("T", &type));
  TF_RETURN_IF_ERROR(context->GetAttr("A", &accumulator));
  const auto wanted = type == tensorflow::DT_DOUBLE ? tensorflow::DT_DOUBLE : tensorflow::DT_FLOAT;
  if (accumulator == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError("the accumulator of " + tensorflow::DataTypeString(type) +
                                    " must be of dtype " + tensorflow::DataTypeString(wanted) +
                                    ", not " + tensorflow::DataTypeString(accumulator));
}

// A convolution's attributes, of an OpKernelConstruction or an InferenceContext.
template <typename Context>
absl::Status read_conv_options(Context* context, ConvOptions* options) {
  std::string padding;
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &options->strides));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &options->dilations));
  TF_RETURN_IF_ERROR(context->GetAttr("groups", &options->groups));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
  options->padding = padding == "VALID"  ? Padding::kValid
                     : padding == "SAME" ? Padding::kSame
                                         : Padding::kCausal;
  return absl::OkStatus();
}

// Output 0 with the values of an input, the accumulator: its own buffer if nobody else holds it.
template <typename Device, typename Sum>
absl::Status forward_accumulator(OpKernelContext* context, int input, Sum** curvature) {
  const Tensor& accumulator = context->input(input);
  Tensor* output;
  TF_RETURN_IF_ERROR(
      context->forward_input_or_allocate_output({input}, 0, accumulator.shape(), &output));
  *curvature = output->flat<Sum>().data();
  const Sum* const from = accumulator.flat<Sum>().data();
  if (from == *curvature) return absl::OkStatus();
  return Device::copy(context, *curvature, from,
                      static_cast<std::size_t>(accumulator.NumElements()) * sizeof(Sum));
}

// A convolution's op.
class ConvOp : public OpKernel {
 public:
  explicit ConvOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_conv_options(context, &options_));
  }

 protected:
  ConvOptions options_;
};

struct CurvatureTypes {
  static constexpr const char* kAttributes[] = {"T", "A"};
  using Kernels = Table<Row<Eigen::half, float>, Row<tensorflow::bfloat16, float>,
                        Row<float, float>, Row<double, double>>;
};

template <typename... Index>
struct IndexedTypes {
  static constexpr const char* kAttributes[] = {"T", "A", "I"};
  using Kernels =
      Table<Row<Eigen::half, float, Index>..., Row<tensorflow::bfloat16, float, Index>...,
            Row<float, float, Index>..., Row<double, double, Index>...>;
};
using EmbeddingTypes = IndexedTypes<std::int32_t, std::int64_t>;

}  // namespace

REGISTER_OP("Prospr>DenseCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      const std::vector<Shape> shapes = known_shapes(context, 3);
      if (shapes.empty()) return absl::OkStatus();
      ConvShape checked;
      return status_of(check_dense(shapes[0], shapes[1], shapes[2], &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of a dense layer's kernel, in closed form.

curvature[i, o] = accumulator[i, o] + sum_n sum_c (sum_t inputs[n, t, i] * factors[c, n, t, o])^2,
t being all middle axes together. All scale, such as 1 / sqrt(N), is in the factors. Sums are kept in
the accumulator's dtype; the output reuses its buffer if nobody else holds it. The result is the same
bits for every number of threads.

inputs: The layer's input, [N, ..., I].
factors: Gradient factors at its output before the activation, [C, N, ..., O].
accumulator: [I, O]; float64 for float64, else float32.
curvature: [I, O].
)doc");

template <typename Device, typename T, typename Sum>
class DenseCurvatureOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(0);
    const Tensor& factors = context->input(1);
    ConvShape shape;
    Sum* curvature;
    OP_REQUIRES_OK(context, status_of(check_dense(shape_of(inputs), shape_of(factors),
                                                  shape_of(context->input(2)), &shape)));
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, 2, &curvature));
    OP_REQUIRES_OK(context, launch<Device>(context, ConvCurvature<typename KernelType<T>::Type>{
                                                        shape, data_of<T>(inputs),
                                                        data_of<T>(factors), curvature}));
  }
};
PROSPR_REGISTER(DenseCurvature, OnCpuAndGpu, CurvatureTypes);

REGISTER_OP("Prospr>ConvCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      ConvOptions options;
      TF_RETURN_IF_ERROR(read_conv_options(context, &options));
      const std::vector<Shape> shapes = known_shapes(context, 3);
      if (shapes.empty()) return absl::OkStatus();
      ConvShape checked;
      return status_of(check_conv(shapes[0], shapes[1], shapes[2], options, &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of a convolution's kernel, in closed form.

curvature[k, i, o] = accumulator[k, i, o]
+ sum_n sum_c (sum_t patches[n, t, k, i] * factors[c, n, t, o])^2, k being the kernel's 1, 2 or 3
spatial axes, t the output pixels, and patches[n, t] the inputs that pixel t sees. All scale, such as
1 / sqrt(N), is in the factors. Sums are kept in the accumulator's dtype; the output reuses its buffer
if nobody else holds it. The result is the same bits for every number of threads.

inputs: The layer's input, [N, spatial..., channels].
factors: Gradient factors at its output before the activation, [C, N, output spatial..., O].
accumulator: [kernel spatial..., channels / groups, O]; float64 for float64, else float32.
curvature: In the accumulator's shape.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T, typename Sum>
class ConvCurvatureOp : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(0);
    const Tensor& factors = context->input(1);
    ConvShape shape;
    Sum* curvature;
    OP_REQUIRES_OK(context, status_of(check_conv(shape_of(inputs), shape_of(factors),
                                                 shape_of(context->input(2)), options_, &shape)));
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, 2, &curvature));
    OP_REQUIRES_OK(context, launch<Device>(context, ConvCurvature<typename KernelType<T>::Type>{
                                                        shape, data_of<T>(inputs),
                                                        data_of<T>(factors), curvature}));
  }
};
PROSPR_REGISTER(ConvCurvature, OnCpuAndGpu, CurvatureTypes);

REGISTER_OP("Prospr>PooledConvCurvature")
    .Input("inputs: T")
    .Input("factors: T")
    .Input("derivative: T")
    .Input("accumulator: T")
    .Output("curvature: T")
    .Attr("T: {float, double}")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      context->set_output(0, context->input(3));
      ConvOptions options;
      TF_RETURN_IF_ERROR(read_conv_options(context, &options));
      const std::vector<Shape> shapes = known_shapes(context, 4);
      if (shapes.empty()) return absl::OkStatus();
      ConvShape checked;
      std::int64_t windows[ConvShape::kAxes];
      return status_of(check_pooled_conv(shapes[0], shapes[1], shapes[2], shapes[3], options,
                                         &checked, windows));
    })
    .Doc(R"doc(
What Prospr>ConvCurvature computes, of factors that come from behind a pooling.

The windows of the pooling tile the convolution's output, and a dense factor at an output pixel is
factors at its window times derivative at the pixel. On the CPU a pixel whose derivative is zero costs
nothing. The output reuses the accumulator's buffer if nobody else holds it. The result is the same
bits for every number of threads.

inputs: The layer's input, [N, spatial..., channels].
factors: [C, N, windows..., O]; the windows on each spatial axis divide the output's size.
derivative: Of the pooling and all elementwise layers before it, [N, output spatial..., O].
accumulator: [kernel spatial..., channels / groups, O].
curvature: In the accumulator's shape.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T>
class PooledConvCurvatureOp : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& inputs = context->input(0);
    const Tensor& factors = context->input(1);
    const Tensor& derivative = context->input(2);
    ConvShape shape;
    PooledFactors<T> pooled{{}, data_of<T>(factors), data_of<T>(derivative)};
    T* curvature;
    OP_REQUIRES_OK(context, status_of(check_pooled_conv(
                                shape_of(inputs), shape_of(factors), shape_of(derivative),
                                shape_of(context->input(3)), options_, &shape, pooled.windows)));
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, 3, &curvature));
    OP_REQUIRES_OK(context, launch<Device>(context, ConvCurvature<T>{shape, data_of<T>(inputs),
                                                                     nullptr, curvature, pooled}));
  }
};
PROSPR_REGISTER(PooledConvCurvature, OnCpuAndGpu, Floats);

REGISTER_OP("Prospr>PooledConvInputGradient")
    .Input("kernel: T")
    .Input("factors: T")
    .Input("derivative: T")
    .Output("gradient: T")
    .Attr("T: {float, double}")
    .Attr("input_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'VALID', 'SAME', 'CAUSAL'}")
    .Attr("groups: int = 1")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ConvOptions options;
      Shape input_size;
      TF_RETURN_IF_ERROR(read_conv_options(context, &options));
      TF_RETURN_IF_ERROR(context->GetAttr("input_size", &input_size));
      context->set_output(0, context->UnknownShapeOfRank(static_cast<int>(input_size.size()) + 3));
      const std::vector<Shape> shapes = known_shapes(context, 3);
      if (shapes.empty()) return absl::OkStatus();
      ConvShape checked;
      std::int64_t windows[ConvShape::kAxes];
      TF_RETURN_IF_ERROR(status_of(check_pooled_conv_input_gradient(
          shapes[0], shapes[1], shapes[2], input_size, options, &checked, windows)));
      std::vector<DimensionHandle> sizes;
      for (const std::int64_t size : gradient_shape(checked, input_size)) {
        sizes.push_back(context->MakeDim(size));
      }
      context->set_output(0, context->MakeShape(sizes));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Backpropagates factors that come from behind a pooling through a convolution.

gradient[c, n] is the convolution's vector-Jacobian product with the dense factors of column c and
sample n, which are those of Prospr>PooledConvCurvature. On the CPU a pixel whose derivative is zero
costs nothing. An infinite factor, or on a GPU weight, makes its neighbours NaN. The result is the same
bits for every number of threads.

kernel: [kernel spatial..., channels / groups, O].
factors: [C, N, windows..., O]; the windows on each spatial axis divide the output's size.
derivative: Of the pooling and all elementwise layers before it, [N, output spatial..., O].
gradient: [C, N, input_size..., channels].
input_size: The spatial axes of the convolution's input.
strides: One for each spatial axis, at least 1.
dilations: One for each spatial axis, at least 1.
padding: As in Keras; CAUSAL only with one spatial axis.
groups: Divides the channels and O; group g of the outputs sees group g of the channels.
)doc");

template <typename Device, typename T>
class PooledConvInputGradientOp : public ConvOp {
 public:
  explicit PooledConvInputGradientOp(OpKernelConstruction* context) : ConvOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("input_size", &input_size_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    const Tensor& factors = context->input(1);
    const Tensor& derivative = context->input(2);
    ConvShape shape;
    PooledFactors<T> pooled{{}, data_of<T>(factors), data_of<T>(derivative)};
    T* gradient;
    OP_REQUIRES_OK(context, status_of(check_pooled_conv_input_gradient(
                                shape_of(kernel), shape_of(factors), shape_of(derivative),
                                input_size_, options_, &shape, pooled.windows)));
    OP_REQUIRES_OK(context, allocate(context, 0, gradient_shape(shape, input_size_), &gradient));
    OP_REQUIRES_OK(context, launch<Device>(context, ConvInputGradient<T>{shape, data_of<T>(kernel),
                                                                         pooled, gradient}));
  }

 private:
  Shape input_size_;
};
PROSPR_REGISTER(PooledConvInputGradient, OnCpuAndGpu, Floats);

REGISTER_OP("Prospr>EmbeddingCurvature")
    .Input("indices: I")
    .Input("factors: T")
    .Input("accumulator: A")
    .Output("curvature: A")
    .Attr("I: {int32, int64}")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("A: {float, double} = DT_FLOAT")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(check_accumulator_type(context));
      context->set_output(0, context->input(2));
      const std::vector<Shape> shapes = known_shapes(context, 3);
      if (shapes.empty()) return absl::OkStatus();
      EmbeddingShape checked;
      return status_of(check_embedding(shapes[0], shapes[1], shapes[2], &checked));
    })
    .Doc(R"doc(
The diagonal of the (generalised Gauss-Newton) Hessian of an embedding's table, in closed form.

curvature[v, o] = accumulator[v, o]
+ sum_n sum_c (sum over t with indices[n, t] = v of factors[c, n, t, o])^2, t being all axes of
indices after the first. All scale, such as 1 / sqrt(N), is in the factors. Sums are kept in the
accumulator's dtype; the output reuses its buffer if nobody else holds it. The result is the same bits
for every number of threads.

indices: [N, ...]; one outside of [0, V) is an error, and on a GPU counts for nothing.
factors: Gradient factors at its output, [C, N, ..., O], the middle axes being those of indices.
accumulator: [V, O]; float64 for float64, else float32.
curvature: [V, O].
)doc");

template <typename Device, typename T, typename Sum, typename Index>
class EmbeddingCurvatureOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& indices = context->input(0);
    const Tensor& factors = context->input(1);
    EmbeddingShape shape;
    Sum* curvature;
    OP_REQUIRES_OK(context, status_of(check_embedding(shape_of(indices), shape_of(factors),
                                                      shape_of(context->input(2)), &shape)));
    OP_REQUIRES_OK(context, forward_accumulator<Device>(context, 2, &curvature));
    OP_REQUIRES_OK(
        context, launch<Device>(
                     context, EmbeddingCurvature<typename KernelType<T>::Type, Index>{
                                  shape, data_of<Index>(indices), data_of<T>(factors), curvature}));
  }
};
PROSPR_REGISTER(EmbeddingCurvature, OnCpuAndGpu, EmbeddingTypes);

}  // namespace prospr::ops
