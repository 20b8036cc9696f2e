import { CAMVID, CITYSCAPES, type ClassList } from '../data/label-maps.js';
import { STREET_SCENE_CLASSES, STREET_SCENE_PALETTE } from '../data/scenes/street-scenes.js';

/** Lists of classes that a config can name. */
export const CLASS_LISTS: Record<'cityscapes' | 'camvid' | 'street-scenes', ClassList> = {
  cityscapes: CITYSCAPES,
  camvid: CAMVID,
  'street-scenes': { names: STREET_SCENE_CLASSES, palette: STREET_SCENE_PALETTE },
};
