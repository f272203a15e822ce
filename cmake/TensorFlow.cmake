# The installed TensorFlow, as the target TensorFlow::framework, and its version.
#
# TensorFlow's own word (tf.sysconfig) is taken for the include folder, the ABI and the alignment.

execute_process(
  COMMAND
    "${CMAKE_COMMAND}" -E env TF_CPP_MIN_LOG_LEVEL=3 "${Python_EXECUTABLE}" -c
    "import tensorflow as tf; print(tf.__version__, tf.sysconfig.get_include(), tf.sysconfig.get_lib(), *[f for f in tf.sysconfig.get_compile_flags() if f.startswith('-D')], sep=';')"
  OUTPUT_VARIABLE tensorflow_facts
  ERROR_VARIABLE tensorflow_error
  OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE tensorflow_failed)
if(tensorflow_failed)
  message(
    FATAL_ERROR
      "prospr_ops builds against the TensorFlow of ${Python_EXECUTABLE}, which could not be imported:\n"
      "${tensorflow_error}\n"
      "Install it first (pip install 'tensorflow~=2.21.0'), or build without --no-build-isolation.")
endif()
list(POP_FRONT tensorflow_facts TensorFlow_VERSION tensorflow_include tensorflow_lib)
message(STATUS "Building against TensorFlow ${TensorFlow_VERSION}")

add_library(TensorFlow::framework SHARED IMPORTED)
set_target_properties(
  TensorFlow::framework
  PROPERTIES IMPORTED_LOCATION "${tensorflow_lib}/libtensorflow_framework.so.2"
             INTERFACE_COMPILE_OPTIONS "${tensorflow_facts}")
target_include_directories(TensorFlow::framework SYSTEM INTERFACE "${tensorflow_include}")
