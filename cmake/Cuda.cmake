# Decides whether the CUDA kernels in `cuda_sources` are built (PROSPR_CUDA_ENABLED), and for what.

if(NOT PROSPR_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PROSPR_CUDA is ${PROSPR_CUDA}; it must be AUTO, ON or OFF")
endif()
set(PROSPR_CUDA_ENABLED OFF)
if(NOT PROSPR_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(PROSPR_CUDA_ENABLED ON)
  elseif(PROSPR_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PROSPR_CUDA is ON, but no nvcc was found; set CUDACXX or use AUTO")
  endif()
endif()
message(STATUS "CUDA kernels: ${PROSPR_CUDA_ENABLED}")

if(PROSPR_CUDA_ENABLED)
  # Machine code for every generation that TensorFlow runs on and this nvcc knows, and PTX of the
  # newest for those to come.
  if(NOT CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE known_to_nvcc
                                                                     COMMAND_ERROR_IS_FATAL ANY)
    foreach(architecture 80 86 89 90 100 120)
      if(known_to_nvcc MATCHES "compute_${architecture}[^0-9]")
        list(APPEND CMAKE_CUDA_ARCHITECTURES ${architecture}-real)
        set(newest ${architecture})
      endif()
    endforeach()
    list(APPEND CMAKE_CUDA_ARCHITECTURES ${newest}-virtual)
  endif()
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  # The library loads, and works on the CPU, where there is no GPU and no driver.
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)

  # As the compiler names them: sm_90 for machine code, compute_90 for PTX, a bare number for both.
  set(PROSPR_CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})
  list(TRANSFORM PROSPR_CUDA_ARCHITECTURES REPLACE "^([0-9]+[a-z]?)$" "sm_\\1,compute_\\1")
  list(TRANSFORM PROSPR_CUDA_ARCHITECTURES REPLACE "^(.*)-real$" "sm_\\1")
  list(TRANSFORM PROSPR_CUDA_ARCHITECTURES REPLACE "^(.*)-virtual$" "compute_\\1")
  list(JOIN PROSPR_CUDA_ARCHITECTURES "," PROSPR_CUDA_ARCHITECTURES)
  message(STATUS "CUDA architectures: ${PROSPR_CUDA_ARCHITECTURES}")

  add_library(prospr_cuda STATIC ${cuda_sources})
  target_include_directories(prospr_cuda PUBLIC csrc)
  # TensorFlow's ABI of the standard library, without its headers.
  target_compile_options(
    prospr_cuda PRIVATE $<TARGET_PROPERTY:TensorFlow::framework,INTERFACE_COMPILE_OPTIONS>)
  target_compile_options(
    prospr_cuda PRIVATE --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra
                        $<$<BOOL:${PROSPR_WERROR}>:-Werror=all-warnings -Xcompiler=-Werror>)
  target_compile_definitions(prospr_cuda PUBLIC PROSPR_CUDA)
endif()
