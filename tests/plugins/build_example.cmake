# Builds backend/example as its author would: from an installed SDK, by a CMake run that knows nothing of this tree.
#   cmake -DBUILD_DIR=... -DEXAMPLE_DIR=... -DWORK_DIR=... -DGENERATOR=... -DCXX_COMPILER=... [-DCXX_FLAGS=...]
#         [-DSDK_DIR=...] -P build_example.cmake
# SDK_DIR: a package that is installed already; else the one of BUILD_DIR is installed and moved.
# Leaves WORK_DIR/build/tessera_example_backend.so.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
if(NOT SDK_DIR)
  run(${CMAKE_COMMAND} --install ${BUILD_DIR} --component sdk --prefix ${WORK_DIR}/sdk)
  set(SDK_DIR ${WORK_DIR}/moved-sdk)
  file(RENAME ${WORK_DIR}/sdk ${SDK_DIR})
endif()

# The package must work wherever its folder is moved to, so it names no place on this machine.
file(GLOB_RECURSE package_files ${SDK_DIR}/*.cmake)
if(NOT package_files)
  message(FATAL_ERROR "no CMake package was installed under ${SDK_DIR}")
endif()
get_filename_component(source_dir ${EXAMPLE_DIR}/../.. ABSOLUTE)
foreach(file IN LISTS package_files)
  file(READ ${file} text)
  foreach(place ${WORK_DIR} ${BUILD_DIR} ${source_dir})
    string(FIND "${text}" "${place}" at)
    if(NOT at EQUAL -1)
      message(FATAL_ERROR "${file} contains the absolute path ${place}")
    endif()
  endforeach()
  if(text MATCHES "-Werror|-Wall")
    message(FATAL_ERROR "${file} exports warning flags")
  endif()
endforeach()

# The example is copied out of the tree, so that it can reach the SDK only.
file(COPY ${EXAMPLE_DIR}/ DESTINATION ${WORK_DIR}/source)
run(${CMAKE_COMMAND} -S ${WORK_DIR}/source -B ${WORK_DIR}/build -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${SDK_DIR} -DCMAKE_CXX_COMPILER=${CXX_COMPILER} "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}")
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)

# It is meant to show how little a plugin takes.
set(lines 0)
file(GLOB sources ${WORK_DIR}/source/*.cc ${WORK_DIR}/source/*.h)
foreach(file IN LISTS sources)
  file(STRINGS ${file} file_lines)
  list(LENGTH file_lines count)
  math(EXPR lines "${lines} + ${count}")
endforeach()
if(lines GREATER_EQUAL 100)
  message(FATAL_ERROR "the example has ${lines} lines of C++; expected fewer than 100")
endif()
