import type { Random } from '../random.js';
import type { Material, Surface } from './canvas.js';
import type { Scene } from './geometry.js';

/** Look of a street: a rendered day, or dusk through a cheap camera. */
export type SceneLook = 'day' | 'dusk';

type Color = readonly [red: number, green: number, blue: number];

interface Paint {
  /** Colors of the material. The tone of a surface selects one. */
  colors: readonly number[];
  /** Amplitude of the random texture, in gray levels. */
  texture?: number;
  /** Surfaces with tones below this glow and have a halo. Default 0: none. */
  glowing?: number;
}

/** Parameters of a look, after the variation between pictures is drawn. */
interface Light {
  paints: Record<Material, Paint>;
  /** Factor on each color channel. */
  tint: Color;
  zenith: Color;
  horizon: Color;
  /** Distance, in meters, at which haze takes about two thirds of a color. */
  visibility: number;
  /** Factor on all textures. */
  texture: number;
  /** Color difference between two things with the same paint, in gray levels. */
  variety: number;
  /** Standard deviation of the camera's noise, in gray levels. */
  noise: number;
  /** Share of light lost in the corners. */
  vignette: number;
  /** Number of times that the picture is blurred over 3×3 pixels. */
  blur: number;
  /** Strength of the halo around glowing surfaces. */
  halo: number;
}

const DAY: Record<Material, Paint> = {
  sky: { colors: [0x7fbcf0] },
  cloud: { colors: [0xf4f8fc, 0xe2ecf6] },
  asphalt: { colors: [0x7c7e82, 0x86868a, 0x727479], texture: 3 },
  shadow: { colors: [0x4c4e52] },
  marking: { colors: [0xf2f2ee] },
  paving: { colors: [0xc9bfb0, 0xbfb8ae, 0xd2c6b2], texture: 3 },
  kerb: { colors: [0xdad4ca] },
  grass: { colors: [0x7cb84a, 0x88be54], texture: 6 },
  facade: { colors: [0xe6d2a8, 0xc47a5c, 0xd8d0c4, 0xb4becc, 0xdca878, 0xc8a0a0], texture: 2 },
  skyline: { colors: [0xb8c4d2, 0xc4c0be] },
  window: { colors: [0x5c88ac, 0x6c9cc0, 0x507894, 0x84b0d0] },
  shop: { colors: [0x8c4a3c, 0x3c6c8c, 0x4c7c58, 0xa08040] },
  foliage: { colors: [0x4c9a38, 0x5cac40, 0x3c8a3c, 0x74b048], texture: 10 },
  trunk: { colors: [0x84603c] },
  fence: { colors: [0xb08050, 0x9c7048, 0xf0ece4], texture: 3 },
  post: { colors: [0x7c5834] },
  pole: { colors: [0x8c949c, 0x787f86] },
  lamp: { colors: [0xe8e8e0] },
  sign: { colors: [0xd82c24, 0x2458c8, 0xf4c820, 0xf8f8f8] },
  'sign-back': { colors: [0xa8aeb4] },
  'car-body': { colors: [0xd03028, 0x2850b8, 0xf0f0f0, 0x303238, 0xe0b020, 0xa8b0b8, 0x2c8c5c] },
  'car-glass': { colors: [0x38485c, 0x445870] },
  tire: { colors: [0x1c1c20] },
  headlight: { colors: [0xf8f4d8] },
  'tail-light': { colors: [0xa81818] },
  skin: { colors: [0xe8b890, 0xb07850, 0x784c34] },
  clothes: { colors: [0xe04848, 0x3868d0, 0xf0d048, 0x40a870, 0x9048b0, 0xf0f0f0, 0x383c48, 0xe88838] },
};

