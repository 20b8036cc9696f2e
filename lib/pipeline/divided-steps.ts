import type { Config } from '../config/schema.js';
import { requireDivided } from '../training/processes.js';
import { planStages } from './plan.js';

/**
 * Checks that so many processes can divide the steps of every stage of the plan. It needs no addon.
 *
 * @throws InvalidArgumentError with the numbers of processes that can
 */
export function requireDividedSteps({ loop, segmentation, translation }: Config, processes: number): void {
  requireDivided('segmentation.accumulation', segmentation.accumulation, processes);
  if (planStages(loop).every(({ kind }) => kind !== 'translator')) return;
  requireDivided('translation.batchSize', translation.batchSize, processes);
}
