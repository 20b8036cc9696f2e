import { InvalidArgumentError } from '../errors.js';
import { checkInteger, invalidArgument } from '../validate.js';

/** The classes of one data set: their names in index order, and the colours they are drawn in (R, G, B each). */
export interface ClassList {
  readonly names: readonly string[];
  /** 3 bytes a class, in index order. */
  readonly palette: Uint8Array;
}

/** The 19 classes of Cityscapes' benchmark (train ids 0–18) in its own colours; GTA5 and SYNTHIA use them too. */
export const CITYSCAPES: ClassList = classList({
  road: 0x804080,
  sidewalk: 0xf423e8,
  building: 0x464646,
  wall: 0x66669c,
  fence: 0xbe9999,
  pole: 0x999999,
  'traffic light': 0xfaaa1e,
  'traffic sign': 0xdcdc00,
  vegetation: 0x6b8e23,
  terrain: 0x98fb98,
  sky: 0x4682b4,
  person: 0xdc143c,
  rider: 0xff0000,
  car: 0x00008e,
  truck: 0x000046,
  bus: 0x003c64,
  train: 0x005064,
  motorcycle: 0x0000e6,
  bicycle: 0x770b20,
});

/** The 11 classes of CamVid's common reduced version, in the colours it is usually drawn in. */
export const CAMVID: ClassList = classList({
  sky: 0x808080,
  building: 0x800000,
  pole: 0xc0c080,
  road: 0x804080,
  pavement: 0x3c28de,
  tree: 0x808000,
  sign: 0xc08080,
  fence: 0x404080,
  car: 0x400080,
  pedestrian: 0x404000,
  bicyclist: 0x0080c0,
});

/** The Cityscapes train ids on which results for SYNTHIA are reported: 16 classes, and 13 (no wall, fence, pole). */
export const SYNTHIA_16_CLASSES: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18];
export const SYNTHIA_13_CLASSES: readonly number[] = [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18];

/** Parts of Cityscapes' classes that results are reported on. */
export const CLASS_SUBSETS = { 'synthia-16': SYNTHIA_16_CLASSES, 'synthia-13': SYNTHIA_13_CLASSES } as const;
export type ClassSubset = keyof typeof CLASS_SUBSETS;

/**
 * The indices among `names` of some classes, given by their names or as a known part of Cityscapes' classes.
 *
 * @throws {InvalidArgumentError} when `names` lacks one of them
 */
export function classIndices(classes: ClassSubset | readonly string[], names: readonly string[]): number[] {
  const wanted =
    typeof classes === 'string' ? CLASS_SUBSETS[classes].map((index) => CITYSCAPES.names[index]!) : classes;
  return wanted.map((name) => {
    const index = names.indexOf(name);
    if (index < 0) {
      throw new InvalidArgumentError(`There is no class '${name}'; expected some of ${names.join(', ')}`);
    }
    return index;
  });
}

// Label id of each train id 0 … 18, and of each SYNTHIA id the train id.
const CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];
const SYNTHIA_TRAIN_IDS = [
  [3, 0],
  [4, 1],
  [2, 2],
  [21, 3],
  [5, 4],
  [7, 5],
  [15, 6],
  [9, 7],
  [6, 8],
  [16, 9],
  [1, 10],
  [10, 11],
  [17, 12],
  [8, 13],
  [18, 14],
  [19, 15],
  [20, 16],
  [12, 17],
  [11, 18],
] as const;

/** The label maps that have a name. */
export const LABEL_MAP_NAMES = ['identity', 'cityscapes', 'gta5', 'synthia', 'camvid'] as const;
export type LabelMapName = (typeof LABEL_MAP_NAMES)[number];

/** In a table of {@link LabelMap.table}: an id that the map does not know. */
export const UNKNOWN_ID = 0xffff;

/** How the ids that stand in label files become class indices. Make one with {@link labelMap}. */
export class LabelMap {
  /** What error messages call it. */
  readonly name: string;
  /** Whether files are 16-bit RGB with the id in the first channel (SYNTHIA) instead of one channel. */
  readonly firstOfThreeChannels: boolean;
  /** The smallest class count that holds every class this map can give; 256 for the identity. */
  readonly classCount: number;
  readonly #classes: ReadonlyMap<number, number> | 'identity';
  readonly #othersIgnored: boolean;
  readonly #tables = new Map<number, Uint16Array>();

