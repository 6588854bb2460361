# Objects built for one instruction set define no symbol that the linker merges across files: it could keep the copy
# that an older processor cannot run. Usage: cmake -DNM=<nm> -DOBJECTS=<object>,<object>... -P isa_objects_test.cmake
string(REPLACE "," ";" objects "${OBJECTS}")
set(checked 0)
foreach(object IN LISTS objects)
  if(NOT object MATCHES "/fused_(avx|amx)")
    continue()
  endif()
  execute_process(COMMAND "${NM}" --defined-only "${object}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  # DW.ref.* is a pointer to the exception personality, not code.
  string(REGEX REPLACE "[^\n]* V DW\\.ref\\.[^\n]*" "" symbols "${symbols}")
  if(symbols MATCHES "[^\n]* [WwVvu] [^\n]*")
    message(FATAL_ERROR "${object} shares a symbol with other objects: ${CMAKE_MATCH_0}")
  endif()
  math(EXPR checked "${checked} + 1")
endforeach()
if(checked EQUAL 0)
  message(FATAL_ERROR "no object of the fused kernels among: ${objects}")
endif()
