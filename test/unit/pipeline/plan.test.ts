import assert from 'node:assert/strict';
import { createConfig } from '../../../lib/config/load.js';
import type { LoopOptions } from '../../../lib/config/schema.js';
import { planStages, selectStage, stageInputs, stageSteps } from '../../../lib/pipeline/plan.js';
import { InvalidArgumentError } from '../../../lib/support/errors.js';

const loop = (
  rounds: number,
  selfTrainingRounds: number,
  selfTrainingRoundsLast: number | null = null,
  translation: LoopOptions['translation'] = 'learned',
  startFrom: LoopOptions['startFrom'] = 'initial',
) => ({
  rounds,
  translation,
  selfTrainingRounds,
  selfTrainingRoundsLast,
  startFrom,
});

describe('the plan of Algorithm 1', () => {
  it('K = 2, N = 2: the headline run, in the order of the text', () => {
    const plan = planStages(loop(2, 2));
    const round = (k: number) => [
      `F(${k})`,
      `S′(${k})`,
      `M0(${k})`,
      `Ŷ1(${k})`,
      `M1(${k})`,
      `Ŷ2(${k})`,
      `M2(${k})`,
    ];
    assert.deepEqual(
      plan.map(({ label }) => label),
      ['M(0)', ...round(1), ...round(2)],
    );
    assert.equal(plan.at(-1)!.name, 'round-2/segmenter-2');
    assert.equal(new Set(plan.map(({ name }) => name)).size, plan.length);
  });

  it('starts from the initial weights, or from the segmenter before it in the loop', () => {
    const starts = (startFrom: LoopOptions['startFrom']) =>
      planStages(loop(2, 2, null, 'none', startFrom)).flatMap((stage) =>
        stage.kind === 'segmenter' ? [stage.startsFrom] : [],
      );
    assert.deepEqual(starts('initial'), Array(6).fill(undefined));
    const round = (k: number) => [0, 1, 2].map((i) => `round-${k}/segmenter-${i}`);
    assert.deepEqual(starts('previous'), [undefined, ...round(1), ...round(2).slice(0, 2)]);
    const plan = planStages(loop(1, 1, null, 'none', 'previous'));
    assert.deepEqual(stageInputs(plan.at(-1)!), ['round-1/pseudo-labels-1', 'round-1/segmenter-0']);
    // Runs of earlier versions have stages without the key.
    assert(planStages(loop(2, 1)).every((stage) => !('startsFrom' in stage)));
  });

  it('translators start from random weights, or from those of the round before', () => {
    const translators = (startFrom: LoopOptions['startFrom']) =>
      planStages(loop(3, 0, null, 'learned', startFrom)).filter((stage) => stage.kind === 'translator');
    const starts = (startFrom: LoopOptions['startFrom']) =>
      translators(startFrom).map(({ startsFrom }) => startsFrom);
    assert.deepEqual(starts('initial'), [undefined, undefined, undefined]);
    assert.deepEqual(starts('previous'), [undefined, 'round-1/translator', 'round-2/translator']);
    assert.deepEqual(stageInputs(translators('previous')[1]!), ['round-1/segmenter-0', 'round-1/translator']);
  });

  it('every stage takes its own number of steps, and what continues may take fewer', () => {
    const steps = (startFrom: LoopOptions['startFrom'], set: string[] = []) => {
      const own = [
        'segmentation={sourceOnlySteps: 2, steps: 3, continuedSteps: null, pseudoLabelSteps: 4}',
        'translation={steps: 5, continuedSteps: null}',
      ];
      const config = createConfig({ preset: 'demo', output: 'run' }, { set: [...own, ...set] });
      const stages = planStages(loop(2, 1, null, 'learned', startFrom));
      return stages.map((stage) => `${stage.label} ${stageSteps(stage, config)}`).join(', ');
    };
    const all =
      'M(0) 2, F(1) 5, S′(1) 0, M0(1) 3, Ŷ1(1) 0, M1(1) 4, F(2) 5, S′(2) 0, M0(2) 3, Ŷ1(2) 0, M1(2) 4';
    const fewer = ['segmentation.continuedSteps=6', 'translation.continuedSteps=7'];
    assert.equal(steps('initial', fewer), all);
    assert.equal(steps('previous'), all);
    assert.equal(steps('previous', fewer), all.replace('F(2) 5', 'F(2) 7').replace('M0(2) 3', 'M0(2) 6'));
  });

  it('takes each stage’s inputs from where the text takes them', () => {
    const plan = planStages(loop(2, 2));
    const inputs = Object.fromEntries(
      plan.map((stage) => [stage.label, stageInputs(stage).map((name) => selectStage(plan, name).label)]),
    );
    assert.deepEqual(inputs, {
      'M(0)': [],
      // Perceptual terms from the newest M: M(0) in the first round, the last round's last M afterward.
      'F(1)': ['M(0)'],
      'S′(1)': ['F(1)'],
      'M0(1)': ['S′(1)'],
      // T is labeled with M_{i−1}.
      'Ŷ1(1)': ['M0(1)'],
      'M1(1)': ['S′(1)', 'Ŷ1(1)'],
      'Ŷ2(1)': ['M1(1)'],
      'M2(1)': ['S′(1)', 'Ŷ2(1)'],
      'F(2)': ['M2(1)'],
      'S′(2)': ['F(2)'],
      'M0(2)': ['S′(2)'],
      'Ŷ1(2)': ['M0(2)'],
      'M1(2)': ['S′(2)', 'Ŷ1(2)'],
      'Ŷ2(2)': ['M1(2)'],
      'M2(2)': ['S′(2)', 'Ŷ2(2)'],
    });
  });

  it('never needs a stage that comes later', () => {
    const plan = planStages(loop(3, 2, 1));
    for (const [index, stage] of plan.entries()) {
      const before = plan.slice(0, index).map(({ name }) => name);
      for (const input of stageInputs(stage)) assert(before.includes(input), `${stage.name} needs ${input}`);
    }
  });

  it('K = 0 is the source-only baseline, N = 0 has no pseudo-labels', () => {
    assert.deepEqual(
      planStages(loop(0, 2)).map(({ label }) => label),
      ['M(0)'],
    );
    assert.deepEqual(
      planStages(loop(1, 0)).map(({ label }) => label),
      ['M(0)', 'F(1)', 'S′(1)', 'M0(1)'],
    );
  });

  it('can match histograms instead of training F, or leave source images unchanged', () => {
    const matching = planStages(loop(1, 1, null, 'histogram-matching'));
    assert.deepEqual(
      matching.map((stage) => [stage.label, ...stageInputs(stage)]),
      [
        ['M(0)'],
        ['S′(1)'],
        ['M0(1)', 'round-1/translate'],
        ['Ŷ1(1)', 'round-1/segmenter-0'],
        ['M1(1)', 'round-1/translate', 'round-1/pseudo-labels-1'],
      ],
    );
    const none = planStages(loop(1, 1, null, 'none'));
    assert.deepEqual(
      none.map((stage) => [stage.label, ...stageInputs(stage)]),
      [['M(0)'], ['M0(1)'], ['Ŷ1(1)', 'round-1/segmenter-0'], ['M1(1)', 'round-1/pseudo-labels-1']],
    );
  });

  it('can end with another N', () => {
    const segmenters = planStages(loop(2, 1, 3)).filter(({ kind }) => kind === 'segmenter');
    assert.deepEqual(
      segmenters.map(({ label }) => label),
      ['M0(1)', 'M1(1)', 'M0(2)', 'M1(2)', 'M2(2)', 'M3(2)'],
    );
  });

  it('finds a stage by name, label and kind', () => {
    const plan = planStages(loop(2, 1));
    assert.equal(selectStage(plan, 'round-2/segmenter-1').label, 'M1(2)');
    assert.equal(selectStage(plan, 'F(2)').name, 'round-2/translator');
    assert.equal(selectStage(plan, 'segmenter').name, 'round-1/segmenter-0');
    assert.equal(selectStage(plan, 'source-only').label, 'M(0)');
    assert.throws(
      () => selectStage(plan, 'round-3/translator'),
      (error: Error) =>
        error instanceof InvalidArgumentError && /expected one of source-only, round-1/.test(error.message),
    );
  });
});
