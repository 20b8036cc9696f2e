// Removes the products of a build: dist/, build/ and docs/api/. LibTorch (.libtorch/), npm packages and runs stay.
import { rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
for (const folder of ['dist', 'build', 'docs/api']) {
  rmSync(path.join(root, folder), { recursive: true, force: true });
  console.log(`removed ${folder}/`);
}
