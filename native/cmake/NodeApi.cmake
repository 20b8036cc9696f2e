# Defines `node_api`: the headers of Node-API and of its C++ wrapper, from node_modules. The addon uses only the stable C
# interface, so that it needs no headers of a particular Node.
foreach(package node-api-headers node-addon-api)
  set(folder "${CMAKE_SOURCE_DIR}/node_modules/${package}")
  if(NOT EXISTS "${folder}/package.json")
    # If bidiseg is a dependency, npm may have installed them in a folder further up.
    execute_process(
      COMMAND node -p "path.dirname(require.resolve('${package}/package.json'))"
      WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}"
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "bidiseg: the npm package ${package} is not installed. Run `npm ci` in ${CMAKE_SOURCE_DIR}.")
    endif()
  endif()
  string(REPLACE "-" "_" name "${package}")
  set(${name}_folder "${folder}")
endforeach()
add_library(node_api INTERFACE IMPORTED)
target_include_directories(node_api SYSTEM INTERFACE "${node_api_headers_folder}/include" "${node_addon_api_folder}")
target_compile_definitions(node_api INTERFACE NAPI_VERSION=9 BUILDING_NODE_EXTENSION NODE_GYP_MODULE_NAME=bidiseg)
