import path from 'node:path';
import { BidisegError, DataError } from '../support/errors.js';
import { writeFileAtomically } from '../support/files.js';
import { readRun } from './run-data.js';

/**
 * Writes the report of a run, finished or not. The report is one HTML file that opens without a server or a network.
 *
 * @param folder the run folder
 * @param file path of the report; default `report.html` in the run folder
 * @returns the path of the report
 * @throws ConfigError when the folder holds no run
 * @throws DataError when a file of the run cannot be read, or the report cannot be written
 */
export async function writeReport(folder: string, file = path.join(folder, 'report.html')): Promise<string> {
  // The library for charts takes a third of a second to load, so it is loaded only here.
  const { renderPage } = await import('./page.js');
  const page = await render(folder, async () => renderPage(await readRun(folder)));
  await writeFileAtomically(file, page.text);
  return file;
}

/** Converts any error to a `DataError`. The JSON files of a run folder from elsewhere may have any content. */
async function render<Page>(folder: string, work: () => Promise<Page>): Promise<Page> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof BidisegError) throw error;
    throw new DataError(`${folder}: cannot report this run: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
