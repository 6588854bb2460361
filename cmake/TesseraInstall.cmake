# What `cmake --install` puts where. Component `sdk`: what it takes to build a plugin or a client out of tree;
# component `runtime`: the programs; `checks`: the programs that judge an installation; `python`: the Python client.
include(CMakePackageConfigHelpers)

set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tessera)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/backend/include/tessera
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT sdk
  FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/proto/
  DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera/proto COMPONENT sdk
  FILES_MATCHING PATTERN "*.proto")

install(TARGETS tessera_backend_interface EXPORT tesseraTargets COMPONENT sdk)
install(EXPORT tesseraTargets NAMESPACE tessera:: DESTINATION ${_package_dir} COMPONENT sdk)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/tesseraConfig.cmake.in
  ${PROJECT_BINARY_DIR}/tesseraConfig.cmake
  INSTALL_DESTINATION ${_package_dir} NO_SET_AND_CHECK_MACRO)
# 0.x: a minor version may break the ABI.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tesseraConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/tesseraConfig.cmake ${PROJECT_BINARY_DIR}/tesseraConfigVersion.cmake
  DESTINATION ${_package_dir} COMPONENT sdk)

# Installed programs look for shared libraries in ../lib first (TesseraReleaseTarball.cmake says why by DT_RPATH). It is
# set when they are linked, so that installing changes nothing in them.
function(tessera_install_program program component)
  if(NOT TARGET ${program})
    return()
  endif()
  set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH ON)
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
  install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${component})
endfunction()

foreach(_program tessera-server tessera)
  tessera_install_program(${_program} runtime)
endforeach()
foreach(_program tessera_conformance cuda_attention_bench cpu_attention_bench tessera-gpu-checks)
  tessera_install_program(${_program} checks)
endforeach()
if(TARGET tessera_kernels_cuda_shared)
  install(TARGETS tessera_kernels_cuda_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT checks)
  install(PROGRAMS
    ${PROJECT_SOURCE_DIR}/tests/benchmark/cuda_peers.py
    ${PROJECT_SOURCE_DIR}/tests/benchmark/cuda_sweep.py
    ${PROJECT_SOURCE_DIR}/tests/benchmark/cuda_traffic.py
    DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera/benchmark COMPONENT checks)
  foreach(_module
      gpu_timing peer_library sampled_reference sweep_cells sweep_cudnn_fp8 sweep_problem sweep_report sweep_run)
    install(FILES ${PROJECT_SOURCE_DIR}/tests/benchmark/${_module}.py
      DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera/benchmark COMPONENT checks)
  endforeach()
endif()

# Where setup.py finds the protos by the same relative path as in the source tree.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/client/python DESTINATION ${CMAKE_INSTALL_DATADIR}/tessera/client COMPONENT python
  PATTERN _proto EXCLUDE PATTERN tests EXCLUDE PATTERN .gitignore EXCLUDE PATTERN build EXCLUDE
  PATTERN __pycache__ EXCLUDE PATTERN "*.egg-info" EXCLUDE PATTERN ".*_cache" EXCLUDE)

foreach(_document LICENSE README.md)
  if(EXISTS ${PROJECT_SOURCE_DIR}/${_document})
    install(FILES ${PROJECT_SOURCE_DIR}/${_document} DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
  endif()
endforeach()
