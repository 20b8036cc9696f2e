import type { Stage } from '../plan.js';
import { runPseudoLabels } from './pseudo-labels.js';
import { runSegmenter } from './segmenter.js';
import type { StageContext, StageEvent, StageOutcome } from './stage-context.js';
import { runTranslate } from './translate.js';
import { runTranslator } from './translator.js';

/** Does a stage's work. Whatever ends it, the models it made are disposed. */
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
