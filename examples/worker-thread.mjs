// Segments images in a worker thread, so that decoding and drawing leave the main thread alone too. Each worker has its
// own compute thread, and all share the cores.
//   node worker-thread.mjs WEIGHTS IMAGE...
import { readFile } from 'node:fs/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { classesOf, Segmenter, segment } from 'bidiseg';

if (isMainThread) await main(process.argv[2], process.argv.slice(3));
else await work(workerData);

async function main(weights, files) {
  const worker = new Worker(new URL(import.meta.url), { workerData: weights });
  const waiting = new Map();
  worker.on('message', ({ id, ...answer }) => waiting.get(id)(answer));
  const ask = async (file, id) => {
    // A copy of its own, because small files share their memory with others.
    const bytes = new Uint8Array(await readFile(file));
    return new Promise((resolve) => {
      waiting.set(id, resolve);
      worker.postMessage({ id, bytes }, [bytes.buffer]);
    });
  };
  await Promise.all(
    files.map(async (file, id) => {
      const { shares, error } = await ask(file, id);
      console.log(`${file}: ${error ?? shares}`);
    }),
  );
  worker.postMessage('end');
}

async function work(weights) {
  const segmenter = await Segmenter.fromFile(weights);
  parentPort.on('message', async (message) => {
    if (message === 'end') {
      segmenter.dispose();
      parentPort.close();
      return;
    }
    const { id, bytes } = message;
    try {
      const { labels } = await segment(segmenter, bytes);
      parentPort.postMessage({ id, shares: sharesOf(labels, classesOf(segmenter.options).names) });
    } catch ({ message: error }) {
      parentPort.postMessage({ id, error });
    }
  });
}

/** Lists the three most frequent classes with their shares of the pixels. */
function sharesOf(labels, names) {
  const counts = names.map((name, index) => ({
    name,
    count: labels.filter((label) => label === index).length,
  }));
  counts.sort((a, b) => b.count - a.count);
  return counts
    .slice(0, 3)
    .map(({ name, count }) => `${name} ${((100 * count) / labels.length).toFixed(1)} %`)
    .join(', ');
}
