// Makes the API reference in docs/api/ from the docstrings of what lib/index.ts exports. Warnings are errors.
//   npm run docs
// TypeDoc needs TypeScript's JavaScript API, which the compiler of this project does not have. So the script installs
// both in docs/tools/ on its first run.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const tools = path.join(root, 'docs/tools');

function run(command, args, cwd) {
  const { status } = spawnSync(command, args, { cwd, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(path.join(tools, 'node_modules/typedoc'))) {
  console.log('docs: installing TypeDoc in docs/tools/ (about 60 MB) ...');
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel', 'error'], tools);
}
run(
  process.execPath,
  [path.join(tools, 'node_modules/typedoc/bin/typedoc'), '--options', path.join(tools, 'typedoc.json')],
  root,
);
