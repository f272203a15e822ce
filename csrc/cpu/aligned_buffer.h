// Memory for vectors, aligned to the widest of them.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace prospr::cpu {

// `size` elements, not initialised.
template <typename T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::int64_t size)
      : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(size) * sizeof(T),
                                             std::align_val_t(kAlignment)))) {}

  T* data() { return data_.get(); }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<T, Delete> data_;
};

}  // namespace prospr::cpu
