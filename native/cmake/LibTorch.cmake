# Finds LibTorch and defines the imported target `libtorch`, or stops with one message that holds the remedy.
#
# Looked for in this order; the first usable one wins:
#   1. LIBTORCH        a folder with include/ and lib/ (environment or -DLIBTORCH=...)
#   2. PYTHON          a Python interpreter that has torch (environment or -DPYTHON=...)
#   3. python3, python on the PATH, where they have torch
#   4. .libtorch/      the private environment that `npm run setup` makes
#
# We do not use LibTorch's own TorchConfig.cmake: it drags in CUDA toolkit components (cuBLAS, NVRTC, ...) that this
# project never links, and fails where they are missing.

set(BIDISEG_LIBTORCH_MIN 2.11)
set(BIDISEG_LIBTORCH_BELOW 2.14)

# Sets <out> to the torch package folder of a Python interpreter, or to "" where it has none. Torch is not imported:
# that would take seconds.
function(_bidiseg_torch_of_python python out)
  execute_process(
    COMMAND "${python}" -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0)
    set(${out} "${folder}" PARENT_SCOPE)
  else()
    set(${out} "" PARENT_SCOPE)
  endif()
endfunction()

# Sets <reason> to "" where <folder> is a LibTorch we can build against, and to what is wrong with it otherwise.
function(_bidiseg_check_libtorch folder reason version)
  set(${version} "" PARENT_SCOPE)
  set(header "${folder}/include/torch/headeronly/version.h")  # since 2.9; older ones are not supported anyway
  if(NOT EXISTS "${header}")
    set(${reason} "has no include/torch/headeronly/version.h: no LibTorch, or one older than 2.9" PARENT_SCOPE)
    return()
  endif()
  file(STRINGS "${header}" lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" found "${lines}")
  set(${version} "${found}" PARENT_SCOPE)
  if(found VERSION_LESS BIDISEG_LIBTORCH_MIN OR NOT found VERSION_LESS BIDISEG_LIBTORCH_BELOW)
    set(${reason} "is LibTorch ${found}, not >= ${BIDISEG_LIBTORCH_MIN} and < ${BIDISEG_LIBTORCH_BELOW}" PARENT_SCOPE)
    return()
  endif()
  set(${reason} "" PARENT_SCOPE)
endfunction()

set(_remedy "Run `npm run setup`, which makes a private one in .libtorch/ with pip (torch==2.13.0), or set LIBTORCH to a LibTorch folder, or PYTHON to a Python that has torch==2.13.0.")

set(_explicit FALSE)
set(_candidates "")
if(NOT LIBTORCH AND DEFINED ENV{LIBTORCH})
  set(LIBTORCH "$ENV{LIBTORCH}")
endif()
if(NOT PYTHON AND DEFINED ENV{PYTHON})
  set(PYTHON "$ENV{PYTHON}")
endif()
if(LIBTORCH)
  set(_explicit TRUE)
  set(_candidates "LIBTORCH=${LIBTORCH}|${LIBTORCH}")
elseif(PYTHON)
  set(_explicit TRUE)
  _bidiseg_torch_of_python("${PYTHON}" _folder)
  set(_candidates "PYTHON=${PYTHON}|${_folder}")
else()
  foreach(name python3 python)
    find_program(_program_${name} ${name} NO_CACHE)
    if(_program_${name})
      _bidiseg_torch_of_python("${_program_${name}}" _folder)
      if(_folder)
        list(APPEND _candidates "${name} on the PATH|${_folder}")
      endif()
    endif()
  endforeach()
  file(GLOB _private "${CMAKE_SOURCE_DIR}/.libtorch/lib/python3*/site-packages/torch")
  foreach(folder ${_private})
    list(APPEND _candidates "npm run setup|${folder}")
  endforeach()
endif()

set(_rejected "")
set(LIBTORCH_FOLDER "")
foreach(candidate ${_candidates})
  string(REGEX MATCH "^([^|]*)\\|(.*)$" _ "${candidate}")
  set(_origin "${CMAKE_MATCH_1}")
  set(_folder "${CMAKE_MATCH_2}")
  if(NOT _folder)
    set(_reason "has no torch")
  else()
    _bidiseg_check_libtorch("${_folder}" _reason LIBTORCH_VERSION)
  endif()
  if(NOT _reason)
    set(LIBTORCH_FOLDER "${_folder}")
    set(LIBTORCH_ORIGIN "${_origin}")
    break()
  endif()
  string(APPEND _rejected "\n  ${_origin}: ${_folder} ${_reason}")
endforeach()
if(NOT LIBTORCH_FOLDER)
  if(_rejected)
    message(FATAL_ERROR "bidiseg: no usable LibTorch was found. Looked at:${_rejected}\n${_remedy}")
  endif()
  message(FATAL_ERROR "bidiseg: no LibTorch was found: neither LIBTORCH nor PYTHON is set, no python3 on the PATH has torch, and there is no .libtorch/ here. ${_remedy}")
endif()
message(STATUS "bidiseg: LibTorch ${LIBTORCH_VERSION} from ${LIBTORCH_FOLDER} (${LIBTORCH_ORIGIN})")

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
  # --no-as-needed: nothing refers to libtorch_cuda by symbol, yet loading it is what registers the CUDA operators.
  target_link_libraries(libtorch INTERFACE -Wl,--no-as-needed torch_cuda c10_cuda -Wl,--as-needed)
endif()
