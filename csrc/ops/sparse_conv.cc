#include "kernels/sparse_conv.h"

#include "ops/register.h"

namespace prospr::ops {
namespace {

// An op with the attribute `kernel_size`.
class FiltersOp : public OpKernel {
 public:
  explicit FiltersOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, read_pair(context, "kernel_size", &kernel_size_));
  }

 protected:
  // The filters on an image of a shape, checked; the taps are an input, and the next one the
  // splits.
  absl::Status read_filters(OpKernelContext* context, const Shape& image, int taps_input,
                            SparseConvShape* shape, SparsePattern* pattern) const {
    const Tensor& taps = context->input(taps_input);
    const Tensor& splits = context->input(taps_input + 1);
    *pattern = {taps.flat<std::int32_t>().data(), splits.flat<std::int32_t>().data()};
    return status_of(
        check_filters(image, shape_of(taps), shape_of(splits), *pattern, kernel_size_, shape));
  }

  Shape kernel_size_;
};

absl::Status check(const char* name, const Tensor& tensor, const Shape& wanted) {
  return status_of(check_shape(name, shape_of(tensor), wanted));
}

// Grows (or shrinks) the first two axes by the kernel's size less one.
absl::Status move_border(InferenceContext* context, bool grow, ShapeHandle* shape) {
  Shape kernel_size;
  TF_RETURN_IF_ERROR(read_pair(context, "kernel_size", &kernel_size));
  for (int axis = 0; axis < 2; ++axis) {
    const DimensionHandle given = context->Dim(*shape, axis);
    const std::int64_t border = kernel_size[axis] - 1;
    DimensionHandle size;
    TF_RETURN_IF_ERROR(grow ? context->Add(given, border, &size)
                            : context->Subtract(given, border, &size));
    TF_RETURN_IF_ERROR(context->ReplaceDim(*shape, axis, size, shape));
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("Prospr>SparseConv")
    .Input("image: T")
    .Input("weights: T")
    .Input("bias: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("output: T")
    .Attr("kernel_size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle output;
      ShapeHandle bias;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &bias));
      TF_RETURN_IF_ERROR(move_border(context, /*grow=*/false, &output));
      TF_RETURN_IF_ERROR(context->ReplaceDim(output, 2, context->Dim(bias, 0), &output));
      context->set_output(0, output);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Convolution by the weights that are left of its filters: the work is that of these weights.

output[r, s, f, n] = bias[f] + sum over k in [splits[f], splits[f + 1]) of
weights[k] * image[r + i, s + j, c, n], where taps[k] = (i * kernel_width + j) * C + c. The filters
move by one and stay within the image; several weights of a filter may have one tap. The result is
the same bits for every number of threads.

image: [H, W, C, N], the samples along the last axis.
weights: [K].
bias: [F].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: Height and width of the filters, no larger than the image's.
output: [H - kernel_height + 1, W - kernel_width + 1, F, N].
)doc");

template <typename Device, typename T>
class SparseConvOp : public FiltersOp {
 public:
  using FiltersOp::FiltersOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    const Tensor& weights = context->input(1);
    const Tensor& bias = context->input(2);
    SparseConvShape shape;
    SparsePattern pattern;
    OP_REQUIRES_OK(context, read_filters(context, shape_of(image), 3, &shape, &pattern));
    OP_REQUIRES_OK(context, check("weights", weights, {shape.weights}));
    OP_REQUIRES_OK(context, check("bias", bias, {shape.filters}));
    SparseConv<T> map{data_of<T>(image), data_of<T>(weights), data_of<T>(bias), nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, shape.output(), &map.output));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, pattern, map));
  }
};
PROSPR_REGISTER(SparseConv, OnCpu, Floats);

REGISTER_OP("Prospr>SparseConvInputGradient")
    .Input("output_gradient: T")
    .Input("weights: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("image_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("channels: int >= 0")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      std::int64_t channels;
      TF_RETURN_IF_ERROR(context->GetAttr("channels", &channels));
      ShapeHandle image;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 4, &image));
      TF_RETURN_IF_ERROR(move_border(context, /*grow=*/true, &image));
      TF_RETURN_IF_ERROR(context->ReplaceDim(image, 2, context->MakeDim(channels), &image));
      context->set_output(0, image);
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradient of SparseConv by its image: the transpose of the filters.

