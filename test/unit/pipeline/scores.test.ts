import assert from 'node:assert/strict';
import type { SegmenterScores } from '../../../lib/pipeline/events.js';
import { planStages } from '../../../lib/pipeline/plan.js';
import { labelMaker, lostClasses, segmentersBefore, worseScores } from '../../../lib/pipeline/scores.js';

const LOOP = {
  rounds: 2,
  selfTrainingRounds: 2,
  selfTrainingRoundsLast: null,
  translation: 'learned',
  startFrom: 'initial',
} as const;

describe('scores between rounds', () => {
  it('are compared with the maker of the pseudo-labels, and a whole round with the one before', () => {
    const plan = planStages(LOOP);
    const compared = plan.flatMap((stage) =>
      stage.kind === 'segmenter' || stage.kind === 'source-only'
        ? [`${stage.label}: ${segmentersBefore(stage, plan).map(({ label }) => label)}`]
        : [],
    );
    assert.deepEqual(compared, [
      ...['M(0): ', 'M0(1): ', 'M1(1): M0(1)', 'M2(1): M1(1)'],
      ...['M0(2): ', 'M1(2): M0(2)', 'M2(2): M1(2),M2(1)'],
    ]);
    assert.equal(labelMaker(plan[0]!, plan), null);
  });

  const scores = (changes: Partial<SegmenterScores> = {}): SegmenterScores => ({
    ...{ images: 4, pixels: 100, entropy: 0.2, neighborhoodDensity: 3, viewAgreement: 0.9 },
    ...{ classShares: [0.9, 0.0996, 0.0004], sourceShares: null, classDivergence: null },
    ...{ teacherAgreement: null, sourceMiou: null, ...changes },
  });

  it('are worse if most of them fell by more than half a point', () => {
    const worse = (changes: Partial<SegmenterScores>, before = scores()) =>
      worseScores(before, scores(changes));
    assert.equal(worse({}), null);
    assert.equal(worse({ entropy: 0.1, viewAgreement: 0.95 }), null);
    assert.equal(worse({ entropy: 0.1, viewAgreement: 0.5 }), null, 'one of two');
    assert.equal(worse({ entropy: 0.204, viewAgreement: 0.896 }), null, 'within the tolerance');
    assert.equal(worse({ entropy: 0.3, viewAgreement: 0.8 }), 'entropy % 20.0 → 30.0, views % 90.0 → 80.0');
    const validated = scores({ sourceMiou: 0.5 });
    assert.equal(
      worse({ entropy: 0.1, viewAgreement: 0.8, sourceMiou: 0.4 }, validated),
      'views % 90.0 → 80.0, source mIoU % 50.0 → 40.0',
    );
    assert.equal(worse({ entropy: 0.3, viewAgreement: 0.8, images: 5 }), null, 'other images');
    assert.equal(worse({ neighborhoodDensity: 0, teacherAgreement: 0 }), null);
  });

  it('name classes of which less than a quarter is left, if there was a thousandth', () => {
    const lost = (classShares: number[], changes: Partial<SegmenterScores> = {}) =>
      lostClasses(scores(), scores({ classShares, ...changes }), ['road', 'person', 'pole']);
    assert.equal(lost([0.975, 0.025, 0]), null);
    assert.equal(lost([0.98, 0.02, 0]), 'person 9.96 → 2.00 %');
    assert.equal(lost([0, 0, 1]), 'road 90.00 → 0.00 %, person 9.96 → 0.00 %');
    assert.equal(lost([0, 0, 1], { images: 5 }), null, 'other images');
    const earlier = { ...scores(), classShares: undefined } as unknown as SegmenterScores;
    assert.equal(lostClasses(earlier, scores(), ['road']), null, 'a run of an earlier version');
  });
});
