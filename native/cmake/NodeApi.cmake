# Defines `node_api`: the headers of Node-API and of its C++ wrapper, from node_modules. Nothing is downloaded and the
# Node that runs cmake need not ship its own headers: the addon uses only the stable C interface.
find_program(NODE_PROGRAM node REQUIRED)
foreach(package node-api-headers node-addon-api)
  execute_process(
    COMMAND "${NODE_PROGRAM}" -p "require.resolve('${package}/package.json', {paths: [process.cwd()]})"
    WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}"
    OUTPUT_VARIABLE manifest OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "bidiseg: the npm package ${package} is not installed. Run `npm ci` in ${CMAKE_SOURCE_DIR}.")
  endif()
  get_filename_component(folder "${manifest}" DIRECTORY)
  string(REPLACE "-" "_" name "${package}")
  set(${name}_folder "${folder}")
endforeach()
add_library(node_api INTERFACE IMPORTED)
target_include_directories(node_api SYSTEM INTERFACE "${node_api_headers_folder}/include" "${node_addon_api_folder}")
target_compile_definitions(node_api INTERFACE NAPI_VERSION=9 BUILDING_NODE_EXTENSION NODE_GYP_MODULE_NAME=bidiseg)
