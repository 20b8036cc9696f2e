import { native } from '../native/binding.js';
import type { NativeNetworkOptions } from '../native/binding-types.js';
import { requireDevice } from '../native/device.js';
import { call } from '../native/native-object.js';
import { InvalidArgumentError } from '../support/errors.js';
import { parseOptions } from '../support/options.js';
import { checkChoice, checkInteger, checkObject, checkPath } from '../support/validate.js';
import {
  createFromFile,
  type FromFileOptions,
  type LoadOptions,
  type LoadReport,
  loadNetworks,
  Network,
  type SaveOptions,
  saveNetworks,
} from './network.js';
import type { RenamedWeights } from './other-names.js';
import { openTranslator } from './translator-files.js';
import {
  type CompleteTranslatorOptions,
  sizeMultiple,
  type TranslatorOptions,
  translatorSchema,
} from './translator-options.js';

/** Options of {@link Translator.translate}. */
export interface TranslateOptions {
  /** Number of images, ≥ 1. */
  count: number;
  /** Width and height of each image in pixels, ≥ 5. */
  width: number;
  height: number;
  /** Direction. Default `source-to-target`, the only direction of a paired translator. */
  direction?: 'source-to-target' | 'target-to-source';
  signal?: AbortSignal;
}

/** Second file of a translator whose two generators have separate files, such as those of CycleGAN. */
export interface BackFile {
  /**
   * File of the generator from target to source, such as CycleGAN's `latest_net_G_B.pth`. The main file is then the
   * generator from source to target alone, such as `latest_net_G_A.pth`. Default: none.
   */
  back?: string | undefined;
}

/**
 * F and F⁻¹ with the discriminators that train them. A paired translator has only F and its discriminator.
 *
 * The networks can be used separately. Generators map RGB in [-1, 1], [N, 3, H, W], to the same, with H and W multiples
 * of `sizeMultiple`. Discriminators return one score per 70×70 patch.
 */
export class Translator implements Disposable {
  /** Options that the translator was created with, with defaults filled in. */
  readonly options: CompleteTranslatorOptions;
  /** Generator F: source → target. */
  readonly toTarget: Network;
  /**
   * Discriminator that compares target images with F(S). If paired, its input is [N, 6, H, W]: S, then the image to
   * judge.
   */
  readonly targetDiscriminator: Network;
  readonly #backward: { toSource: Network; sourceDiscriminator: Network } | null;

  private constructor(
    options: CompleteTranslatorOptions,
    [toTarget, targetDiscriminator]: readonly [Network, Network],
    backward: readonly [Network, Network] | null,
  ) {
    this.options = options;
    this.toTarget = toTarget;
    this.targetDiscriminator = targetDiscriminator;
    this.#backward = backward && { toSource: backward[0], sourceDiscriminator: backward[1] };
  }

  /**
   * Generator F⁻¹: target → source.
   *
   * @throws InvalidArgumentError for a paired translator and one from a file without F⁻¹
   */
  get toSource(): Network {
    return this.#unpaired().toSource;
  }

  /**
   * Discriminator that compares source images with F⁻¹(T). @throws InvalidArgumentError for a paired translator, which
   * has none
   */
  get sourceDiscriminator(): Network {
    return this.#unpaired().sourceDiscriminator;
  }

  /** Number that must divide the sides of a training image. */
  get sizeMultiple(): number {
    return sizeMultiple(this.options);
  }

  /** Creates the networks with seeded initial weights. @throws InvalidArgumentError that names a bad option */
  static async create(options: TranslatorOptions = {}): Promise<Translator> {
    return Translator.#create(options);
  }

