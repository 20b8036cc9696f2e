import assert from 'node:assert/strict';
import { launchedProcess } from '../../../lib/native/launcher.js';
import { InvalidArgumentError } from '../../../lib/support/errors.js';

const TORCHRUN = {
  ...{ RANK: '5', WORLD_SIZE: '8', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '4' },
  ...{ MASTER_ADDR: 'node-0', MASTER_PORT: '29500', TORCHELASTIC_RUN_ID: 'abc' },
  ...{ TORCHELASTIC_RESTART_COUNT: '2', TORCHELASTIC_USE_AGENT_STORE: 'True' },
};
const SLURM = {
  ...{ SLURM_PROCID: '3', SLURM_NTASKS: '4', SLURM_LOCALID: '1', SLURM_TASKS_PER_NODE: '2(x2)' },
  ...{ SLURM_JOB_ID: '77', SLURM_STEP_ID: '0', MASTER_ADDR: 'node-0', MASTER_PORT: '29500' },
};

describe('the environment of launchers', () => {
  it('is read from torchrun', () => {
    assert.deepEqual(launchedProcess(TORCHRUN), {
      ...{ launcher: 'torchrun', rank: 5, size: 8, localRank: 1, localSize: 4 },
      ...{ host: 'node-0', port: 29500, launcherHostsStore: true, name: 'abc/2', file: null, restarts: 2 },
    });
  });

  it('is read from Slurm', () => {
    assert.deepEqual(launchedProcess(SLURM), {
      ...{ launcher: 'slurm', rank: 3, size: 4, localRank: 1, localSize: 2 },
      ...{ host: 'node-0', port: 29500, launcherHostsStore: false, name: '77/0/0', file: null, restarts: 0 },
    });
  });

  it('is read from bidiseg itself', () => {
    const { MASTER_ADDR: _, ...place } = TORCHRUN;
    const found = launchedProcess({ ...place, BIDISEG_MEETING_FILE: '/tmp/meeting' });
    assert.equal(found?.launcher, 'bidiseg');
    assert.equal(found?.file, '/tmp/meeting');
  });

  it('is none for a process on its own', () => {
    assert.equal(launchedProcess({}), null);
    assert.equal(launchedProcess({ ...SLURM, SLURM_NTASKS: '1' }), null);
    // A batch script, outside of srun.
    assert.equal(launchedProcess({ ...SLURM, SLURM_STEP_ID: undefined }), null);
  });

  it('is an error when a variable is missing or odd, which it names', () => {
    const { MASTER_ADDR: _, ...rest } = SLURM;
    assert.throws(() => launchedProcess(rest), /MASTER_ADDR/);
    assert.throws(() => launchedProcess({ ...TORCHRUN, LOCAL_RANK: 'x' }), InvalidArgumentError);
    assert.throws(
      () => launchedProcess({ ...TORCHRUN, MASTER_PORT: undefined }),
      /MASTER_PORT but found null/,
    );
  });
});
