import { z } from 'zod';
import { InvalidArgumentError } from '../support/errors.js';
import { choice, integer } from '../support/options.js';
import { checkInteger, invalidArgument } from '../support/validate.js';

/** The classes of a data set: their names in index order and their display colors. */
export interface ClassList {
  readonly names: readonly string[];
  /** Colors of the classes in index order, 3 bytes (R, G, B) each. */
  readonly palette: Uint8Array;
}

/** The 19 classes of Cityscapes' benchmark (train ids 0–18) in its own colors. GTA5 and SYNTHIA use them too. */
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

/** The 11 classes of CamVid's common reduced version, in their usual colors. */
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

/** Cityscapes train ids of the 16 classes that results for SYNTHIA are reported on. */
export const SYNTHIA_16_CLASSES: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18];

/** Cityscapes train ids of the 13 SYNTHIA classes: the 16 without wall, fence and pole. */
export const SYNTHIA_13_CLASSES: readonly number[] = [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18];

/** Subsets of Cityscapes' classes that results are reported on. */
export const CLASS_SUBSETS = { 'synthia-16': SYNTHIA_16_CLASSES, 'synthia-13': SYNTHIA_13_CLASSES } as const;
export type ClassSubset = keyof typeof CLASS_SUBSETS;

/**
 * Returns the indices of some classes among `names`. `classes` are names or a known subset of Cityscapes' classes.
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

// Label id of each train id 0 … 18, and pairs of SYNTHIA id and train id.
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

/** Names of the built-in label maps. */
export const LABEL_MAP_NAMES = ['identity', 'cityscapes', 'gta5', 'synthia', 'camvid'] as const;
export type LabelMapName = (typeof LABEL_MAP_NAMES)[number];

/** Entry of {@link LabelMap.table} for an id or color that the map does not know. */
export const UNKNOWN_ID = 0xffff;

/** Class of each label id 0–65535, such as `{ 7: 0 }`, or of each color, such as `{ '128 64 128': 0 }`. */
export type LabelTable = Readonly<Record<number, number>> | Readonly<Record<string, number>>;

/** Converts the ids or colors in label files to class indices. Make one with {@link labelMap}. */
export class LabelMap {
  /** Name of the map in error messages. */
  readonly name: string;
  /**
   * Place of the id in a file: its only channel, the first channel of 16-bit RGB (SYNTHIA), or the color as R · 2¹⁶ + G
   * · 2⁸ + B.
   */
  readonly idsFrom: 'one-channel' | 'first-channel' | 'color';
  /** Smallest class count that holds every class of this map. 256 for the identity. */
  readonly classCount: number;
  readonly #classes: ReadonlyMap<number, number> | 'identity';
  readonly #othersIgnored: boolean;
  readonly #tables = new Map<number, Uint16Array>();

  /**
   * @param options.classes class index of each known id. 'identity': every id is its own class
   * @param options.othersIgnored true: ids without a class are ignored. false: they are unknown
   * @param options.idsFrom place of the id in a file. Default 'one-channel'
   */
  constructor(options: {
    name: string;
    classes: ReadonlyMap<number, number> | 'identity';
    othersIgnored: boolean;
    idsFrom?: LabelMap['idsFrom'];
  }) {
    this.name = options.name;
    this.idsFrom = options.idsFrom ?? 'one-channel';
    this.#classes = options.classes;
    this.#othersIgnored = options.othersIgnored;
    this.classCount = options.classes === 'identity' ? 256 : Math.max(...options.classes.values()) + 1;
  }

