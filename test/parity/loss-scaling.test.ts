import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import { SegmentationStep, Segmenter, Tensor } from 'bidiseg';
import { randomBatch, SEGMENTATION } from '../helpers/batches.js';
import { snapshot } from '../helpers/tensor-file.js';
import { useTwin } from '../helpers/twin.js';

const CLASS_COUNT = 5;
const SHAPE = { count: 2, height: 41, width: 57 };
const RESNET18 = {
  backbone: 'resnet18',
  width: 1 / 8,
  classCount: CLASS_COUNT,
  initialization: 'kaiming',
} as const;

describe('loss scaling of gradients that overflow', () => {
  const twin = useTwin();
  const batch = {
    source: randomBatch(SHAPE, 1, CLASS_COUNT),
    target: randomBatch(SHAPE, 6, CLASS_COUNT),
    learningRate: 0,
  };
  /** Creates a step. With the default weight, the batch overflows float32 at a large scale and not at a small one. */
  const create = async (pseudoLabelWeight = 1e35) => {
    using segmenter = await Segmenter.create(RESNET18);
    return SegmentationStep.create(segmenter, null, {
      ...SEGMENTATION,
      pseudoLabelWeight,
      lossScaling: true,
    });
  };
  const withScale = async (step: SegmentationStep, scale: number, counts: Record<string, bigint> = {}) => {
    const state = new Map(await step.state());
    state.set('loss_scaler.scale', Tensor.from(Float64Array.of(scale), []));
    for (const [name, count] of Object.entries(counts)) {
      state.set(`loss_scaler.${name}`, Tensor.from(BigInt64Array.of(count), []));
    }
    await step.loadState(state);
    for (const tensor of state.values()) tensor.dispose();
  };

  it('an overflowing step changes only the scale, and returns its losses', async () => {
    using step = await create();
    const before = await snapshot(step);
    const losses = await step.run(batch);
    const after = await snapshot(step);
    assert(losses.segmentation > 0 && losses.pseudoLabel > 0 && Number.isFinite(losses.total));
    const changed = [...after].filter(([name, data]) => !isDeepStrictEqual(data, before.get(name)));
    assert.deepEqual(
      new Map(changed),
      new Map<string, unknown>([
        ['loss_scaler.scale', Float64Array.of(32768)],
        ['loss_scaler.overflows', BigInt64Array.of(1n)],
      ]),
    );
  });

  it('the scale is part of the state: a step that continues from it does the same', async () => {
    using one = await create();
    using other = await create();
    await one.run(batch);
    await one.run(batch);
    const state = await one.state();
    await other.loadState(state);
    for (const tensor of state.values()) tensor.dispose();
    for (let i = 0; i < 20; i++) {
      await one.run(batch);
      await other.run(batch);
    }
    const found = await snapshot(one);
    assert.deepEqual(await snapshot(other), found);
    assert(Number(found.get('loss_scaler.good_steps')![0]) > 0, 'nothing was learned');
  });

  it('a scale that is at 1 already, or many in a row, is an error, and so is a loss that is not finite', async () => {
    using step = await create();
    const isError = (failing: SegmentationStep, message: RegExp) =>
      assert.rejects(failing.run(batch), { code: 'ERR_NON_FINITE_LOSS', message });
    const gradient =
      /^The gradient of the segmenter's \S+ has values that are NaN or infinite; the step was not applied$/;
    await withScale(step, 2 ** 100, { overflows: 20n });
    await isError(step, gradient);
    await withScale(step, 2 ** 100, { overflows: 19n });
    await step.run(batch);
    await isError(step, gradient);
    assert.deepEqual((await snapshot(step)).get('loss_scaler.scale'), Float64Array.of(2 ** 99));

    using steep = await create(1e39);
    await withScale(steep, 1);
    await isError(steep, gradient);

    using spoiled = await create();
    const state = new Map(await spoiled.state());
    const [name, weight] = [...state].find(([each]) => each.startsWith('segmenter.conv1'))!;
    const { length } = await weight.data();
    const { shape } = weight;
    weight.dispose();
    state.set(name, Tensor.from(new Float32Array(length).fill(Number.NaN), shape));
    await spoiled.loadState(state);
    for (const tensor of state.values()) tensor.dispose();
    await isError(spoiled, /^The segmentation loss is -?nan; the step was not applied$/);
  });

  it('goes up and down as torch.amp.GradScaler does', async () => {
    using step = await create();
    const events: { goodSteps?: number; finite: boolean; scale: number }[] = [];
    const run = async (goodSteps?: number) => {
      if (goodSteps !== undefined) {
        const scale = Number((await snapshot(step)).get('loss_scaler.scale')![0]);
        await withScale(step, scale, { good_steps: BigInt(goodSteps) });
      }
      const before = await snapshot(step);
      await step.run(batch);
      const after = await snapshot(step);
      const momentum = [...after.keys()].filter((name) => name.includes('momentum_buffer'));
      const finite = momentum.some((name) => !isDeepStrictEqual(after.get(name), before.get(name)));
      const scale = Number(after.get('loss_scaler.scale')![0]);
      events.push({ ...(goodSteps !== undefined && { goodSteps }), finite, scale });
      return finite;
    };
    // The scale falls until gradients fit, rises after 2000 good steps, falls again, and passes another 2000 steps.
    while (!(await run())) assert(events.length < 17);
    assert(events.length > 1, 'no step overflowed');
    for (const goodSteps of [1998, undefined, undefined, undefined, 1999, undefined, 1500, undefined])
      await run(goodSteps);
    const scales = await twin().ask<number[]>({ do: 'gradScaler', events });
    assert.deepEqual(
      events.map(({ scale }) => scale),
      scales,
    );
    const turns = scales.slice(1).map((scale, i) => Math.sign(scale - scales[i]!));
    assert(
      turns.includes(1) && turns.lastIndexOf(-1) > turns.indexOf(1),
      `scales ${scales} did not go up and down`,
    );
  });
});
