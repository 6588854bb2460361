# Whether this build has CUDA (TESSERA_HAVE_CUDA), and how CUDA sources are compiled; says so either way.
set(TESSERA_HAVE_CUDA OFF)
if(NOT TESSERA_CUDA)
  message(STATUS "Tessera: CUDA switched off (TESSERA_CUDA=OFF): CPU-only build")
  return()
endif()
include(CheckLanguage)
# Architectures are named per target below. A value here only stops CMake from guessing one.
set(CMAKE_CUDA_ARCHITECTURES OFF)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "Tessera: nvcc not found: CPU-only build")
  return()
endif()
enable_language(CUDA)
# 12.8 is the first with --compress-mode.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(STATUS "Tessera: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8: CPU-only build")
  return()
endif()
# CMake 3.25, Debian 12's, calls this library deprecated even where there is none, and fails: CUDA 13 has it no more.
if(NOT TARGET CUDA::nvToolsExt)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit REQUIRED)
set(TESSERA_HAVE_CUDA ON)
message(STATUS "Tessera: CUDA ${CMAKE_CUDA_COMPILER_VERSION} (${CMAKE_CUDA_COMPILER})")

# Machine code for Ampere data-centre parts and Hopper; the PTX of 8.0 serves every other GPU from there on.
# What is for Hopper alone is compiled for 9.0a instead.
set(TESSERA_PORTABLE_GENCODE -gencode=arch=compute_80,code=[compute_80,sm_80] -gencode=arch=compute_90,code=sm_90)
set(TESSERA_HOPPER_GENCODE -gencode=arch=compute_90a,code=sm_90a)
add_library(tessera_cuda_options INTERFACE)
target_compile_options(tessera_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --compress-mode=size>)