  /**
   * Returns the lookup table for every 16-bit id, or every color. An entry is a class below `classCount`,
   * `ignoreIndex`, or 0xffff (unknown). The ignore index maps to itself as an id, unless the map gives that id a class.
   *
   * @throws {InvalidArgumentError} when the map yields classes ≥ `classCount`, other than the ignore index
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
      const isOfColors = this.idsFrom === 'color';
      const size = isOfColors ? 2 ** 24 : 2 ** 16;
      table = new Uint16Array(size).fill(this.#othersIgnored ? ignoreIndex : UNKNOWN_ID);
      if (!isOfColors) table[ignoreIndex] = ignoreIndex;
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
    idsFrom: 'first-channel',
  }),
  camvid: new LabelMap({
    name: 'camvid',
    classes: new Map(CAMVID.names.map((_, index) => [index, index])),
    othersIgnored: true,
  }),
};

/**
 * Returns a label map by name, or makes one from a table of ids or colors.
 *
 * - `'identity'`: files hold class indices. An id ≥ the class count that is not the ignore index is an error.
 * - `'cityscapes'`, `'gta5'`: label ids to the 19 train ids. All other ids are ignored.
 * - `'synthia'`: the same from the first channel of 16-bit RGB files.
 * - `'camvid'`: the class indices of the 11-class version. All other ids (11, void) are ignored.
 * - `{ id: class }`: ids 0–65535 to classes 0–255, or to the ignore index. An id that is neither a key nor the ignore
 *   index is an error.
 * - `{ 'R G B': class }`: colors of 0–255 each, separated by spaces or commas, to the same classes. A color that is not
 *   a key is an error.
 *
 * @throws {InvalidArgumentError} for an unknown name, an empty table, a mix of ids and colors, or an id, color or class
 * out of range
 */
export function labelMap(map: LabelMapName | LabelTable | LabelMap): LabelMap {
  if (map instanceof LabelMap) return map;
  if (typeof map === 'string' && Object.hasOwn(named, map)) return named[map];
  const keys = typeof map === 'object' && map !== null ? parseLabelKeys(Object.keys(map)) : undefined;
  if (!keys) {
    const names = LABEL_MAP_NAMES.map((name) => `'${name}'`).join(', ');
    throw invalidArgument(
      'labelMap',
      `one of ${names}, or a table of ids 0–65535 or of colors 'R G B' with their classes`,
      map,
    );
  }
  const classes = Object.entries(map).map(([key, value]) => checkInteger(`labelMap[${key}]`, value, 0, 255));
  return new LabelMap({
    name: 'custom',
    classes: new Map(keys.ids.map((id, index) => [id, classes[index]!])),
    othersIgnored: false,
    idsFrom: keys.idsFrom,
  });
}

/**
 * Parses the keys of a label table into ids. Returns undefined if there are none, if they mix ids and colors, or if two
 * are equal.
 */
export function parseLabelKeys(
  keys: readonly string[],
): { idsFrom: 'one-channel' | 'color'; ids: number[] } | undefined {
  if (keys.length === 0) return undefined;
  const ids = keys.map((key) => (/^\d{1,5}$/.test(key) ? Number(key) : Number.NaN));
  if (ids.every((id) => id <= 0xffff)) return areDifferent(ids) ? { idsFrom: 'one-channel', ids } : undefined;
  const colors = keys.map((key) => {
    const [, ...channels] = /^(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})$/.exec(key) ?? [];
    const [red, green, blue] = channels.map(Number);
    return channels.length === 3 && Math.max(red!, green!, blue!) <= 255
      ? red! * 2 ** 16 + green! * 2 ** 8 + blue!
      : Number.NaN;
  });
  const areColors = colors.every((color) => color >= 0) && areDifferent(colors);
  return areColors ? { idsFrom: 'color', ids: colors } : undefined;
}

const LABEL_MAP = `one of ${LABEL_MAP_NAMES.join(', ')}, or a table of label id (0 to 65535) or color (R G B): class index`;

/** Declares the option for a label map, by name or as a table. */
export const labelMapOption = () =>
  z.union(
    [
      choice(...LABEL_MAP_NAMES),
      z
        .record(z.string(), integer(0, 255), LABEL_MAP)
        .refine((map) => parseLabelKeys(Object.keys(map)) !== undefined, LABEL_MAP),
    ],
    LABEL_MAP,
  );

function areDifferent(ids: readonly number[]): boolean {
  return new Set(ids).size === ids.length;
}

/** Writes a packed color as 'R G B', the form of a label table's keys. */
export function colorText(color: number): string {
  return `${color >> 16} ${(color >> 8) & 0xff} ${color & 0xff}`;
}

/** Builds a {@link ClassList} from names and colors 0xRRGGBB. */
export function classList(colors: Readonly<Record<string, number>>): ClassList {
  return {
    names: Object.keys(colors),
    palette: Uint8Array.from(Object.values(colors).flatMap((color) => [color >> 16, color >> 8, color])),
  };
}
