# Writes build_info.cc, run at every build; configure_file leaves the file alone when nothing changed, so that only a
# new commit compiles anything. Takes SOURCE_DIR, TEMPLATE, OUTPUT and TESSERA_VERSION. The environment's TESSERA_COMMIT
# names the commit of sources without a repository, as an image is built from.
set(TESSERA_GIT_COMMIT unknown)
find_program(GIT git)
if(NOT "$ENV{TESSERA_COMMIT}" STREQUAL "")
  set(TESSERA_GIT_COMMIT $ENV{TESSERA_COMMIT})
elseif(GIT)
  execute_process(COMMAND ${GIT} describe --always --dirty
    WORKING_DIRECTORY ${SOURCE_DIR} OUTPUT_VARIABLE _commit RESULT_VARIABLE _failed
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT _failed)
    set(TESSERA_GIT_COMMIT ${_commit})
  endif()
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