  static async #create(
    options: TranslatorOptions,
    maxParameters?: number,
    hasWayBack = true,
  ): Promise<Translator> {
    const checked = parseOptions(translatorSchema, options);
    requireDevice(checked.device);
    const { pairing, blocks, depth, baseWidth, residual, upsampling, discriminatorWidth, device, dtype } =
      checked;
    // Different seeds, so that F and F⁻¹ do not start as the same function.
    const place = (offset: number) => ({ seed: checked.seed * 4 + offset, device, dtype, maxParameters });
    const discriminator = (inputChannels: number, offset: number) =>
      createNetwork('patch-discriminator', {
        ...{ inputChannels, baseWidth: discriminatorWidth },
        ...place(offset),
      });
    if (pairing === 'paired') {
      const generator = createNetwork('unet-generator', { depth, baseWidth, ...place(0) });
      return new Translator(checked, await Promise.all([generator, discriminator(6, 2)]), null);
    }
    const generator = (offset: number) =>
      createNetwork('resnet-generator', {
        ...{ blocks, baseWidth, residual, resizes: upsampling === 'resize' },
        ...place(offset),
      });
    if (!hasWayBack) {
      return new Translator(checked, await Promise.all([generator(0), discriminator(3, 2)]), null);
    }
    const [toTarget, toSource, targetDiscriminator, sourceDiscriminator] = await Promise.all([
      generator(0),
      generator(1),
      discriminator(3, 2),
      discriminator(3, 3),
    ]);
    return new Translator(checked, [toTarget, targetDiscriminator], [toSource, sourceDiscriminator]);
  }

  /**
   * Creates a translator from a file that save() wrote, with the file's weights. A file of one CycleGAN generator, such as
   * `latest_net_G_A.pth`, becomes a translator from source to target only, unless `back` names the other generator.
   *
   * @throws DataError when a file cannot be read or does not hold a translator
   */
  static async fromFile(file: string, options: FromFileOptions & BackFile = {}): Promise<Translator> {
    const kind = { name: 'translator', architectures: ['translator'] };
    const back = options?.back;
    return createFromFile(
      file,
      options,
      kind,
      ({ options: shape, missing = [] }, { maxParameters, ...where }) => {
        const given = { ...(shape as TranslatorOptions), ...where };
        return Translator.#create(given, maxParameters, !missing.includes('to_source'));
      },
      {
        open: async (name) => mergedWeights(await openTranslator(name, back)),
        load: (created, loadOptions) => created.load(file, { ...loadOptions, back }),
      },
    );
  }

  /**
   * Translates RGB images [count, height, width, 3] into images of the same size. A call does not wait for the end of a
   * training step, unless the step uses this translator.
   */
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

  /** Writes all networks into one safetensors file, whole or not at all. */
  async save(file: string, options: SaveOptions = {}): Promise<void> {
    const { pairing, blocks, depth, baseWidth, residual, upsampling, discriminatorWidth } = this.options;
    const generator = pairing === 'paired' ? { pairing, depth } : { blocks, residual, upsampling };
    const shape = { ...generator, baseWidth, discriminatorWidth };
    const lacksWayBack = pairing === 'unpaired' && this.#backward === null;
    const description = {
      ...{ architecture: 'translator', options: shape },
      ...(lacksWayBack && { missing: ['to_source', 'source_discriminator'] }),
    };
    await saveNetworks(file, description, this.#named(), options);
  }

  /**
   * Reads a file that save() wrote, like {@link Network.load}, or generators of CycleGAN. A file of one generator is the
   * generator to the target. Networks that the files lack keep their values, and the report lists them as missing.
   *
   * @throws DataError that names the file and the first few differences
   */
  async load(file: string, options: LoadOptions & BackFile = {}): Promise<LoadReport> {
    const { back, ...others } = checkObject('options', options);
    if (back !== undefined) checkPath('back', back);
    return loadNetworks(file, this.#named(), { architecture: 'translator', options: {} }, others, (fits) =>
      openTranslator(file, back, { strip: others.strip, fits }),
    );
  }

  /** Releases all networks. */
  dispose(): void {
    for (const { network } of this.#named()) network.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #unpaired() {
    if (this.#backward) return this.#backward;
    const reason = this.options.pairing === 'paired' ? 'is paired' : 'comes from a file with one generator';
    throw new InvalidArgumentError(`Expected a translator with both generators but this one ${reason}`);
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

/** Joins the tensors of all files, for code that only needs names and shapes. */
function mergedWeights([first, ...others]: RenamedWeights[]): RenamedWeights {
  return { ...first!, tensors: [first!, ...others].flatMap(({ tensors }) => tensors) };
}

async function createNetwork<Kind extends keyof NativeNetworkOptions>(
  kind: Kind,
  options: NativeNetworkOptions[Kind],
): Promise<Network> {
  const handle = await call(() => native.createNetwork(kind, options));
  const { seed: _seed, device: _device, dtype: _dtype, maxParameters: _max, ...shape } = options;
  return new Network(handle, { architecture: kind, options: shape });
}
