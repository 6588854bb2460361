# Target `release_tarball`: tessera-VERSION-linux-x86_64.tar.gz in the build folder, which runs wherever there is glibc
# (2.36, when built on Debian 12) and, for the GPU backends, an NVIDIA driver. Any preset but the sanitizers' has it;
# `release` is the one to publish from.
if(TESSERA_SANITIZE OR NOT TARGET tessera-server)
  return()
endif()

set(_release_programs tessera-server tessera)
foreach(_program
    tessera_conformance tessera-gpu-checks cuda_attention_bench cpu_attention_bench tessera_kernels_cuda_shared)
  if(TARGET ${_program})
    list(APPEND _release_programs ${_program})
  endif()
endforeach()

find_library(TESSERA_OPENBLAS NAMES libopenblas.so.0)
mark_as_advanced(TESSERA_OPENBLAS)
if(TESSERA_HAVE_CUDA)
  # The toolkit's own installer has EULA.txt, the distributions' packages, the Python wheels and NVIDIA's container
  # images have theirs.
  file(GLOB _cuda_licenses ${CUDAToolkit_LIBRARY_ROOT}/EULA.txt ${CUDAToolkit_LIBRARY_ROOT}/LICENSE
    ${CUDAToolkit_LIBRARY_ROOT}/dist-info/nvidia_cuda_runtime-*/licenses/License.txt
    /usr/share/doc/cuda-cudart-dev-*/copyright /NGC-DL-CONTAINER-LICENSE)
  # Where there is none, only the tarball cannot be made.
  set(TESSERA_CUDA_LICENSE NOTFOUND)
  if(_cuda_licenses)
    list(GET _cuda_licenses 0 TESSERA_CUDA_LICENSE)
  endif()
endif()
set(TESSERA_RELEASE_NAME tessera-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(TESSERA_RELEASE_TARBALL ${PROJECT_BINARY_DIR}/${TESSERA_RELEASE_NAME}.tar.gz)
add_custom_target(release_tarball
  COMMAND ${CMAKE_COMMAND}
    -D NAME=${TESSERA_RELEASE_NAME} -D CONFIG=$<CONFIG> -D SOURCE_DIR=${PROJECT_SOURCE_DIR} -D BUILD_DIR=${PROJECT_BINARY_DIR}
    -D TARBALL=${TESSERA_RELEASE_TARBALL} -D OPENBLAS=${TESSERA_OPENBLAS} -D CUDA_LICENSE=${TESSERA_CUDA_LICENSE}
    -P ${CMAKE_CURRENT_LIST_DIR}/TesseraReleaseTarball.cmake
  DEPENDS ${_release_programs}
  BYPRODUCTS ${TESSERA_RELEASE_TARBALL}
  USES_TERMINAL VERBATIM)