image_gradient[r + i, s + j, c, n] is the sum of weights[k] * output_gradient[r, s, f, n] over all
positions r, s, filters f and their weights k that read that element. The result is the same bits for
every number of threads.

output_gradient: [R, S, F, N].
weights: [K].
taps: [K], each in [0, kernel_height * kernel_width * channels).
splits: [F + 1], rising from 0 to K.
kernel_size: Height and width of the filters.
channels: C of the image.
image_gradient: [R + kernel_height - 1, S + kernel_width - 1, C, N].
)doc");

template <typename Device, typename T>
class SparseConvInputGradientOp : public FiltersOp {
 public:
  explicit SparseConvInputGradientOp(OpKernelConstruction* context) : FiltersOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("channels", &channels_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& output_gradient = context->input(0);
    const Tensor& weights = context->input(1);
    OP_REQUIRES_OK(context, status_of(check_axes("output_gradient", shape_of(output_gradient), 4)));
    const Shape image{output_gradient.dim_size(0) + kernel_size_[0] - 1,
                      output_gradient.dim_size(1) + kernel_size_[1] - 1, channels_,
                      output_gradient.dim_size(3)};
    SparseConvShape shape;
    SparsePattern pattern;
    OP_REQUIRES_OK(context, read_filters(context, image, 2, &shape, &pattern));
    OP_REQUIRES_OK(context, check("output_gradient", output_gradient, shape.output()));
    OP_REQUIRES_OK(context, check("weights", weights, {shape.weights}));
    SparseConvInputGradient<T> map{data_of<T>(output_gradient), data_of<T>(weights), nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, image, &map.image_gradient));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, pattern, map));
  }

 private:
  std::int64_t channels_;
};
PROSPR_REGISTER(SparseConvInputGradient, OnCpu, Floats);

REGISTER_OP("Prospr>SparseConvFilterGradient")
    .Input("image: T")
    .Input("output_gradient: T")
    .Input("taps: int32")
    .Input("splits: int32")
    .Output("weights_gradient: T")
    .Output("bias_gradient: T")
    .Attr("kernel_size: list(int)")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      ShapeHandle output;
      ShapeHandle taps;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(1), 4, &output));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(2), 1, &taps));
      context->set_output(0, taps);
      context->set_output(1, context->Vector(context->Dim(output, 2)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The gradients of SparseConv by its weights and its bias.

weights_gradient[k], of a weight of filter f, is the sum over r, s and n of
output_gradient[r, s, f, n] * image[r + i, s + j, c, n], where taps[k] = (i * kernel_width + j) * C + c;
bias_gradient[f] is the sum of output_gradient[r, s, f, n]. The result is the same bits for every
number of threads.

image: [H, W, C, N].
output_gradient: [H - kernel_height + 1, W - kernel_width + 1, F, N].
taps: [K], each in [0, kernel_height * kernel_width * C).
splits: [F + 1], rising from 0 to K.
kernel_size: Height and width of the filters, no larger than the image's.
weights_gradient: [K].
bias_gradient: [F].
)doc");

template <typename Device, typename T>
class SparseConvFilterGradientOp : public FiltersOp {
 public:
  using FiltersOp::FiltersOp;

  void Compute(OpKernelContext* context) override {
    const Tensor& image = context->input(0);
    const Tensor& output_gradient = context->input(1);
    SparseConvShape shape;
    SparsePattern pattern;
    OP_REQUIRES_OK(context, read_filters(context, shape_of(image), 2, &shape, &pattern));
    OP_REQUIRES_OK(context, check("output_gradient", output_gradient, shape.output()));
    SparseConvFilterGradient<T> map{data_of<T>(image), data_of<T>(output_gradient), nullptr,
                                    nullptr};
    OP_REQUIRES_OK(context, allocate(context, 0, {shape.weights}, &map.weights_gradient));
    OP_REQUIRES_OK(context, allocate(context, 1, {shape.filters}, &map.bias_gradient));
    OP_REQUIRES_OK(context, launch<Device>(context, shape, pattern, map));
  }
};
PROSPR_REGISTER(SparseConvFilterGradient, OnCpu, Floats);

}  // namespace prospr::ops
