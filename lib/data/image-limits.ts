/** What a file may ask for. */
export interface ImageLimits {
  /** An image of more pixels than this, 1–2³², is refused before any is decoded. Default {@link MAX_PIXELS}. */
  maxPixels?: number | undefined;
}

/** Larger images are refused unless asked for: decoded, they would take more than 384 MB each. */
export const MAX_PIXELS = 2 ** 27;
