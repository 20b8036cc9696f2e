import { native } from '../native/binding.js';
import { call } from '../native/native-object.js';
import { InvalidArgumentError } from '../support/errors.js';
import { checkBoolean, checkChoice, checkInteger, checkObject } from '../support/validate.js';
import {
  checkDevice,
  checkDtype,
  createFromFile,
  type FromFileOptions,
  type LoadOptions,
  type LoadReport,
  loadNetworks,
  Network,
  type NetworkDtype,
  type SaveOptions,
  saveNetworks,
} from './network.js';
import { sizeMultiple } from './size-multiple.js';

export interface TranslatorOptions {
  /**
   * `unpaired` (default): F and F⁻¹, ResNet generators as in CycleGAN. `paired`: F alone, the U-Net generator of pix2pix,
   * for training on pairs of images.
   */
  pairing?: 'unpaired' | 'paired';
  /** Unpaired: residual blocks of each generator; default 9. */
  blocks?: 6 | 9;
  /** Paired: how often the U-Net halves the image, 2 to 10; default 8. */
  depth?: number;
  /** Channels behind each generator's first convolution; default 64. */
  baseWidth?: number;
  /**
   * Unpaired: generators that learn what to change, for short trainings: y = tanh(f(x) + w·IN(x) + b), with IN(x) the image less
   * the mean of each channel and over its deviation, in place of y = tanh(f(x)). Details are there from the first step on, as
   * gray images; the light of the other domain is learned. Not in the paper. Default false.
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
  /** Default `source-to-target`, the only one of a paired translator. */
  direction?: 'source-to-target' | 'target-to-source';
  signal?: AbortSignal;
}

/**
 * F and F⁻¹ with the discriminators that train them; or, paired, F with its discriminator.
 *
 * The networks can be used one by one: generators map RGB in [-1, 1], [N, 3, H, W] with H and W multiples of
 * `sizeMultiple`, to the same; discriminators give one score per 70×70 patch.
 */
export class Translator implements Disposable {
  readonly options: Readonly<Required<TranslatorOptions>>;
  /** F: source → target. */
  readonly toTarget: Network;
  /** Judges target images against F(S); paired: given S, which stands before them, [N, 6, H, W]. */
  readonly targetDiscriminator: Network;
  readonly #backward: { toSource: Network; sourceDiscriminator: Network } | null;

  private constructor(
    options: Required<TranslatorOptions>,
    [toTarget, targetDiscriminator]: readonly [Network, Network],
    backward: readonly [Network, Network] | null,
  ) {
    this.options = options;
    this.toTarget = toTarget;
    this.targetDiscriminator = targetDiscriminator;
    this.#backward = backward && { toSource: backward[0], sourceDiscriminator: backward[1] };
  }

  /** F⁻¹: target → source. @throws InvalidArgumentError where the translator is paired and has none. */
  get toSource(): Network {
    return this.#unpaired().toSource;
  }

  /** Judges source images against F⁻¹(T). @throws InvalidArgumentError where the translator is paired and has none. */
  get sourceDiscriminator(): Network {
    return this.#unpaired().sourceDiscriminator;
  }

  /** What the sides of a training image have to be divisible by. */
  get sizeMultiple(): number {
    return sizeMultiple(this.options);
  }

  /** The networks with seeded initial weights. @throws InvalidArgumentError naming a bad option. */
  static async create(options: TranslatorOptions = {}): Promise<Translator> {
    return Translator.#create(options);
  }

  static async #create(options: TranslatorOptions, maxParameters?: number): Promise<Translator> {
    checkObject('options', options);
    const checked: Required<TranslatorOptions> = {
      pairing: checkChoice('pairing', options.pairing ?? 'unpaired', ['unpaired', 'paired']),
      blocks: checkInteger('blocks', options.blocks ?? 9, 1, 64) as 6 | 9,
      depth: checkInteger('depth', options.depth ?? 8, 2, 10),
      baseWidth: checkInteger('baseWidth', options.baseWidth ?? 64, 1, 512),
      residual: checkBoolean('residual', options.residual ?? false),
      discriminatorWidth: checkInteger('discriminatorWidth', options.discriminatorWidth ?? 64, 1, 512),
      seed: checkInteger('seed', options.seed ?? 1, 0),
      device: checkDevice(options.device),
      dtype: checkDtype(options.dtype),
    };
    const { pairing, blocks, depth, baseWidth, residual, discriminatorWidth } = checked;
    const { seed, device, dtype } = checked;
    // Seeds apart, so that F and F⁻¹ do not start as the same function.
    const create = (kind: string, shape: Record<string, unknown>, offset: number) =>
      createNetwork(kind, { ...shape, seed: seed * 4 + offset, device, dtype, maxParameters });
    const discriminator = (inputChannels: number, offset: number) =>
      create('patch-discriminator', { inputChannels, baseWidth: discriminatorWidth }, offset);
    if (pairing === 'paired') {
      const generator = create('unet-generator', { depth, baseWidth }, 0);
      return new Translator(checked, await Promise.all([generator, discriminator(6, 2)]), null);
    }
    const generator = (offset: number) => create('resnet-generator', { blocks, baseWidth, residual }, offset);
    const [toTarget, toSource, targetDiscriminator, sourceDiscriminator] = await Promise.all([
      generator(0),
      generator(1),
      discriminator(3, 2),
      discriminator(3, 3),
    ]);
    return new Translator(checked, [toTarget, targetDiscriminator], [toSource, sourceDiscriminator]);
  }

  /** The translator that a file written by save() belongs to, with the file's weights. */
  static async fromFile(file: string, options: FromFileOptions = {}): Promise<Translator> {
    const kind = { name: 'translator', architectures: ['translator'] };
    return createFromFile(file, options, kind, ({ options: shape }, { maxParameters, ...where }) =>
      Translator.#create({ ...(shape as TranslatorOptions), ...where }, maxParameters),
    );
  }

  /** Translates RGB images, [count, height, width, 3], into images of the same size. */
  async translate(images: Uint8Array, options: TranslateOptions): Promise<Uint8Array> {
    checkObject('options', options);
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

  /** Writes all networks into one safetensors file, to a temporary name that is then renamed. */
  async save(file: string, options: SaveOptions = {}): Promise<void> {
    const { pairing, blocks, depth, baseWidth, residual, discriminatorWidth } = this.options;
    const generator = pairing === 'paired' ? { pairing, depth } : { blocks, residual };
    const shape = { ...generator, baseWidth, discriminatorWidth };
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

  #unpaired() {
    if (this.#backward) return this.#backward;
    throw new InvalidArgumentError('Expected an unpaired translator but this one only leads to the target');
  }

  #named(): { prefix: string; network: Network }[] {
    const backward = this.#backward;
    return [
      { prefix: 'to_target.', network: this.toTarget },
      ...(backward ? [{ prefix: 'to_source.', network: backward.toSource }] : []),
      { prefix: 'target_discriminator.', network: this.targetDiscriminator },
      ...(backward ? [{ prefix: 'source_discriminator.', network: backward.sourceDiscriminator }] : []),
    ];
  }
}

async function createNetwork(kind: string, options: Record<string, unknown>): Promise<Network> {
  const handle = await call(() => native.createNetwork(kind, options));
  const { seed: _seed, device: _device, dtype: _dtype, maxParameters: _max, ...shape } = options;
  return new Network(handle, { architecture: kind, options: shape });
}
