# Finds LibTorch and defines the imported target `libtorch`, or stops with a message that tells the remedy.
#
# Places, in this order. The first usable one is taken. The first two, if given, must have the right version:
#   1. LIBTORCH        a folder with include/ and lib/ (environment or -DLIBTORCH=...)
#   2. PYTHON          a Python interpreter, if it has torch (environment or -DPYTHON=...)
#   3. python3, python on the PATH, if they have torch
#   4. .libtorch/      the private environment that `npm run setup` makes, or the folder BIDISEG_PRIVATE_LIBTORCH that
#                      `bidiseg setup` names
#
# With BIDISEG_NEEDS_CUDA only CUDA builds are usable.
#
# Only this file knows the order and the versions. scripts/setup.mjs runs it as `cmake -P native/cmake/LibTorch.cmake`, which
# prints the result as lines `-- LIBTORCH_NAME=value`.
#
# LibTorch's own TorchConfig.cmake is not used: it requires CUDA toolkit components (cuBLAS, NVRTC, ...) that this project does
# not link.

cmake_policy(VERSION 3.20)
set(_from 2.11)
set(_below 2.14)
get_filename_component(_root "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)

# Sets <out> to the torch package folder of a Python interpreter, or to "" if it has none. Torch is not imported, which would
# take seconds.
function(_torch_of_python python out)
  execute_process(
    COMMAND "${python}" -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    set(folder "")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

# Sets <version> to the version of the LibTorch in <folder>, and <reason> to why it cannot be used, or to "".
function(_check_libtorch folder version reason)
  set(${reason} "" PARENT_SCOPE)
  set(found "")
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)  # since 2.9, and before
    if(EXISTS "${folder}/include/${header}")
      file(STRINGS "${folder}/include/${header}" lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      if("${lines}" MATCHES "MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+)")
        set(found "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3}")
        break()
      endif()
    endif()
  endforeach()
  if(NOT found)
    set(${reason} "holds no LibTorch (no include/torch/headeronly/version.h)" PARENT_SCOPE)
  elseif(found VERSION_LESS _from OR NOT found VERSION_LESS _below)
    set(${reason} "is LibTorch ${found}, but bidiseg needs >= ${_from} and < ${_below}" PARENT_SCOPE)
  elseif(NOT EXISTS "${folder}/lib/libtorch_cpu.so")
    set(${reason} "has the headers of LibTorch ${found} but no lib/libtorch_cpu.so" PARENT_SCOPE)
  elseif(BIDISEG_NEEDS_CUDA AND NOT EXISTS "${folder}/lib/libtorch_cuda.so")
    set(${reason} "is a CPU build of LibTorch, but a CUDA build is wanted" PARENT_SCOPE)
  endif()
  set(${version} "${found}" PARENT_SCOPE)
endfunction()

foreach(name LIBTORCH PYTHON)
  if(NOT ${name} AND DEFINED ENV{${name}})
    set(${name} "$ENV{${name}}")
  endif()
endforeach()

# Candidates as "origin|folder".
set(LIBTORCH_EXPLICIT TRUE)
set(LIBTORCH_REJECTED "")
set(_folder "")
if(LIBTORCH)
  get_filename_component(_folder "${LIBTORCH}" ABSOLUTE BASE_DIR "${_root}")
  set(_candidates "LIBTORCH|${_folder}")
elseif(PYTHON)
  _torch_of_python("${PYTHON}" _folder)
  set(_candidates "PYTHON=${PYTHON}|${_folder}")
  if(NOT _folder)  # not an error, because node-gyp sets PYTHON too, to any Python
    set(LIBTORCH_REJECTED " PYTHON=${PYTHON} does not run, or has no torch.")
  endif()
endif()
if(NOT _folder)
  set(LIBTORCH_EXPLICIT FALSE)
  set(_candidates "")
  foreach(name python3 python)
    unset(_program)
    find_program(_program ${name} NO_CACHE)
    if(_program)
      _torch_of_python("${_program}" _folder)
      if(_folder)
        list(APPEND _candidates "${name} on the PATH|${_folder}")
      endif()
    endif()
  endforeach()
  set(_made "${_root}/.libtorch")
  if(BIDISEG_PRIVATE_LIBTORCH)
    set(_made "${BIDISEG_PRIVATE_LIBTORCH}")
  endif()
  get_filename_component(_name "${_made}" NAME)
  file(GLOB _private "${_made}/lib/python3*/site-packages/torch")
  foreach(_folder ${_private})
    list(APPEND _candidates "${_name}|${_folder}")
  endforeach()
endif()

set(LIBTORCH_FOLDER "")
foreach(candidate ${_candidates})
  string(REGEX MATCH "^([^|]*)\\|(.*)$" _ "${candidate}")
  set(LIBTORCH_ORIGIN "${CMAKE_MATCH_1}")
  set(_folder "${CMAKE_MATCH_2}")
  _check_libtorch("${_folder}" LIBTORCH_VERSION _reason)
  if(NOT _reason)
    set(LIBTORCH_FOLDER "${_folder}")
    break()
  endif()
  string(APPEND LIBTORCH_REJECTED " ${LIBTORCH_ORIGIN} (${_folder}) ${_reason}.")
endforeach()

if(CMAKE_SCRIPT_MODE_FILE)
  foreach(name FOLDER VERSION ORIGIN EXPLICIT REJECTED)
    message(STATUS "LIBTORCH_${name}=${LIBTORCH_${name}}")
  endforeach()
  return()
endif()

if(NOT LIBTORCH_FOLDER)
  message(FATAL_ERROR "bidiseg: no usable LibTorch was found.${LIBTORCH_REJECTED} Run `npm run setup`, which makes a private one in .libtorch/ with pip, or set LIBTORCH to a LibTorch folder, or PYTHON to a Python that has torch (>= ${_from}, < ${_below}).")
endif()
message(STATUS "bidiseg: LibTorch ${LIBTORCH_VERSION} from ${LIBTORCH_FOLDER} (${LIBTORCH_ORIGIN})")
# The LibTorch of this build tree. scripts/setup.mjs configures again if it finds another one.
set(BIDISEG_LIBTORCH "${LIBTORCH_FOLDER}" CACHE INTERNAL "")

set(LIBTORCH_HAS_CUDA FALSE)
if(EXISTS "${LIBTORCH_FOLDER}/lib/libtorch_cuda.so")
  set(LIBTORCH_HAS_CUDA TRUE)
endif()

add_library(libtorch INTERFACE IMPORTED)
target_include_directories(libtorch SYSTEM INTERFACE
  "${LIBTORCH_FOLDER}/include" "${LIBTORCH_FOLDER}/include/torch/csrc/api/include")
target_link_directories(libtorch INTERFACE "${LIBTORCH_FOLDER}/lib")
target_link_libraries(libtorch INTERFACE torch torch_cpu c10)
if(LIBTORCH_HAS_CUDA)
  # --no-as-needed: no symbol refers to libtorch_cuda, but loading it registers the CUDA operators.
  target_link_libraries(libtorch INTERFACE
    "-Wl,--push-state,--no-as-needed,-ltorch_cuda,-lc10_cuda,--pop-state")
endif()

# Sets <out> to the entry of a runtime path from <from> to <folder>. It is relative for folders in the checkout, so that the
# checkout can move.
function(bidiseg_rpath from folder out)
  file(RELATIVE_PATH inside "${CMAKE_SOURCE_DIR}" "${folder}")
  if(inside MATCHES "^\\.\\./" OR IS_ABSOLUTE "${inside}")
    set(${out} "${folder}" PARENT_SCOPE)
  else()
    file(RELATIVE_PATH relative "${from}" "${folder}")
    set(${out} "$ORIGIN/${relative}" PARENT_SCOPE)
  endif()
endfunction()
