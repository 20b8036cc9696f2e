/** Limits on what an image file may make the reader allocate. */
export interface ImageLimits {
  /** Largest number of pixels, 1–2³². A larger image is rejected before decoding. Default {@link MAX_PIXELS}. */
  maxPixels?: number | undefined;
}

/** Options of the functions that decode bytes. */
export interface DecodeOptions extends ImageLimits {
  /** Name of the bytes in error messages, such as the file name of an upload. Default `image`. */
  name?: string | undefined;
}

/** Limit of pixels per image by default. A decoded image of this size takes 384 MiB. */
export const MAX_PIXELS = 2 ** 27;
