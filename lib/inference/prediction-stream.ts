import type { RgbImage } from '../data/image-size.js';
import type { PredictOptions, Segmenter, SegmenterPrediction } from '../models/segmenter.js';
import { onAbort } from '../support/abort.js';
import { checkInteger, checkObject, checkSignal, invalidArgument } from '../support/validate.js';

/** Options of {@link predictStream}. */
export interface PredictStreamOptions
  extends Omit<PredictOptions, 'count' | 'width' | 'height' | 'otherSizes'> {
  /** Number of images read and predicted ahead of the caller, 1–1024. Default 2. */
  ahead?: number;
}

/** Prediction of one image. */
export interface ImagePrediction<Image extends RgbImage = RgbImage> extends SegmenterPrediction {
  /** The object that `images` yielded. */
  image: Image;
  /** Width and height of `labels` and `confidence` in pixels. */
  width: number;
  height: number;
}

/**
 * Segments a stream of images in order, each at its own size. Reading, predicting and the caller's own work overlap. At
 * most `ahead` images are in progress. Leaving the loop ends all work.
 *
 * @throws the error of `images`, after the predictions of the images before it
 */
export async function* predictStream<Image extends RgbImage>(
  predictor: Pick<Segmenter, 'predict'>,
  images: AsyncIterable<Image> | Iterable<Image>,
  options: PredictStreamOptions = {},
): AsyncGenerator<ImagePrediction<Image>, void> {
  const { ahead: given = 2, signal: outer, ...job } = checkObject('options', options);
  const ahead = checkInteger('ahead', given, 1, 1024);
  checkSignal(outer);
  const left = new AbortController();
  const signal = outer ? AbortSignal.any([outer, left.signal]) : left.signal;
  const predict = async (image: Image): Promise<ImagePrediction<Image>> => {
    if (image === null || typeof image !== 'object') throw invalidArgument('images', 'an image', image);
    const { outputWidth = image.width, outputHeight = image.height } = job;
    const { width, height } = image;
    const prediction = await predictor.predict(image.data, { ...job, count: 1, width, height, signal });
    return { ...prediction, image, width: outputWidth, height: outputHeight };
  };

  const source = iteratorOf(images);
  const running: { prediction: Promise<ImagePrediction<Image>>; settled: boolean }[] = [];
  let wake = () => {};
  let reading = false;
  let ended = false;
  let failure: { error: unknown } | undefined;

  const begin = (image: Image) => {
    const entry = { prediction: predict(image), settled: false };
    running.push(entry);
    const settle = () => {
      entry.settled = true;
      wake();
    };
    // A failure is reported when its turn comes.
    entry.prediction.then(settle, settle);
  };
  const read = async () => {
    reading = true;
    try {
      const image = await source.next();
      if (image.done) ended = true;
      else if (!signal.aborted) begin(image.value);
    } catch (error) {
      failure = { error };
      ended = true;
    }
    reading = false;
    wake();
  };
  const removeListener = onAbort(signal, () => wake());
  try {
    // Reading and predicting run at the same time, so that a slow source does not delay finished predictions.
    while (!ended || running.length > 0) {
      signal.throwIfAborted();
      if (!ended && !reading && running.length < ahead) void read();
      if (running[0]?.settled) yield await running.shift()!.prediction;
      else
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    }
    if (failure) throw failure.error;
  } finally {
    removeListener();
    left.abort();
    if (!ended) {
      const closed = Promise.resolve(source.return?.());
      // A source that is still reading may never answer.
      if (reading) closed.catch(() => {});
      else await closed;
    }
    await Promise.allSettled(running.map(({ prediction }) => prediction));
  }
}

function iteratorOf<Image>(images: AsyncIterable<Image> | Iterable<Image>) {
  const given = Object(images);
  if (typeof given[Symbol.asyncIterator] === 'function') {
    return (images as AsyncIterable<Image>)[Symbol.asyncIterator]();
  }
  if (typeof given[Symbol.iterator] === 'function') return (images as Iterable<Image>)[Symbol.iterator]();
  throw invalidArgument('images', 'an iterable of images', images);
}
