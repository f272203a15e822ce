// GCC's coverage instrumentation for libFuzzer, which knows Clang's.
//
// GCC calls a function in every basic block, where Clang counts in a table that libFuzzer reads.
// Here the one keeps the other: a block's counter is found by the hash of its address. libFuzzer's
// own functions are taken from the library that has it by name, since GCC's sanitizers come with
// empty ones that the linker would find first.
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace {

constexpr std::size_t kCounters = 1 << 17;
std::uint8_t counters[kCounters];
// Address and flags of what is counted. Several blocks may share a counter: these name none.
std::uintptr_t places[kCounters][2];

template <typename T>
using Compare = void (*)(T, T);

template <typename T>
void no_compare(T, T) {}

Compare<std::uint8_t> compare1 = no_compare, compare_constant1 = no_compare;
Compare<std::uint16_t> compare2 = no_compare, compare_constant2 = no_compare;
Compare<std::uint32_t> compare4 = no_compare, compare_constant4 = no_compare;
Compare<std::uint64_t> compare8 = no_compare, compare_constant8 = no_compare;
void (*compare_switch)(std::uint64_t, std::uint64_t*) = [](std::uint64_t, std::uint64_t*) {};

}  // namespace

extern "C" {

extern const char __ehdr_start;  // of this library

void __sanitizer_cov_trace_pc() {
  const auto block = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) -
                     reinterpret_cast<std::uintptr_t>(&__ehdr_start);
  ++counters[(block * 0x9e3779b97f4a7c15u) >> 47];
}

void __sanitizer_cov_trace_cmp1(std::uint8_t a, std::uint8_t b) { compare1(a, b); }
void __sanitizer_cov_trace_cmp2(std::uint16_t a, std::uint16_t b) { compare2(a, b); }
void __sanitizer_cov_trace_cmp4(std::uint32_t a, std::uint32_t b) { compare4(a, b); }
void __sanitizer_cov_trace_cmp8(std::uint64_t a, std::uint64_t b) { compare8(a, b); }
void __sanitizer_cov_trace_const_cmp1(std::uint8_t a, std::uint8_t b) { compare_constant1(a, b); }
void __sanitizer_cov_trace_const_cmp2(std::uint16_t a, std::uint16_t b) { compare_constant2(a, b); }
void __sanitizer_cov_trace_const_cmp4(std::uint32_t a, std::uint32_t b) { compare_constant4(a, b); }
void __sanitizer_cov_trace_const_cmp8(std::uint64_t a, std::uint64_t b) { compare_constant8(a, b); }
void __sanitizer_cov_trace_switch(std::uint64_t value, std::uint64_t* cases) {
  compare_switch(value, cases);
}
// Comparisons of floating-point numbers, which libFuzzer makes no use of.
void __sanitizer_cov_trace_cmpf(float, float) {}
void __sanitizer_cov_trace_cmpd(double, double) {}

// Reports to the libFuzzer in the library of that path, which is loaded. Returns whether it can.
__attribute__((visibility("default"))) bool report_coverage(const char* path) {
  void* const library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  bool found = library != nullptr;
  const auto find = [library, &found](const char* name, auto& function) {
    void* const symbol = found ? dlsym(library, name) : nullptr;
    found = symbol != nullptr;
    if (found) function = reinterpret_cast<std::decay_t<decltype(function)>>(symbol);
  };
  void (*add_counters)(std::uint8_t*, std::uint8_t*) = nullptr;
  void (*add_places)(const std::uintptr_t*, const std::uintptr_t*) = nullptr;
  find("__sanitizer_cov_8bit_counters_init", add_counters);
  find("__sanitizer_cov_pcs_init", add_places);
  find("__sanitizer_cov_trace_cmp1", compare1);
  find("__sanitizer_cov_trace_cmp2", compare2);
  find("__sanitizer_cov_trace_cmp4", compare4);
  find("__sanitizer_cov_trace_cmp8", compare8);
  find("__sanitizer_cov_trace_const_cmp1", compare_constant1);
  find("__sanitizer_cov_trace_const_cmp2", compare_constant2);
  find("__sanitizer_cov_trace_const_cmp4", compare_constant4);
  find("__sanitizer_cov_trace_const_cmp8", compare_constant8);
  find("__sanitizer_cov_trace_switch", compare_switch);
  if (!found) return false;
  for (std::size_t i = 0; i < kCounters; ++i) places[i][0] = i + 1;
  add_counters(counters, counters + kCounters);
  add_places(places[0], places[kCounters]);
  return true;
}

}  // extern "C"
