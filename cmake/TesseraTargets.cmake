# How every target of the project is declared.

# Warnings are errors in our presets only (they set CMAKE_COMPILE_WARNING_AS_ERROR).
add_library(tessera_compile_options INTERFACE)
target_compile_features(tessera_compile_options INTERFACE cxx_std_20)
target_compile_options(tessera_compile_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wno-missing-field-initializers>
  # What users install names no folder of the machine that built it.
  $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:C,CXX>>:
  -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/= -fmacro-prefix-map=${PROJECT_BINARY_DIR}/=>
  # GCC 12 at -O3 sees an overlap in "text" + std::to_string(n) that is not there (GCC bug 105651).
  $<$<AND:$<CONFIG:Release>,$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
target_include_directories(tessera_compile_options INTERFACE
  ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
if(TESSERA_SANITIZE)
  target_compile_options(tessera_compile_options INTERFACE
    -fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(tessera_compile_options INTERFACE -fsanitize=${TESSERA_SANITIZE})
  if(TESSERA_SANITIZE STREQUAL "thread")
    # GCC warns of the fences in Abseil's headers, which TSan does not model.
    target_compile_options(tessera_compile_options INTERFACE -Wno-tsan)
  endif()
endif()

# tessera_library(<name> SOURCES ... [DEPS ...] [PRIVATE_DEPS ...]): static library tessera_<name>, alias tessera::<name>.
function(tessera_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(tessera_${name} STATIC ${ARG_SOURCES})
  add_library(tessera::${name} ALIAS tessera_${name})
  set_target_properties(tessera_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF)
  target_link_libraries(tessera_${name} PUBLIC ${ARG_DEPS} PRIVATE tessera_compile_options ${ARG_PRIVATE_DEPS})
  target_include_directories(tessera_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/generated>)
endfunction()

# tessera_executable(<name> SOURCES ... [DEPS ...])
function(tessera_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF)
  target_link_libraries(${name} PRIVATE tessera_compile_options ${ARG_DEPS})
endfunction()

# tessera_test(<name> SOURCES ... [DEPS ...] [LABELS ...] [TIMEOUT seconds]): a GoogleTest program and its CTest entry.
function(tessera_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  tessera_executable(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
