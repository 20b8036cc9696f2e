import { type ClassList, classList } from '../label-maps.js';
import type { Random } from '../random.js';
import { type Material, SceneCanvas, type Surface } from './canvas.js';

/** The classes of the generated street scenes and their colors. */
export const STREET_SCENES: ClassList = classList({
  road: 0x804080,
  sidewalk: 0xf423e8,
  building: 0x464646,
  fence: 0xbe9999,
  pole: 0x999999,
  'traffic sign': 0xdcdc00,
  vegetation: 0x6b8e23,
  sky: 0x4682b4,
  person: 0xdc143c,
  car: 0x00008e,
});

const classOf = (name: string): number => STREET_SCENES.names.indexOf(name);
const ROAD = classOf('road');
const SIDEWALK = classOf('sidewalk');
const BUILDING = classOf('building');
const FENCE = classOf('fence');
const POLE = classOf('pole');
const SIGN = classOf('traffic sign');
const VEGETATION = classOf('vegetation');
const SKY = classOf('sky');
const PERSON = classOf('person');
const CAR = classOf('car');

/** A street in front of the camera: the surface of each pixel, without colors. */
export interface Scene {
  canvas: SceneCanvas;
  /** Row of the horizon, in pixels from the top. */
  horizon: number;
  /** A flat pixel in row y is `groundScale` / (y − horizon) meters away. */
  groundScale: number;
}

/** Largest distance in meters. */
const FAR = 160;
/** Smallest distance at which something is drawn, in meters. */
const NEAR = 1;

/** A thing that stands on the ground. Things are drawn from far to near. */
interface Standing {
  z: number;
  draw(): void;
}

/**
 * Lays out a random street and projects it. Lengths are in meters: x to the right of the camera, y up from the ground,
 * z ahead. The focal length follows the height of the picture, so a wider picture shows more.
 */
export function buildScene(random: Random, width: number, height: number): Scene {
  return new StreetBuilder(random, width, height).build();
}

class StreetBuilder {
  readonly #random: Random;
  readonly #canvas: SceneCanvas;
  readonly #standing: Standing[] = [];
  readonly #cameraHeight: number;
  readonly #focal: number;
  readonly #vanishingX: number;
  readonly #horizon: number;

  constructor(random: Random, width: number, height: number) {
    this.#random = random;
    this.#canvas = new SceneCanvas(width, height);
    this.#cameraHeight = random.range(1.4, 2);
    this.#focal = height * random.range(0.85, 1.1);
    this.#vanishingX = width * random.range(0.38, 0.62);
    this.#horizon = height * random.range(0.36, 0.48);
  }

  build(): Scene {
    const random = this.#random;
    this.#backdrop();
    const left = { kerb: -random.range(3.2, 6.5), walk: random.range(1.8, 3.6) };
    const right = { kerb: random.range(3.2, 6.5), walk: random.range(1.8, 3.6) };
    this.#street(left.kerb, right.kerb, left.walk, right.walk);
    for (const side of [left, right]) this.#roadside(side.kerb, Math.sign(side.kerb) * side.walk);
    this.#traffic(left.kerb, right.kerb);
    this.#people(left, right);
    this.#standing.sort((one, other) => other.z - one.z);
    for (const thing of this.#standing) thing.draw();
    return {
      canvas: this.#canvas,
      horizon: this.#horizon,
      groundScale: this.#focal * this.#cameraHeight,
    };
  }

  #screenX(x: number, z: number): number {
    return this.#vanishingX + (this.#focal * x) / z;
  }

