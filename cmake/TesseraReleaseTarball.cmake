# Makes the release tarball out of a finished build: installs, adds the shared libraries and their licences, checks what
# it made, and packs. Takes NAME (the folder inside), CONFIG (the build type), SOURCE_DIR, BUILD_DIR, TARBALL, OPENBLAS
# (the library's path, or a false value) and CUDA_LICENSE (its path; NOTFOUND when it was not found; empty without CUDA).
#
# The programs carry DT_RPATH $ORIGIN/../lib (TesseraInstall.cmake). DT_RPATH, unlike DT_RUNPATH, also serves libraries
# that have neither, and whatever those open at run time. So the distribution's libraries go in as they are, and an
# LD_LIBRARY_PATH meant for other programs does not replace them.
cmake_minimum_required(VERSION 3.25)

# What the target machine brings: glibc, and the driver's part of CUDA.
set(host_libraries
  "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|util|anl|mvec)\\.so" "^libnss_" "^lib(cuda|nvidia-ml)\\.so")
set(max_mib 60)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# --- The programs, headers, CMake package, protos, Python client.
set(staging ${BUILD_DIR}/release-tarball)
set(root ${staging}/${NAME})
file(REMOVE_RECURSE ${staging})
foreach(component runtime checks sdk python)
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD_DIR} --component ${component} --prefix ${root} --strip
    OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
endforeach()
file(GLOB programs ${root}/bin/*)
if(NOT programs)
  message(FATAL_ERROR "release_tarball: nothing was installed into ${root}/bin")
endif()

# --- Shared libraries: what the programs name, and OpenBLAS, which cpu_unfused opens by name.
if(NOT OPENBLAS)
  message(FATAL_ERROR "release_tarball: libopenblas.so.0 is not installed (Debian: libopenblas0-pthread)")
endif()
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${programs} LIBRARIES ${OPENBLAS}
  RESOLVED_DEPENDENCIES_VAR libraries UNRESOLVED_DEPENDENCIES_VAR missing CONFLICTING_DEPENDENCIES_PREFIX conflict
  PRE_EXCLUDE_REGEXES ${host_libraries})
if(missing)
  message(FATAL_ERROR "release_tarball: these shared libraries are needed and not found: ${missing}")
endif()
foreach(name IN LISTS conflict_FILENAMES)
  message(FATAL_ERROR "release_tarball: ${name} is found in several places: ${conflict_${name}}")
endforeach()
list(APPEND libraries ${OPENBLAS})
list(REMOVE_DUPLICATES libraries)
list(SORT libraries)
foreach(library IN LISTS libraries)
  # Under the name that programs ask for, whatever chain of links it hangs on.
  get_filename_component(name ${library} NAME)
  file(REAL_PATH ${library} file)
  configure_file(${file} ${root}/lib/${name} COPYONLY)
endforeach()

# --- Licences of all that is not ours: the libraries, and what is compiled into the programs.
set(licenses ${root}/share/doc/tessera/licenses)
# The package that owns `file`; dpkg may know it by its path before /usr was merged.
function(package_of file result)
  string(REGEX REPLACE "^/usr/lib/" "/lib/" before_merge ${file})
  foreach(path ${file} ${before_merge})
    execute_process(COMMAND dpkg-query --search ${path}
      OUTPUT_VARIABLE found RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT failed AND found MATCHES "^([^:, ]+)")
      set(${result} ${CMAKE_MATCH_1} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "release_tarball: no package owns ${file}, so its licence is unknown")
endfunction()

set(packages nlohmann-json3-dev)
foreach(library IN LISTS libraries)
  file(REAL_PATH ${library} file)
  package_of(${file} package)
  list(APPEND packages ${package})
endforeach()
list(REMOVE_DUPLICATES packages)
list(SORT packages)
set(versions "")
foreach(package IN LISTS packages)
  file(REAL_PATH /usr/share/doc/${package}/copyright copyright)
  if(NOT EXISTS ${copyright})
    message(FATAL_ERROR "release_tarball: ${package} has no /usr/share/doc/${package}/copyright")
  endif()
  configure_file(${copyright} ${licenses}/${package}.txt COPYONLY)
  execute_process(COMMAND dpkg-query --show --showformat=\${source:Package}\ \${source:Version} ${package}
    OUTPUT_VARIABLE source COMMAND_ERROR_IS_FATAL ANY)
  string(APPEND versions "${package}: from Debian source package ${source}\n")
endforeach()
if(CUDA_LICENSE STREQUAL "NOTFOUND")
  message(FATAL_ERROR "release_tarball: the CUDA toolkit's licence (EULA.txt) is not found, and its runtime is linked")
elseif(CUDA_LICENSE)
  configure_file(${CUDA_LICENSE} ${licenses}/cuda-runtime.txt COPYONLY)
  string(APPEND versions "cuda-runtime: NVIDIA's CUDA runtime, linked statically\n")
endif()
file(WRITE ${licenses}/packages.txt ${versions})

# --- Nothing of the machine that built it. Other configurations keep its paths in assertions.
if(CONFIG STREQUAL "Release")
  execute_process(
    COMMAND grep --recursive --fixed-strings --files-with-matches -e ${SOURCE_DIR}/ -e ${BUILD_DIR}/ ${root}
    OUTPUT_VARIABLE guilty OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(guilty)
    message(FATAL_ERROR "release_tarball: these files contain ${SOURCE_DIR}/ or ${BUILD_DIR}/:\n${guilty}")
  endif()
endif()

# --- Packed so that the same build gives the same bytes.
if(DEFINED ENV{SOURCE_DATE_EPOCH})
  set(time $ENV{SOURCE_DATE_EPOCH})
else()
  execute_process(COMMAND git -C ${SOURCE_DIR} log -1 --format=%ct
    OUTPUT_VARIABLE time OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT time MATCHES "^[0-9]+$")
  set(time 0)
endif()
set(tar ${staging}/${NAME}.tar)
run(tar --create --file=${tar} --directory=${staging} --format=ustar --sort=name --mtime=@${time}
  --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w,a+X ${NAME})
run(gzip --no-name --best --force ${tar})
file(RENAME ${tar}.gz ${TARBALL})
file(SIZE ${TARBALL} bytes)
math(EXPR tenths "${bytes} * 10 / 1048576")
string(REGEX REPLACE "(.)$" ".\\1" mib 0${tenths})
string(REGEX REPLACE "^0+([0-9])" "\\1" mib ${mib})
list(LENGTH libraries count)
message(STATUS "${TARBALL}: ${mib} MiB, ${count} shared libraries")
math(EXPR max_bytes "${max_mib} * 1048576")
if(bytes GREATER max_bytes)
  message(FATAL_ERROR "release_tarball: ${mib} MiB; at most ${max_mib} are wanted")
endif()