const DUSK: Record<Material, Paint> = {
  sky: { colors: [0x000000] },
  cloud: { colors: [0x6c4658, 0x9c5a50] },
  asphalt: { colors: [0x464e6c, 0x4e5474, 0x424a64], texture: 18 },
  shadow: { colors: [0x1c1e2c], texture: 8 },
  marking: { colors: [0xa49ca4], texture: 22 },
  paving: { colors: [0x7c6684, 0x846c7e, 0x746078], texture: 18 },
  kerb: { colors: [0x948498], texture: 14 },
  grass: { colors: [0x544c20, 0x5c5424], texture: 22 },
  facade: { colors: [0x80605c, 0x6c3c38, 0x74606c, 0x5c5670, 0x7c5448, 0x6c4850], texture: 14 },
  skyline: { colors: [0x66506a, 0x5c4c60] },
  window: { colors: [0xf8c468, 0x2c2840, 0x241f34, 0xe8a04c], glowing: 0.25 },
  shop: { colors: [0xe0b070, 0x3c3048, 0xd09060, 0x342838], texture: 16, glowing: 0.25 },
  foliage: { colors: [0x443c18, 0x4c401c, 0x3c381c, 0x584822], texture: 24 },
  trunk: { colors: [0x2c1e16], texture: 8 },
  fence: { colors: [0x70483c, 0x64423a, 0x948084], texture: 12 },
  post: { colors: [0x44302c] },
  pole: { colors: [0x282a34, 0x30303a] },
  lamp: { colors: [0xfff0c0], glowing: 1 },
  sign: { colors: [0xa42c30, 0x2c3c88, 0xb49034, 0xa8a0b0] },
  'sign-back': { colors: [0x504858] },
  'car-body': { colors: [0x601e2c, 0x222c58, 0x847e94, 0x14141e, 0x70542c, 0x545066, 0x1c3c3c] },
  'car-glass': { colors: [0x181828, 0x2c2838] },
  tire: { colors: [0x08080c] },
  headlight: { colors: [0xfffce8], glowing: 1 },
  'tail-light': { colors: [0xff3028], glowing: 1 },
  skin: { colors: [0x7c5650, 0x5c3c38, 0x3c2828] },
  clothes: { colors: [0x5c2434, 0x262e60, 0x7c6438, 0x244438, 0x44265c, 0x7c7488, 0x181a24, 0x70402c] },
};

// Zenith and horizon, from an ordinary sky to a rarer one.
const DAY_SKIES: readonly (readonly [number, number])[] = [
  [0x5ca4ec, 0xc4e2fa],
  [0x78b4f0, 0xdceefc],
  [0x90b8dc, 0xe4ecf2],
];
const DUSK_SKIES: readonly (readonly [number, number])[] = [
  [0x38305c, 0xf09048],
  [0x2c2850, 0xd86850],
  [0x48345c, 0xe8a868],
];

/** Colors a scene. Returns [height, width, 3]: R, G, B in 0–255. */
export function paintScene(scene: Scene, look: SceneLook, random: Random): Uint8Array {
  const light = look === 'day' ? dayLight(random) : duskLight(random);
  const { width, height } = scene.canvas;
  const { picture, glow } = shade(scene, light, random);
  if (light.halo > 0) addHalo(picture, glow, width, height, light.halo);
  for (let pass = 0; pass < light.blur; pass++) blur(picture, width, height, 1);
  return expose(picture, width, height, light, random);
}

function dayLight(random: Random): Light {
  const [zenith, horizon] = DAY_SKIES[random.integer(DAY_SKIES.length)]!;
  const level = random.range(0.92, 1.06);
  const warmth = random.range(-0.04, 0.04);
  return {
    paints: DAY,
    tint: [level * (1 + warmth), level, level * (1 - warmth)],
    zenith: rgb(zenith),
    horizon: rgb(horizon),
    visibility: random.range(300, 600),
    texture: 1,
    variety: 8,
    noise: 1.5,
    vignette: 0,
    blur: 0,
    halo: 0,
  };
}

function duskLight(random: Random): Light {
  const [zenith, horizon] = DUSK_SKIES[random.integer(DUSK_SKIES.length)]!;
  const level = random.range(0.85, 1.2);
  const warmth = random.range(-0.08, 0.1);
  return {
    paints: DUSK,
    tint: [level * (1 + warmth), level, level * (1 - warmth)],
    zenith: rgb(zenith),
    horizon: rgb(horizon),
    visibility: random.range(80, 150),
    texture: random.range(0.8, 1.2),
    variety: 10,
    noise: random.range(5, 8),
    vignette: random.range(0.2, 0.4),
    blur: 1,
    halo: random.range(0.5, 0.9),
  };
}

/** Computes the color of every pixel, and separately the light of glowing pixels, both [height, width, 3]. */
function shade(scene: Scene, light: Light, random: Random): { picture: Float32Array; glow: Float32Array } {
  const { canvas, horizon, groundScale } = scene;
  const { width, height, surfaces, surfaceAt } = canvas;
  const picture = new Float32Array(width * height * 3);
  const glow = new Float32Array(width * height * 3);
  const colors = surfaces.map((surface) => surfaceColor(surface, light, random));
  const textures = surfaces.map(({ material }) => (light.paints[material].texture ?? 0) * light.texture);
  const glowing = surfaces.map(({ material, tone }) => tone < (light.paints[material].glowing ?? 0));
  const hazes = surfaces.map(({ distance }) => (distance === 'ground' ? 0 : hazeAt(distance, light)));
  const grain = new Grain(random.integer(2 ** 31), Math.max(1, Math.round(height / 96)));

  for (let row = 0, pixel = 0; row < height; row++) {
    const sky = Math.min(1, (row + 0.5) / horizon);
    const groundHaze = hazeAt(groundScale / Math.max(0.5, row + 0.5 - horizon), light);
    for (let column = 0; column < width; column++, pixel++) {
      const index = surfaceAt[pixel]!;
      const surface = surfaces[index]!;
      const color = colors[index]!;
      const texture = textures[index]! === 0 ? 0 : textures[index]! * grain.at(column, row);
      const haze = surface.distance === 'ground' ? groundHaze : hazes[index]!;
      for (let channel = 0; channel < 3; channel++) {
        const far = light.horizon[channel]!;
        const target = pixel * 3 + channel;
        if (surface.material === 'sky') {
          const top = light.zenith[channel]!;
          picture[target] = top + (far - top) * sky * sky;
        } else {
          const near = color[channel]! + texture;
          picture[target] = near + (far - near) * haze;
        }
        if (glowing[index]) glow[target] = picture[target]!;
      }
    }
  }
  return { picture, glow };
}