  /**
   * @param options.classes class index of each known id; 'identity': every id is its own class
   * @param options.othersIgnored whether ids without a class mean "ignore"; otherwise they are unknown
   */
  constructor(options: {
    name: string;
    classes: ReadonlyMap<number, number> | 'identity';
    othersIgnored: boolean;
    firstOfThreeChannels?: boolean;
  }) {
    this.name = options.name;
    this.firstOfThreeChannels = options.firstOfThreeChannels ?? false;
    this.#classes = options.classes;
    this.#othersIgnored = options.othersIgnored;
    this.classCount = options.classes === 'identity' ? 256 : Math.max(...options.classes.values()) + 1;
  }

  /**
   * The lookup table for every 16-bit id: a class below `classCount`, or `ignoreIndex`, or {@link UNKNOWN_ID}.
   * The ignore index itself always stays what it is, unless the map gives that id a class.
   *
   * @throws {InvalidArgumentError} when the map gives classes beyond `classCount`, other than the ignore index
   */
  table(classCount: number, ignoreIndex: number): Uint16Array {
    checkInteger('classCount', classCount, 1, 256);
    checkInteger('ignoreIndex', ignoreIndex, 0, 255);
    if (this.#classes !== 'identity') {
      const highest = Math.max(...[...this.#classes.values()].filter((value) => value !== ignoreIndex));
      if (highest >= classCount) {
        throw new InvalidArgumentError(
          `The label map '${this.name}' gives classes up to ${highest}, but there are ${classCount} classes (0–${classCount - 1})`,
        );
      }
    }
    const key = classCount * 256 + ignoreIndex;
    let table = this.#tables.get(key);
    if (!table) {
      table = new Uint16Array(65536).fill(this.#othersIgnored ? ignoreIndex : UNKNOWN_ID);
      table[ignoreIndex] = ignoreIndex;
      if (this.#classes === 'identity') {
        for (let id = 0; id < classCount; id++) table[id] = id;
      } else {
        for (const [id, classIndex] of this.#classes) table[id] = classIndex;
      }
      this.#tables.set(key, table);
    }
    return table;
  }
}

const named: Record<LabelMapName, LabelMap> = {
  identity: new LabelMap({ name: 'identity', classes: 'identity', othersIgnored: false }),
  cityscapes: new LabelMap({
    name: 'cityscapes',
    classes: new Map(CITYSCAPES_IDS.map((id, trainId) => [id, trainId])),
    othersIgnored: true,
  }),
  gta5: new LabelMap({
    name: 'gta5',
    classes: new Map(CITYSCAPES_IDS.map((id, trainId) => [id, trainId])),
    othersIgnored: true,
  }),
  synthia: new LabelMap({
    name: 'synthia',
    classes: new Map(SYNTHIA_TRAIN_IDS),
    othersIgnored: true,
    firstOfThreeChannels: true,
  }),
  camvid: new LabelMap({
    name: 'camvid',
    classes: new Map(CAMVID.names.map((_, index) => [index, index])),
    othersIgnored: true,
  }),
};

/**
 * A label map by name, or from an object `{ id: class }`.
 *
 * - `'identity'`: the file holds class indices; an id ≥ the class count that is not the ignore index is an error.
 * - `'cityscapes'`, `'gta5'`: label ids to the 19 train ids; every other id is ignored.
 * - `'synthia'`: the same from the first channel of 16-bit RGB files.
 * - `'camvid'`: the class indices of its 11-class version; every other id (11, void) is ignored.
 * - an object: ids 0–65535 to classes 0–255, or to the ignore index; an id that is neither a key nor the ignore
 *   index is an error.
 *
 * @throws {InvalidArgumentError} for an unknown name, an empty object, or an id or class out of range
 */
export function labelMap(map: LabelMapName | Readonly<Record<number, number>> | LabelMap): LabelMap {
  if (map instanceof LabelMap) return map;
  if (typeof map === 'string' && Object.hasOwn(named, map)) return named[map];
  if (typeof map !== 'object' || map === null || Object.keys(map).length === 0) {
    const names = LABEL_MAP_NAMES.map((name) => `'${name}'`).join(', ');
    throw invalidArgument('labelMap', `one of ${names} or an object { id: class }`, map);
  }
  const classes = new Map<number, number>();
  for (const [key, classIndex] of Object.entries(map)) {
    const id = checkInteger('an id of labelMap', Number(key), 0, 65535);
    classes.set(id, checkInteger(`labelMap[${key}]`, classIndex, 0, 255));
  }
  return new LabelMap({ name: 'custom', classes, othersIgnored: false });
}

/** Builds a {@link ClassList} from names and colours 0xRRGGBB. */
export function classList(colors: Readonly<Record<string, number>>): ClassList {
  return {
    names: Object.keys(colors),
    palette: Uint8Array.from(Object.values(colors).flatMap((color) => [color >> 16, color >> 8, color])),
  };
}
