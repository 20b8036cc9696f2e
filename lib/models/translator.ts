import { native } from '../binding.js';
import { DataError } from '../errors.js';
import { call } from '../native-object.js';
import { checkBoolean, checkChoice, checkInteger, checkString } from '../validate.js';
import {
  checkDtype,
  type LoadOptions,
  type LoadReport,
  loadNetworks,
  Network,
  type NetworkDtype,
  readDescription,
  type SaveOptions,
  saveNetworks,
} from './network.js';

export interface TranslatorOptions {
  /** Residual blocks of each generator; default 9. */
  blocks?: 6 | 9;
  /** Channels behind each generator's first convolution; default 64. */
  baseWidth?: number;
  /**
   * Generators that learn what to change: y = tanh(f(x) + atanh(x)), the identity at first, in place of y = tanh(f(x)).
   * Not in the paper. Default false.
   */
  residual?: boolean;
  /** Channels behind each discriminator's first convolution; default 64. */
  discriminatorWidth?: number;
  /** Of the initial weights; default 1. */
  seed?: number;
  /** Default `cpu`. */
  device?: string;
  /** Default `float32`; see SegmenterOptions. */
  dtype?: NetworkDtype;
}

export interface TranslateOptions {
  /** How many images there are. */
  count: number;
  /** Of each image, in pixels; at least 5. */
  width: number;
  height: number;
  /** Default `source-to-target`. */
  direction?: 'source-to-target' | 'target-to-source';
  signal?: AbortSignal;
}

/**
 * F and F⁻¹ with the discriminators that train them.
 *
 * The four networks can be used one by one: generators map RGB in [-1, 1], [N, 3, H, W] with H and W multiples of 4, to
 * the same; discriminators ("critics") give one score per 70×70 patch.
 */
export class Translator implements Disposable {
  readonly options: Readonly<Required<TranslatorOptions>>;
  /** F: source → target. */
  readonly toTarget: Network;
  /** F⁻¹: target → source. */
  readonly toSource: Network;
  /** Judges target images against F(S). */
  readonly targetCritic: Network;
  /** Judges source images against F⁻¹(T). */
  readonly sourceCritic: Network;

  private constructor(options: Required<TranslatorOptions>, networks: [Network, Network, Network, Network]) {
    this.options = options;
    [this.toTarget, this.toSource, this.targetCritic, this.sourceCritic] = networks;
  }

  /** Four networks with seeded initial weights. @throws InvalidArgumentError naming a bad option. */
  static async create(options: TranslatorOptions = {}): Promise<Translator> {
    const checked: Required<TranslatorOptions> = {
      blocks: checkInteger('blocks', options.blocks ?? 9, 1, 64) as 6 | 9,
      baseWidth: checkInteger('baseWidth', options.baseWidth ?? 64, 1, 512),
      residual: checkBoolean('residual', options.residual ?? false),
      discriminatorWidth: checkInteger('discriminatorWidth', options.discriminatorWidth ?? 64, 1, 512),
      seed: checkInteger('seed', options.seed ?? 1, 0),
      device: checkString('device', options.device ?? 'cpu'),
      dtype: checkDtype(options.dtype),
    };
    const { blocks, baseWidth, residual, discriminatorWidth, seed, device, dtype } = checked;
    // Seeds apart, so that F and F⁻¹ do not start as the same function.
    const generator = (offset: number) =>
      createNetwork('resnet-generator', {
        blocks,
        baseWidth,
        residual,
        seed: seed * 4 + offset,
        device,
        dtype,
      });
    const critic = (offset: number) =>
      createNetwork('patch-discriminator', {
        baseWidth: discriminatorWidth,
        seed: seed * 4 + offset,
        device,
        dtype,
      });
    return new Translator(checked, await Promise.all([generator(0), generator(1), critic(2), critic(3)]));
  }

  /** The translator that a file written by save() belongs to, with the file's weights. */
  static async fromFile(
    file: string,
    options: { device?: string; dtype?: NetworkDtype; signal?: AbortSignal } = {},
  ): Promise<Translator> {
    const dtype = checkDtype(options.dtype);
    const { architecture, options: shape } = await readDescription(file);
    if (architecture !== 'translator') {
      throw new DataError(`${file} holds the weights of a ${architecture}, not of a translator`);
    }
    let translator: Translator;
    try {
      translator = await Translator.create({
        ...(shape as TranslatorOptions),
        device: options.device ?? 'cpu',
        dtype,
      });
    } catch (cause) {
      throw new DataError(`${file} describes no valid translator: ${(cause as Error).message}`, { cause });
    }
    try {
      await translator.load(file, options.signal && { signal: options.signal });
    } catch (error) {
      translator.dispose();
      throw error;
    }
    return translator;
  }

  /** Translates RGB images, [count, height, width, 3], into images of the same size. */
  async translate(images: Uint8Array, options: TranslateOptions): Promise<Uint8Array> {
    const direction = checkChoice('direction', options.direction ?? 'source-to-target', [
      'source-to-target',
      'target-to-source',
    ]);
    const job = {
      count: checkInteger('count', options.count, 1),
      width: checkInteger('width', options.width, 5),
      height: checkInteger('height', options.height, 5),
    };
    const { handle } = direction === 'source-to-target' ? this.toTarget : this.toSource;
    return call((token) => native.translate(handle, images, job, token), options.signal);
  }

  /** Writes all four networks into one safetensors file, to a temporary name that is then renamed. */
  async save(file: string, options: SaveOptions = {}): Promise<void> {
    const { blocks, baseWidth, residual, discriminatorWidth } = this.options;
    const shape = { blocks, baseWidth, residual, discriminatorWidth };
    await saveNetworks(file, { architecture: 'translator', options: shape }, this.#named(), options);
  }

  /** Reads what save() wrote; see Network.load(). @throws DataError naming the file and the first few differences. */
  async load(file: string, options: LoadOptions = {}): Promise<LoadReport> {
    return loadNetworks(file, this.#named(), options);
  }

  dispose(): void {
    for (const { network } of this.#named()) network.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #named(): { prefix: string; network: Network }[] {
    return [
      { prefix: 'to_target.', network: this.toTarget },
      { prefix: 'to_source.', network: this.toSource },
      { prefix: 'target_critic.', network: this.targetCritic },
      { prefix: 'source_critic.', network: this.sourceCritic },
    ];
  }
}

async function createNetwork(kind: string, options: Record<string, unknown>): Promise<Network> {
  const handle = await call(() => native.createNetwork(kind, options));
  const { seed: _seed, device: _device, dtype: _dtype, ...shape } = options;
  return new Network(handle, { architecture: kind, options: shape });
}