  #screenY(y: number, z: number): number {
    return this.#horizon + (this.#focal * (this.#cameraHeight - y)) / z;
  }

  #surface(
    classIndex: number,
    material: Material,
    distance: Surface['distance'],
    tone = this.#random.next(),
    shade = 1,
  ): number {
    return this.#canvas.add({ classIndex, material, distance, tone, shade });
  }

  /** Fills a patch of ground between two x and two z. */
  #flat(surface: number, x0: number, x1: number, z0: number, z1: number): void {
    const y0 = this.#screenY(0, z0);
    const y1 = this.#screenY(0, z1);
    this.#canvas.polygon(
      surface,
      ...[this.#screenX(x0, z0), y0, this.#screenX(x1, z0), y0],
      ...[this.#screenX(x1, z1), y1, this.#screenX(x0, z1), y1],
    );
  }

  /** Fills a wall along the street, at one x. */
  #alongWall(surface: number, x: number, z0: number, z1: number, y0: number, y1: number): void {
    const near = this.#screenX(x, z0);
    const far = this.#screenX(x, z1);
    this.#canvas.polygon(
      surface,
      ...[near, this.#screenY(y0, z0), near, this.#screenY(y1, z0)],
      ...[far, this.#screenY(y1, z1), far, this.#screenY(y0, z1)],
    );
  }

  /** Fills a wall that faces the camera, at one z. It is at least `least` pixels wide. */
  #facing(surface: number, x0: number, x1: number, y0: number, y1: number, z: number, least = 0): void {
    const one = this.#screenX(x0, z);
    const other = this.#screenX(x1, z);
    const middle = (one + other) / 2;
    const half = Math.max(Math.abs(other - one), least) / 2;
    this.#canvas.rectangle(surface, middle - half, this.#screenY(y1, z), middle + half, this.#screenY(y0, z));
  }

  #ball(surface: number, x: number, y: number, z: number, radiusX: number, radiusY = radiusX): void {
    const scale = this.#focal / z;
    this.#canvas.ellipse(surface, this.#screenX(x, z), this.#screenY(y, z), radiusX * scale, radiusY * scale);
  }

  /** Draws sky, clouds, the end of the street and the ground below everything else. */
  #backdrop(): void {
    const random = this.#random;
    const { width, height } = this.#canvas;
    this.#canvas.rectangle(this.#surface(SKY, 'sky', 0), 0, 0, width, height);
    for (let count = random.integer(6); count > 0; count--) {
      const cloud = this.#surface(SKY, 'cloud', 0);
      const x = random.range(0, width);
      const y = random.range(0, this.#horizon * 0.8);
      const size = height * random.range(0.03, 0.09);
      for (let puff = 0; puff < 4; puff++) {
        this.#canvas.ellipse(
          cloud,
          x + random.range(-2, 2) * size,
          y + random.range(-0.3, 0.3) * size,
          size * 1.6,
          size * 0.55,
        );
      }
    }
    for (let x = -200; x < 200; ) {
      const next = x + random.range(8, 30);
      const trees = random.next() < 0.4;
      const skyline = trees
        ? this.#surface(VEGETATION, 'foliage', FAR)
        : this.#surface(BUILDING, 'skyline', FAR);
      this.#facing(skyline, x, next, 0, trees ? random.range(5, 10) : random.range(8, 32), FAR);
      x = next;
    }
    const grass = this.#surface(VEGETATION, 'grass', 'ground');
    this.#canvas.rectangle(grass, 0, this.#screenY(0, FAR), width, height);
  }

  #street(left: number, right: number, leftWalk: number, rightWalk: number): void {
    const random = this.#random;
    const paving = this.#surface(SIDEWALK, 'paving', 'ground');
    this.#flat(paving, left - leftWalk, right + rightWalk, NEAR, FAR);
    this.#flat(this.#surface(SIDEWALK, 'kerb', 'ground'), left - 0.2, right + 0.2, NEAR, FAR);
    this.#flat(this.#surface(ROAD, 'asphalt', 'ground'), left, right, NEAR, FAR);

    const marking = this.#surface(ROAD, 'marking', 'ground');
    const middle = (left + right) / 2 + random.range(-0.5, 0.5);
    const dash = random.range(2, 4);
    for (let z = random.range(NEAR, NEAR + 2 * dash); z < 70; z += 2 * dash) {
      this.#flat(marking, middle - 0.09, middle + 0.09, z, z + dash);
    }
    if (random.next() < 0.6) {
      for (const x of [left + 0.35, right - 0.5]) this.#flat(marking, x, x + 0.15, NEAR, 80);
    }
    if (random.next() < 0.35) {
      const z = random.range(6, 20);
      for (let x = left + 0.4; x < right - 0.6; x += 1.1) this.#flat(marking, x, x + 0.55, z, z + 3);
    }
  }

  /** Lays out one side of the street: buildings and parks beyond the sidewalk, and trees, poles and fences on it. */
  #roadside(kerb: number, walk: number): void {
    const random = this.#random;
    const side = Math.sign(kerb);
    const edge = kerb + walk;
    const plots: { z0: number; z1: number; built: boolean }[] = [];
    for (let z0 = random.range(NEAR, 6); z0 < 110; ) {
      const z1 = z0 + random.range(8, 22);
      plots.push({ z0, z1, built: random.next() < 0.72 });
      z0 = z1;
    }
    for (const { z0, z1, built } of plots.reverse()) {
      if (built) this.#building(edge + side * random.range(0, 2), side, z0, z1);
      else this.#park(edge + side * 1.5, side, z0, z1);
      if (random.next() < (built ? 0.25 : 0.7)) this.#fence(edge, z0, z1);
    }

    const spacing = random.range(8, 16);
    if (random.next() < 0.6) {
      for (let z = random.range(4, 12); z < 80; z += spacing * random.range(0.8, 1.3)) {
        this.#tree(kerb + side * 0.9, z, random.range(0.8, 1.15));
      }
    }
    for (let z = random.range(4, 14); z < 90; z += random.range(14, 26)) this.#lamp(kerb, side, z);
    for (let z = random.range(4, 14); z < 60; z += random.range(10, 30)) this.#sign(kerb + side * 0.45, z);
    if (random.next() < 0.2) {
      const z0 = random.range(5, 20);
      this.#fence(kerb + side * 0.25, z0, z0 + random.range(8, 20));
    }
  }

  #building(x: number, side: number, z0: number, z1: number): void {
    const random = this.#random;
    const floors = 2 + random.integer(6);
    const floor = random.range(2.8, 3.4);
    const top = floors * floor + 0.8;
    const tone = random.next();
    const depth = side * random.range(9, 16);
    const middle = (z0 + z1) / 2;
    this.#facing(this.#surface(BUILDING, 'facade', z0, tone, 0.82), x, x + depth, 0, top, z0);
    this.#alongWall(this.#surface(BUILDING, 'facade', middle, tone, 1), x, z0, z1, 0, top);
    if (random.next() < 0.5) {
      this.#alongWall(this.#surface(BUILDING, 'shop', middle), x, z0 + 0.6, z1 - 0.6, 0.3, 2.4);
    }

    const panes = Array.from({ length: 4 }, () => this.#surface(BUILDING, 'window', middle));
    const pitch = random.range(2, 3.2);
    const paneWidth = pitch * random.range(0.4, 0.62);
    const paneHeight = random.range(1.3, 1.8);
    for (let level = 1; level < floors; level++) {
      const sill = level * floor + 0.7;
      for (let z = z0 + pitch * 0.4; z + paneWidth < z1; z += pitch) {
        this.#alongWall(panes[random.integer(4)]!, x, z, z + paneWidth, sill, sill + paneHeight);
      }
      for (let offset = pitch * 0.4; offset + paneWidth < Math.abs(depth); offset += pitch) {
        const pane = x + side * offset;
        this.#facing(panes[random.integer(4)]!, pane, pane + side * paneWidth, sill, sill + paneHeight, z0);
      }
    }
  }

  #park(x: number, side: number, z0: number, z1: number): void {
    const random = this.#random;
    const hedge = this.#surface(VEGETATION, 'foliage', z1);
    this.#facing(hedge, x, x + side * 40, 0, random.range(0.8, 2.2), z1);
    for (let count = 2 + random.integer(3); count > 0; count--) {
      this.#tree(x + side * random.range(1, 9), random.range(z0, z1), random.range(0.9, 1.5));
    }
  }

  #fence(x: number, z0: number, z1: number): void {
    const random = this.#random;
    const start = Math.max(z0, 2.5);
    const top = random.range(1, 1.6);
    const panel = this.#surface(FENCE, 'fence', (start + z1) / 2);
    const post = this.#surface(FENCE, 'post', (start + z1) / 2);
    const spacing = random.range(1.4, 2.4);
    // A fence consists of pieces, so that things between its ends are sorted correctly by distance.
    for (let z = start; z < z1; z += spacing) {
      const end = Math.min(z + spacing, z1);
      this.#stand(z, () => {
        this.#alongWall(panel, x, z, end, 0.08, top);
        this.#alongWall(post, x, z, z + 0.22, 0, top + 0.1);
      });
    }
  }

  #tree(x: number, z: number, scale: number): void {
    const random = this.#random;
    const trunk = this.#surface(VEGETATION, 'trunk', z);
    const tone = random.next();
    const dark = this.#surface(VEGETATION, 'foliage', z, tone, 0.82);
    const light = this.#surface(VEGETATION, 'foliage', z, tone, 1);
    const crown = random.range(3, 4.4) * scale;
    const puffs = Array.from({ length: 7 }, (_, index) => ({
      x: x + random.range(-1, 1) * scale,
      y: crown + random.range(-0.7, 1.3) * scale,
      radius: random.range(0.7, 1.3) * scale,
      surface: index < 4 ? dark : light,
    }));
    this.#stand(z, () => {
      this.#facing(trunk, x - 0.16, x + 0.16, 0, crown, z, 1.2);
      for (const puff of puffs) this.#ball(puff.surface, puff.x, puff.y, z, puff.radius);
    });
  }

  #lamp(kerb: number, side: number, z: number): void {
    const x = kerb + side * 0.5;
    const top = this.#random.range(5, 7);
    const pole = this.#surface(POLE, 'pole', z);
    const lamp = this.#surface(POLE, 'lamp', z);
    this.#stand(z, () => {
      this.#facing(pole, x - 0.1, x + 0.1, 0, top, z, 1.6);
      this.#facing(pole, x, x - side * 1.4, top - 0.12, top + 0.06, z);
      this.#ball(lamp, x - side * 1.4, top - 0.08, z, 0.38, 0.18);
    });
  }

  #sign(x: number, z: number): void {
    const random = this.#random;
    const pole = this.#surface(POLE, 'pole', z);
    const face = this.#surface(SIGN, random.next() < 0.85 ? 'sign' : 'sign-back', z);
    const bar = this.#surface(SIGN, 'sign', z, 0.99);
    const height = random.range(2.1, 2.7);
    const radius = random.range(0.36, 0.55);
    const shape = random.integer(3);
    this.#stand(z, () => {
      this.#facing(pole, x - 0.07, x + 0.07, 0, height, z, 1.3);
      const y = height + radius * 0.6;
      if (shape === 0) this.#ball(face, x, y, z, radius);
      else if (shape === 1) this.#facing(face, x - radius, x + radius, y - radius, y + radius, z);
      else {
        this.#canvas.polygon(
          face,
          ...[this.#screenX(x - radius * 1.2, z), this.#screenY(y - radius, z)],
          ...[this.#screenX(x + radius * 1.2, z), this.#screenY(y - radius, z)],
          ...[this.#screenX(x, z), this.#screenY(y + radius * 1.2, z)],
        );
      }
      if (shape === 0)
        this.#facing(bar, x - radius * 0.6, x + radius * 0.6, y - radius * 0.2, y + radius * 0.2, z);
    });
  }

  /** Places parked and moving cars. Cars on the left come toward the camera. */
  #traffic(left: number, right: number): void {
    const random = this.#random;
    for (const kerb of [left, right]) {
      const side = Math.sign(kerb);
      if (random.next() < 0.65) {
        for (let z = random.range(3, 12); z < 70; z += random.range(5.5, 14))
          this.#car(kerb - side * 1.15, z, side);
      }
      for (let z = random.range(7, 30); z < 90; z += random.range(12, 40)) {
        this.#car(kerb * random.range(0.3, 0.42), z, side);
      }
    }
  }

  #car(x: number, z: number, side: number): void {
    const random = this.#random;
    const van = random.next() < 0.18;
    const half = van ? 1 : random.range(0.82, 0.92);
    const belt = van ? 1.2 : random.range(0.85, 0.98);
    const roof = van ? random.range(2, 2.6) : belt + random.range(0.45, 0.58);
    const end = z + (van ? 5.2 : random.range(3.7, 4.4));
    const tone = random.next();
    const body = this.#surface(CAR, 'car-body', z, tone);
    const flank = this.#surface(CAR, 'car-body', z, tone, 0.8);
    const glass = this.#surface(CAR, 'car-glass', z);
    const tire = this.#surface(CAR, 'tire', z);
    const light = this.#surface(CAR, side < 0 ? 'headlight' : 'tail-light', z);
    const plate = this.#surface(CAR, 'tire', z);
    const shadow = this.#surface(ROAD, 'shadow', 'ground');
    // The flank that faces the middle of the view.
    const flankX = x - Math.sign(x) * half;
    this.#stand(z, () => {
      this.#flat(shadow, x - half * 1.1, x + half * 1.1, Math.max(NEAR, z - 0.35), end);
      if (Math.abs(x) > half) {
        this.#alongWall(flank, flankX, z, end, 0.3, belt);
        this.#alongWall(flank, flankX, z + 0.3, end - (van ? 0.2 : 1), belt, roof);
        this.#alongWall(glass, flankX, z + 0.6, end - (van ? 0.8 : 1.3), belt + 0.05, roof - 0.12);
        for (const wheel of [z + 0.5, end - 1.2]) this.#alongWall(tire, flankX, wheel, wheel + 0.65, 0, 0.6);
      }
      for (const wheel of [-1, 1]) {
        this.#facing(tire, x + wheel * half * 0.95, x + wheel * half * 0.62, 0, 0.4, z);
      }
      this.#facing(body, x - half, x + half, 0.28, belt, z);
      this.#trapezoid(body, x, half, half * (van ? 0.98 : 0.76), belt, roof, z);
      this.#trapezoid(glass, x, half * 0.88, half * (van ? 0.86 : 0.64), belt + 0.04, roof - 0.12, z);
      for (const lamp of [-1, 1]) {
        this.#facing(light, x + lamp * half * 0.95, x + lamp * half * 0.6, belt - 0.34, belt - 0.1, z);
      }
      this.#facing(plate, x - 0.28, x + 0.28, 0.34, 0.5, z);
    });
  }

  #trapezoid(
    surface: number,
    x: number,
    lower: number,
    upper: number,
    y0: number,
    y1: number,
    z: number,
  ): void {
    const bottom = this.#screenY(y0, z);
    const top = this.#screenY(y1, z);
    this.#canvas.polygon(
      surface,
      ...[this.#screenX(x - lower, z), bottom, this.#screenX(x + lower, z), bottom],
      ...[this.#screenX(x + upper, z), top, this.#screenX(x - upper, z), top],
    );
  }

  /** Places people on both sidewalks, and now and then one on the road. */
  #people(left: { kerb: number; walk: number }, right: { kerb: number; walk: number }): void {
    const random = this.#random;
    for (let count = 4 + random.integer(9); count > 0; count--) {
      const side = random.next() < 0.5 ? left : right;
      const beyond = Math.sign(side.kerb) * random.range(0.6, side.walk - 0.3);
      const x = random.next() < 0.85 ? side.kerb + beyond : random.range(left.kerb, right.kerb);
      this.#person(x, random.range(3.5, 8) + 22 * random.next() ** 2, random.range(0.85, 1.1));
    }
  }

  #person(x: number, z: number, scale: number): void {
    const random = this.#random;
    const shirt = this.#surface(PERSON, 'clothes', z);
    const trousers = this.#surface(PERSON, 'clothes', z, random.next(), 0.7);
    const skin = this.#surface(PERSON, 'skin', z);
    const stride = random.range(0.08, 0.24) * scale;
    const height = 1.75 * scale;
    this.#stand(z, () => {
      for (const leg of [-1, 1]) {
        const foot = x + leg * stride;
        this.#facing(trousers, foot - 0.09, foot + 0.09, 0, height * 0.5, z, 1);
      }
      this.#facing(shirt, x - 0.27 * scale, x + 0.27 * scale, height * 0.45, height * 0.8, z, 1.5);
      this.#ball(shirt, x, height * 0.74, z, 0.29 * scale, 0.2 * scale);
      this.#ball(skin, x, height * 0.91, z, 0.15 * scale, 0.17 * scale);
    });
  }

  #stand(z: number, draw: () => void): void {
    this.#standing.push({ z, draw });
  }
}
