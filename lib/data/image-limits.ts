/** Limits on what an image file may make the reader allocate. */
export interface ImageLimits {
  /** Largest number of pixels, 1–2³². A larger image is rejected before decoding. Default {@link MAX_PIXELS}. */
  maxPixels?: number | undefined;
}

/** Limit of pixels per image by default. A decoded image of this size takes 384 MiB. */
export const MAX_PIXELS = 2 ** 27;
