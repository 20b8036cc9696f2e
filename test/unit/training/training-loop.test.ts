import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { Tensor } from 'bidiseg';
import { ImageDataset } from '../../../lib/data/dataset.js';
import { writeImage } from '../../../lib/data/image-codec.js';
import { type Batch, BatchLoader } from '../../../lib/data/loader.js';
import type { UploadedBatchHandle } from '../../../lib/native/binding-types.js';
import { NonFiniteLossError } from '../../../lib/support/errors.js';
import type { NonFiniteOptions } from '../../../lib/training/loop-options.js';
import { type TrainingEvent, type TrainingState, trainingLoop } from '../../../lib/training/training-loop.js';

const STEPS = 7;

describe('the training loop', () => {
  let folder: string;
  let dataset: ImageDataset;

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'bidiseg-training-loop-'));
    for (const name of ['a', 'b', 'c']) {
      await writeImage(path.join(folder, `${name}.png`), { data: new Uint8Array(12), width: 2, height: 2 });
    }
    dataset = await ImageDataset.fromFolder({ images: folder });
  });

  after(() => rm(folder, { recursive: true }));

  /** Record of the steps' inputs, the saved states and the events. */
  interface Protocol {
    ran: string[];
    saved: TrainingState[];
    told: string[];
    /** Values of the only weight at each save. Every step adds 1 to it. */
    weights: number[];
  }

  /** Creates a loop whose only weight counts the applied steps. */
  function loop(
    protocol: Protocol,
    options: {
      fails?: (step: number) => Error | undefined;
      nonFinite?: NonFiniteOptions;
      state?: TrainingState | null;
      every?: number;
      save?: (state: TrainingState) => Promise<void>;
      upload?: (batch: Batch) => UploadedBatchHandle;
      /** Pause that a step waits for. */
      pause?: (step: number) => Promise<void>;
    } = {},
  ) {
    let weight = 0;
    return trainingLoop({
      stage: 'stage',
      steps: STEPS,
      step: {
        state: async () => new Map([['weight', Tensor.from(Float32Array.of(weight))]]),
        async loadState(state) {
          weight = await state.get('weight')!.item();
        },
      },
      loaders: (firstStep) => [
        new BatchLoader(dataset, {
          ...{ batchSize: 2, size: { width: 2, height: 2 }, seed: 1, stage: 'stage' },
          ...{ firstStep, steps: STEPS },
        }),
      ],
      learningRate: () => 1,
      async run([batch], step) {
        await options.pause?.(step);
        const failure = options.fails?.(step);
        if (failure) throw failure;
        protocol.ran.push(`${step} ${(batch as Batch).names}`);
        weight++;
        return { total: step };
      },
      upload: options.upload,
      nonFinite: options.nonFinite ?? { policy: 'stop', limit: 10 },
      checkpoints: {
        every: options.every ?? 3,
        state: options.state ?? null,
        async save(state) {
          await options.save?.(state);
          protocol.weights.push(await state.tensors.get('weight')!.item());
          protocol.saved.push(state);
        },
      },
    });
  }

  async function follow(
    events: AsyncGenerator<TrainingEvent<{ total: number }>, unknown>,
    { told }: Protocol,
  ): Promise<void> {
    for await (const event of events) {
      told.push(event.type === 'warning' ? event.message : `${event.type} ${event.step}`);
    }
  }

  const newProtocol = (): Protocol => ({ ran: [], saved: [], told: [], weights: [] });
  const notFinite = () => new NonFiniteLossError('The loss is nan');

  describe('with uploads', () => {
    /** Fakes batches on a device and counts them. */
    function uploads(protocol: Protocol) {
      const account = { made: 0, alive: 0, mostAlive: 0, lead: [] as number[] };
      const upload = (batch: Batch) => {
        account.made++;
        account.mostAlive = Math.max(account.mostAlive, ++account.alive);
        account.lead.push(batch.step - protocol.ran.length);
        const dispose = () => {
          account.alive--;
        };
        return { names: batch.names, dispose } as unknown as UploadedBatchHandle;
      };
      // Without uploads in advance no step would end.
      const pause = async (step: number) => {
        while (account.made < Math.min(step + 2, STEPS)) await setTimeout(1);
      };
      return { account, upload, pause };
    }

    it('uploads the batches of a step while the one before it runs, and gives the steps the same ones', async () => {
      const plain = newProtocol();
      await follow(loop(plain), plain);
      const protocol = newProtocol();
      const { account, ...options } = uploads(protocol);
      await follow(loop(protocol, options), protocol);
      assert.deepEqual(protocol, { ...plain, saved: protocol.saved });
      assert.deepEqual(account, { made: STEPS, alive: 0, mostAlive: 2, lead: [0, 1, 1, 1, 1, 1, 1] });
    });

    it('disposes all of them when a step fails, and when the consumer leaves', async () => {
      const protocol = newProtocol();
      const failing = uploads(protocol);
      const fails = (step: number) => (step === 2 ? new Error('no power') : undefined);
      await assert.rejects(follow(loop(protocol, { ...failing, fails }), protocol), /no power/);
      assert.deepEqual([failing.account.made, failing.account.alive], [4, 0]);
      const left = uploads(protocol);
      for await (const _ of loop(protocol, left)) break;
      assert.deepEqual([left.account.made, left.account.alive], [2, 0]);
    });
  });

  it('saves when it is due and after the last step, and disposes what it saved', async () => {
    const protocol = newProtocol();
    await follow(loop(protocol), protocol);
    assert.deepEqual(protocol.told, [
      ...['step 1', 'step 2', 'step 3', 'checkpoint 3', 'step 4', 'step 5', 'step 6', 'checkpoint 6'],
      ...['step 7', 'checkpoint 7'],
    ]);
    assert.deepEqual(protocol.weights, [3, 6, 7]);
    assert(protocol.saved.every(({ tensors }) => tensors.get('weight')!.disposed));
  });

  it('continues from each state with the remaining steps and images', async () => {
    const whole = newProtocol();
    await follow(loop(whole, { every: 1 }), whole);
    for (const { step, computeSeconds, waitSeconds, skipped } of whole.saved) {
      const rest = newProtocol();
      const tensors = new Map([['weight', Tensor.from(Float32Array.of(step))]]);
      const state = { step, computeSeconds, waitSeconds, skipped, tensors };
      await follow(loop(rest, { state, every: 1 }), rest);
      assert.deepEqual(rest.ran, whole.ran.slice(step));
      assert.deepEqual(rest.weights, whole.weights.slice(step));
      assert(tensors.get('weight')!.disposed);
      assert(step === STEPS || rest.saved.at(-1)!.computeSeconds > computeSeconds);
    }
  });

  it('saves the state before the step that an error ends', async () => {
    const protocol = newProtocol();
    const failure = new Error('the disk is gone');
    const events = loop(protocol, { fails: (step) => (step === 4 ? failure : undefined) });
    await assert.rejects(follow(events, protocol), (error) => error === failure);
    assert.deepEqual(protocol.told.slice(-2), ['step 4', 'checkpoint 4']);
    assert.deepEqual(protocol.weights, [3, 4]);
  });

  it('does not save twice what is saved', async () => {
    const protocol = newProtocol();
    const fails = (step: number) => (step === 3 ? new Error('no') : undefined);
    await assert.rejects(follow(loop(protocol, { fails }), protocol), /^Error: no$/);
    assert.deepEqual(protocol.weights, [3]);
  });

  it('saves when the consumer leaves', async () => {
    const protocol = newProtocol();
    for await (const event of loop(protocol)) if (event.type === 'step' && event.step === 5) break;
    assert.deepEqual(protocol.weights, [3, 5]);
  });

  it('ends with the first error, and warns of a state that cannot be saved', async () => {
    const protocol = newProtocol();
    const fails = (step: number) => (step === 2 ? new Error('first') : undefined);
    const save = () => Promise.reject(new Error('second'));
    await assert.rejects(follow(loop(protocol, { fails, save }), protocol), /first/);
    assert.equal(protocol.told.at(-1), 'the state after step 2 is not saved: second');
  });

  it('ends when a state that is due cannot be saved, after one attempt', async () => {
    const protocol = newProtocol();
    let attempts = 0;
    const save = () => Promise.reject(new Error(`attempt ${++attempts}`));
    await assert.rejects(follow(loop(protocol, { save }), protocol), /attempt 1/);
    assert.equal(protocol.told.at(-1), 'step 3');
    assert.equal(attempts, 1);
  });

  it('stops at a loss that is not finite, naming stage, step and images', async () => {
    const protocol = newProtocol();
    const fails = (step: number) => (step === 1 ? notFinite() : undefined);
    await assert.rejects(follow(loop(protocol, { fails }), protocol), (error: Error) => {
      assert(error instanceof NonFiniteLossError);
      assert.match(error.message, /^Stage stage, step 2, images [abc], [abc]: The loss is nan$/);
      return true;
    });
    assert.deepEqual(protocol.weights, [1]);
  });

  it('skips such steps if the policy allows it, and continues with the next batch', async () => {
    const whole = newProtocol();
    await follow(loop(whole), whole);
    const protocol = newProtocol();
    const bad = [0, 2, 3, 6];
    const nonFinite = { policy: 'skip', limit: 2 } as const;
    await follow(
      loop(protocol, { nonFinite, fails: (step) => (bad.includes(step) ? notFinite() : undefined) }),
      protocol,
    );
    assert.deepEqual(
      protocol.ran,
      whole.ran.filter((_, step) => !bad.includes(step)),
    );
    const warnings = protocol.told.filter((line) => line.includes('nan'));
    assert.deepEqual(
      warnings.map((line) => Number(/step (\d)/.exec(line)![1]) - 1),
      bad,
    );
    assert.deepEqual(
      protocol.saved.map(({ step, skipped }) => [step, skipped]),
      [
        [3, 1],
        [6, 0],
        [7, 1],
      ],
    );
    assert.deepEqual(protocol.weights, [1, 3, 3]);
  });

  it('skips no more of them in a row than the limit, across an interruption too', async () => {
    const nonFinite = { policy: 'skip', limit: 2 } as const;
    const fails = (step: number) => (step >= 2 ? notFinite() : undefined);
    const protocol = newProtocol();
    const limit = /^Stage stage, step 5, .*\. It is number 3 in a row, and nonFinite\.limit allows 2$/;
    await assert.rejects(follow(loop(protocol, { nonFinite, fails }), protocol), { message: limit });
    // The state was saved after steps 3, the first skipped one, and 4.
    const tensors = new Map([['weight', Tensor.from(Float32Array.of(2))]]);
    const state = { ...protocol.saved[0]!, tensors };
    const rest = newProtocol();
    await assert.rejects(follow(loop(rest, { nonFinite, fails, state }), rest), { message: limit });
    assert.deepEqual(rest.ran, []);
  });

  it('lets other errors pass, whatever the policy', async () => {
    const nonFinite = { policy: 'skip', limit: 2 } as const;
    const protocol = newProtocol();
    const events = loop(protocol, { nonFinite, fails: () => new TypeError('other') });
    await assert.rejects(follow(events, protocol), /other/);
  });
});
