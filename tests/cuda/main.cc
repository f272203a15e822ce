// Runs csrc/cuda on the host: `main gamma`, `main curvature`, `main input_gradient`, `main
// normalisation`, `main pooling` and `main select` compare with the CPU's kernels; `main race` and
// `main overrun` run planted mistakes, which a sanitizer must find; `main launch` makes a launch
// that fails.
#include <cstdio>
#include <string>

#include "cuda/launch.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

constexpr int kThreads = 64;

// Reads what another thread wrote without waiting for it.
__global__ void race(const float* from, float* to) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = from[threadIdx.x];
  to[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

// Writes one element too far.
__global__ void overrun(const float* from, float* to) { to[threadIdx.x + 1] = from[threadIdx.x]; }

void plant(void (*kernel)(const float*, float*)) {
  Array<float> from(kThreads);
  Array<float> to(kThreads);
  const std::string wrong =
      cuda::launch("planted", kernel, 1, kThreads, nullptr, from.data(), to.data());
  expect(wrong.empty(), wrong);
}

void test_failed_launch() {
  Array<float> from(1);
  const std::string wrong =
      cuda::launch("planted", race, 1, 2048, nullptr, from.data(), from.data());
  expect(wrong == "planted: invalid argument", "a failed launch gave: " + wrong);
}

}  // namespace
}  // namespace prospr::tests

int main(int argc, char** argv) {
  using namespace prospr::tests;
  const std::string test = argc == 2 ? argv[1] : "";
  if (test == "gamma") {
    test_gamma();
  } else if (test == "curvature") {
    test_curvature();
  } else if (test == "input_gradient") {
    test_input_gradient();
  } else if (test == "normalisation") {
    test_normalisation();
  } else if (test == "pooling") {
    test_pooling();
  } else if (test == "select") {
    test_select();
  } else if (test == "race") {
    plant(race);
  } else if (test == "overrun") {
    plant(overrun);
  } else if (test == "launch") {
    test_failed_launch();
  } else {
    std::fprintf(
        stderr,
        "usage: %s gamma | curvature | input_gradient | normalisation | pooling | select | "
        "race | overrun | launch\n",
        argv[0]);
    return 2;
  }
  return failures == 0 ? 0 : 1;
}
