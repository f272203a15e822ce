# What PROSPR_SANITIZE adds to the flags of all our own sources (prospr_flags).

if(NOT PROSPR_SANITIZE MATCHES "^(address|thread|fuzzer)?$")
  message(FATAL_ERROR "PROSPR_SANITIZE is ${PROSPR_SANITIZE}; it must be address, thread or fuzzer")
endif()

if(PROSPR_SANITIZE STREQUAL "thread")
  set(sanitize_flags -fsanitize=thread)
elseif(PROSPR_SANITIZE)
  set(sanitize_flags -fsanitize=address,undefined -fno-sanitize-recover=undefined)
endif()
if(PROSPR_SANITIZE)
  target_compile_options(prospr_flags INTERFACE ${sanitize_flags} -O1 -g1 -fno-omit-frame-pointer)
  target_link_options(prospr_flags INTERFACE ${sanitize_flags})
endif()
if(PROSPR_SANITIZE STREQUAL "fuzzer")
  target_compile_options(prospr_flags INTERFACE -fsanitize-coverage=trace-pc,trace-cmp)
endif()
