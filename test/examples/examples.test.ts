import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const root = path.join(import.meta.dirname, '..', '..', '..');

describe('examples', () => {
  it('training-loop.mjs runs as it stands', async () => {
    const file = path.join(root, 'examples', 'training-loop.mjs');
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [file, '20']);
    assert.match(stdout, /^step 20: loss \d+\.\d+$/m);
    assert.match(stdout, /^mIoU on images it was trained on: \d+\.\d %$/m);
    assert.equal(stderr, '');
  });
});