function surfaceColor({ material, tone, shade }: Surface, light: Light, random: Random): Color {
  const { colors, glowing = 0 } = light.paints[material];
  const color = rgb(colors[Math.floor(tone * colors.length)]!);
  if (tone < glowing) return color;
  const offset = light.variety * random.range(-1, 1);
  const channel = (index: 0 | 1 | 2): number =>
    (color[index] + offset + light.variety * 0.4 * random.range(-1, 1)) * shade * light.tint[index];
  return [channel(0), channel(1), channel(2)];
}

function hazeAt(distance: number, light: Light): number {
  return 1 - Math.exp(-distance / light.visibility);
}

/** Reproducible random texture in [−1, 1], the sum of coarse, middle and fine grains. */
class Grain {
  readonly #seed: number;
  readonly #cell: number;

  constructor(seed: number, cell: number) {
    this.#seed = seed;
    this.#cell = cell;
  }

  at(column: number, row: number): number {
    const x = Math.floor(column / this.#cell);
    const y = Math.floor(row / this.#cell);
    return (
      this.#value(x, y) * 0.4 +
      this.#value(x >> 1, (y >> 1) + 4096) * 0.35 +
      this.#value(x >> 2, (y >> 2) + 8192) * 0.25
    );
  }

  #value(x: number, y: number): number {
    let hash = Math.imul(x, 0x27d4eb2d) ^ Math.imul(y, 0x165667b1) ^ this.#seed;
    hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
    hash ^= hash >>> 13;
    return (hash >>> 0) / 0x80000000 - 1;
  }
}

/** Adds the light that scatters in the lens: the glow, spread out. */
function addHalo(
  picture: Float32Array,
  glow: Float32Array,
  width: number,
  height: number,
  strength: number,
): void {
  const radius = Math.max(1, Math.round(height / 40));
  for (let pass = 0; pass < 2; pass++) blur(glow, width, height, radius);
  for (let index = 0; index < picture.length; index++) picture[index]! += strength * glow[index]!;
}

/** Computes the mean over (2·radius + 1)² pixels in place, [height, width, 3]. The border is repeated. */
function blur(picture: Float32Array, width: number, height: number, radius: number): void {
  for (let row = 0; row < height; row++) blurLine(picture, row * width * 3, 3, width, radius);
  for (let column = 0; column < width; column++) blurLine(picture, column * 3, width * 3, height, radius);
}

function blurLine(
  picture: Float32Array,
  start: number,
  stride: number,
  length: number,
  radius: number,
): void {
  const line = new Float32Array(length);
  const last = length - 1;
  for (let channel = 0; channel < 3; channel++) {
    const at = (index: number): number =>
      picture[start + channel + Math.min(last, Math.max(0, index)) * stride]!;
    let sum = 0;
    for (let index = -radius; index <= radius; index++) sum += at(index);
    for (let index = 0; index < length; index++) {
      line[index] = sum / (2 * radius + 1);
      sum += at(index + radius + 1) - at(index - radius);
    }
    for (let index = 0; index < length; index++) picture[start + channel + index * stride] = line[index]!;
  }
}

/** Simulates the camera: vignetting, noise and 8 bits. */
function expose(
  picture: Float32Array,
  width: number,
  height: number,
  light: Light,
  random: Random,
): Uint8Array {
  const image = new Uint8Array(picture.length);
  for (let row = 0, target = 0; row < height; row++) {
    const y = (2 * (row + 0.5)) / height - 1;
    for (let column = 0; column < width; column++) {
      const x = (2 * (column + 0.5)) / width - 1;
      const gain = 1 - (light.vignette * (x * x + y * y)) / 2;
      for (let channel = 0; channel < 3; channel++, target++) {
        // The sum of two uniform numbers is near enough to normal, and quick: its deviation is 1/√6.
        const noise = (random.next() + random.next() - 1) * 2.45 * light.noise;
        image[target] = Math.min(255, Math.max(0, Math.round(picture[target]! * gain + noise)));
      }
    }
  }
  return image;
}

function rgb(color: number): Color {
  return [color >> 16, (color >> 8) & 255, color & 255];
}
