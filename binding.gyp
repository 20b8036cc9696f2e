# For tools that only know `node-gyp rebuild`. gyp has no rule for CUDA, and a second description of the build would
# drift, so this one only calls the first: CMakeLists.txt, through cmake-js. It works in build/cmake, out of the way of
# node-gyp's own Makefile in build/.
{
  'targets': [
    {
      'target_name': 'bidiseg',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake-js',
          'message': 'building build/Release/bidiseg.node with cmake-js',
          'inputs': ['<!@(find CMakeLists.txt native -type f)'],
          'outputs': ['<(PRODUCT_DIR)/bidiseg.node'],
          'action': ['node', '<!(node -p "require.resolve(\'cmake-js/bin/cmake-js\')")', 'build', '--out', 'build/cmake'],
        },
      ],
    },
  ],
}
