#include "cuda/launch.h"
#include "cuda/stream.h"

namespace prospr::cuda {

std::string copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  return checked("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}

}  // namespace prospr::cuda
