import { Random } from '../../lib/data/random.js';
import { runFaults } from '../engines/faults/runs.js';
import { Setting } from '../engines/faults/setting.js';

/** Number of tries per fault, for a short version of `npm run test:faults`. */
const TRIES: Record<string, number> = {
  'SIGKILL at a random moment of any stage': 3,
  'SIGINT or SIGTERM while training': 1,
  'a second process on the run folder': 1,
  'disk full (limit on the size of files)': 1,
  'image unreadable from the middle of a stage on': 1,
  'newest checkpoint damaged (a bit, the end, all of it)': 1,
  'loss NaN, policy `skip`': 1,
};

describe('a run survives', () => {
  let setting: Setting;
  // The seed selects stages and moments. It differs each time, and a failing test prints it.
  const seed = Date.now() % 100_000;

  before(async () => {
    setting = await Setting.create('deeplab-v2, Adam, per-class');
  });

  after(() => setting.remove());

  for (const [fault, tries] of Object.entries(TRIES)) {
    it(`${fault} (seed ${seed})`, async () => {
      const { attempt } = runFaults(setting).find((other) => other.fault === fault)!;
      await attempt(tries, new Random(seed, fault), (line) => console.log(`      ${line}`));
    });
  }
});
