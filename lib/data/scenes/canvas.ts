/** Material of a surface. Each look has its own paint for it. */
export type Material =
  | 'sky'
  | 'cloud'
  | 'asphalt'
  | 'shadow'
  | 'marking'
  | 'paving'
  | 'kerb'
  | 'grass'
  | 'facade'
  | 'skyline'
  | 'window'
  | 'shop'
  | 'foliage'
  | 'trunk'
  | 'fence'
  | 'post'
  | 'pole'
  | 'lamp'
  | 'sign'
  | 'sign-back'
  | 'car-body'
  | 'car-glass'
  | 'tire'
  | 'headlight'
  | 'tail-light'
  | 'skin'
  | 'clothes';

/** One painted thing: its class, its material and the values that a look needs to color it. */
export interface Surface {
  /** Index of its class, which is the label of its pixels. */
  readonly classIndex: number;
  readonly material: Material;
  /** Number in [0, 1) that picks one of the material's colors. It is the same in every look. */
  readonly tone: number;
  /** Brightness factor from its orientation, about 0.7–1. */
  readonly shade: number;
  /** Distance from the camera in meters, or 'ground' for flat surfaces, whose distance follows from the row. */
  readonly distance: number | 'ground';
}

/**
 * Raster that stores for each pixel which surface covers it. Shapes are given in pixel coordinates (x to the right, y
 * down). They cover the pixels whose centers lie inside. Later shapes hide earlier ones. There is no antialiasing, so
 * labels are exact.
 */
export class SceneCanvas {
  readonly width: number;
  readonly height: number;
  readonly surfaces: Surface[] = [];
  /** Index into `surfaces` of each pixel, [height, width]. */
  readonly surfaceAt: Uint16Array;

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
    this.surfaceAt = new Uint16Array(width * height);
  }

  /** Adds a surface and returns its index, with which shapes are filled. */
  add(surface: Surface): number {
    return this.surfaces.push(surface) - 1;
  }

  /** Fills a convex polygon. `corners` are x, y of each corner in turn. */
  polygon(surface: number, ...corners: number[]): void {
    let top = Infinity;
    let bottom = -Infinity;
    for (let index = 1; index < corners.length; index += 2) {
      top = Math.min(top, corners[index]!);
      bottom = Math.max(bottom, corners[index]!);
    }
    const lastRow = Math.min(this.height, Math.ceil(bottom - 0.5));
    for (let row = Math.max(0, Math.ceil(top - 0.5)); row < lastRow; row++) {
      const y = row + 0.5;
      let left = Infinity;
      let right = -Infinity;
      for (let index = 0; index < corners.length; index += 2) {
        const next = (index + 2) % corners.length;
        const y0 = corners[index + 1]!;
        const y1 = corners[next + 1]!;
        if (y0 <= y === y1 <= y) continue;
        const x = corners[index]! + ((corners[next]! - corners[index]!) * (y - y0)) / (y1 - y0);
        left = Math.min(left, x);
        right = Math.max(right, x);
      }
      this.#span(surface, row, left, right);
    }
  }

  /** Fills an axis-parallel rectangle. */
  rectangle(surface: number, left: number, top: number, right: number, bottom: number): void {
    const lastRow = Math.min(this.height, Math.ceil(bottom - 0.5));
    for (let row = Math.max(0, Math.ceil(top - 0.5)); row < lastRow; row++)
      this.#span(surface, row, left, right);
  }

  /** Fills an axis-parallel ellipse. */
  ellipse(surface: number, x: number, y: number, radiusX: number, radiusY: number): void {
    const lastRow = Math.min(this.height, Math.ceil(y + radiusY - 0.5));
    for (let row = Math.max(0, Math.ceil(y - radiusY - 0.5)); row < lastRow; row++) {
      const offset = (row + 0.5 - y) / radiusY;
      const half = radiusX * Math.sqrt(Math.max(0, 1 - offset * offset));
      this.#span(surface, row, x - half, x + half);
    }
  }

  #span(surface: number, row: number, left: number, right: number): void {
    const first = Math.max(0, Math.ceil(left - 0.5));
    const end = Math.min(this.width, Math.ceil(right - 0.5));
    if (end > first) this.surfaceAt.fill(surface, row * this.width + first, row * this.width + end);
  }
}
