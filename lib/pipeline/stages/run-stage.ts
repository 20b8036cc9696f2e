import type { Stage } from '../plan.js';
import { runPseudoLabels } from './pseudo-labels.js';
import { runSegmenter } from './segmenter.js';
import type { StageContext, StageEvent, StageOutcome } from './stage-context.js';
import { runTranslate } from './translate.js';
import { runTranslator } from './translator.js';

/** Runs a stage. Disposes its models at the end, also after an error. */
export function runStage(stage: Stage, context: StageContext): AsyncGenerator<StageEvent, StageOutcome> {
  switch (stage.kind) {
    case 'source-only':
    case 'segmenter':
      return runSegmenter(stage, context);
    case 'translator':
      return runTranslator(stage, context);
    case 'translate':
      return runTranslate(stage, context);
    case 'pseudo-labels':
      return runPseudoLabels(stage, context);
  }
}
